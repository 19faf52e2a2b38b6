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

RECIPE = Path(__file__).parent / "config" / "recipe.yaml"
"""A copy of the repository's config.yaml, as a part of the package."""
