"""Choices and file names that several parts share.

This module imports nothing heavy, so that `flare23 predict` starts fast.
"""

from pathlib import Path
from typing import Literal

OrientationMode = Literal["stored", "canonical"]
Windows = Literal["all", "body", "center_first"]
Precision = Literal["auto", "float32", "bfloat16", "float16"]
LabelKind = Literal["organ", "tumor"]
Scored = Literal["volume", "reference_slices"]
EvaluationMode = Literal["flare23", "plain"]
References = Literal["complete", "partial"]
OutputType = Literal["nifti", "dicom-seg", "rtstruct"]

MODEL_FILE = "model.json"
"""Describes the model in a bundle's folder."""

WEIGHTS_FILE = "model.safetensors"
"""Holds its weights."""

_PACKAGE = Path(__file__).resolve().parent
_HOLDER = _PACKAGE / "recipe" if (_PACKAGE / "recipe").exists() else _PACKAGE.parent

RECIPE = _HOLDER / "config.yaml"
"""The recipe: of the built package (setup.py), or of the repository that the package lies in."""

PRESETS = _HOLDER / "presets"
"""The presets, as `RECIPE`."""

SOURCE_PRESETS = PRESETS / "sources"
"""The presets of sources."""
