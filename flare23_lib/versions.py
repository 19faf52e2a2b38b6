"""Versions of the algorithms whose results are kept.

Each is part of the fingerprints of what the algorithm makes, and of the settings of the rules that run it. Raised, it
gives those files another place in the store and starts their jobs in the next run. Raise one when the same settings
and inputs would give something else; tests/unit/test_versions.py holds golden results that fail when one changes
without.
"""

SCAN = 6
"""What is read from a file of the cohort."""

INTENSITY = 1
"""Intensities drawn from an image and its labels."""

PREPROCESSED_IMAGE = 2
"""An image as trainings see it."""

PREPROCESSED_LABEL = 4
"""Labels as trainings see them."""

TRAINING = 2
"""A training's last weights."""

HIDDEN_LABELS = 2
"""How a training with label sets takes annotations that may cover other labels."""

SEGMENTATION = 4
"""A model's labels of an image."""

MERGE = 3
"""Original labels and pseudo-labels put together."""

SPECKS = 2
"""Components that are dropped from pseudo-labels."""

SPECK_VOTES = 1
"""How a merge with `min_agreement` takes the votes where components were dropped."""

EVALUATION = 2
"""Scores of a prediction."""

EFFICIENCY = 3
"""How a segmentation's time and memory are measured."""
