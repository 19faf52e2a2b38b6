#!/usr/bin/env bash
# Fetches what benchmarks/gpu.sh needs on a machine that has PyTorch and the usual scientific packages and reaches no
# package index. They are the wheels of a few packages, at the versions of constraints.txt: about 30 MB.
#
#   benchmarks/gpu_wheels.sh [FOLDER]       build/wheels, which git ignores, unless another folder is given
#
# Left out are SimpleITK, imagecodecs and graphviz: nnU-Net lists them (150 MB), and nothing that runs here uses them.
# PYTHON_VERSION is the other machine's Python (3.12), PYTHON the one whose pip fetches them (python3).
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-build/wheels}
version=${PYTHON_VERSION:-3.12}
python=${PYTHON:-python3}

compiled=(blosc2 connected-components-3d isal ndindex numexpr psutil rpds-py)
pure=(acvl_utils batchgenerators batchgeneratorsv2 dynamic_network_architectures jsonschema
  jsonschema-specifications nibabel nnunetv2 referencing)

options=(--quiet --disable-pip-version-check --no-deps --constraint constraints.txt)
platforms=()
for name in manylinux_2_28 manylinux_2_27 manylinux_2_26 manylinux_2_24 manylinux_2_17 manylinux2014; do
  platforms+=(--platform "${name}_x86_64")
done
mkdir -p "$folder"
"$python" -m pip download "${options[@]}" --only-binary=:all: --implementation cp --python-version "$version" \
  "${platforms[@]}" --dest "$folder" "${compiled[@]}"
"$python" -m pip wheel "${options[@]}" --wheel-dir "$folder" "${pure[@]}"
ls -l "$folder"
