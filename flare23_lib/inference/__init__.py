"""The inference engine: one for teachers and student, for the workflow and for `flare23 predict`.

It needs torch, numpy, nibabel, isal and safetensors; nnU-Net, SimpleITK and pandas are not imported.
"""
