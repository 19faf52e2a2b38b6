"""FLARE23's cohort in figures."""

from __future__ import annotations

from collections.abc import Mapping

CASES: Mapping[str, int] = {"tumor": 1497, "all_organs": 250, "five_organs": 453, "unlabeled": 1800}
"""Training cases of each category of config.yaml."""
