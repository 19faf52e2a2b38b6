"""The rules of a merge, as the configuration gives them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from flare23_lib.errors import MergeError

PASSES = "passes"
"""In the place of a completion's name: cases are left out by what changed between the teacher's mirrored passes."""

RULES = ("dropped_to", "tumor_inside_organs", "unmarked_tumors", "sure_from", "unsure_below")
"""The keys of a completion that say how a merge decides."""

CHOICES = {
    "dropped_to": ("background", "next_class", "ignore"),
    "tumor_inside_organs": ("keep_organ", "ignore", "tumor", "if_sure"),
    "unmarked_tumors": ("keep_original", "ignore", "tumor", "if_sure"),
}
"""The values that a rule can have."""


@dataclass(frozen=True)
class Rules:
    """How a merge decides where an original and a prediction meet; the defaults are the paper's.

    Attributes:
        tumors: label values that are tumors.
        dropped_to: what becomes of a voxel predicted as an annotated class outside the original.
        tumor_inside_organs: what becomes of a tumor predicted inside an annotated organ, in a case whose tumors are
            not annotated; "if_sure" makes it a tumor where the passes are sure of all of it, else it is ignored.
        unmarked_tumors: what becomes of a predicted tumor that touches no marked one, in a case whose tumors are
            annotated; with "keep_original" its voxels are decided one by one like all others.
        sure_from: share of the passes, averaged over a tumor's voxels, from which on they are sure.
        unsure_below: voxels without an original label are ignored where a smaller share of the passes agrees with
            their mean; 0 for never.
    """

    tumors: Collection[int] = ()
    dropped_to: str = "background"
    tumor_inside_organs: str = "keep_organ"
    unmarked_tumors: str = "keep_original"
    sure_from: float = 0.9
    unsure_below: float = 0.0

    @classmethod
    def of(cls, settings: Mapping[str, Any], tumors: Collection[int] = ()) -> Rules:
        """Pick the rules out of a completion's row or settings."""
        return cls(tumors=tuple(tumors), **{name: settings[name] for name in RULES})

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise MergeError(f"{name} {getattr(self, name)!r} is not one of {', '.join(choices)}")

    @property
    def need_votes(self) -> bool:
        """Whether a merge needs to know how many passes agree at each voxel."""
        return self.unsure_below > 0 or "if_sure" in (self.tumor_inside_organs, self.unmarked_tumors)

    @property
    def may_ignore(self) -> bool:
        """Whether a merge may give voxels to be ignored."""
        choices = (self.dropped_to, self.tumor_inside_organs, self.unmarked_tumors)
        return self.unsure_below > 0 or bool({"ignore", "if_sure"} & set(choices))
