"""Values that settings can have, for the configuration that offers them and for the code that acts on them.

This module imports nothing heavy, so that `flare23 predict` starts fast.
"""

from typing import Literal

OrientationMode = Literal["stored", "canonical"]
Windows = Literal["all", "body", "center_first"]
Precision = Literal["auto", "float32", "bfloat16", "float16"]
LabelKind = Literal["organ", "tumor"]
Scored = Literal["volume", "reference_slices"]
EvaluationMode = Literal["flare23", "plain"]
References = Literal["complete", "partial"]
