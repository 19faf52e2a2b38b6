"""Published figures that ours are shown beside. Scores in percent, memory in MB, time in seconds.

Sources: Huang et al.'s paper on the third-placed FLARE23 solution (abstract, Tables 6, 8 and 9), and the pages of the
repositories that are named. Only figures that name what they are of are here: the paper's scores of single classes
are not.
"""

from __future__ import annotations

from dataclasses import dataclass

from flare23_lib.labels import LabelMap

ORGANS = (
    "liver",
    "right_kidney",
    "spleen",
    "pancreas",
    "aorta",
    "inferior_vena_cava",
    "right_adrenal_gland",
    "left_adrenal_gland",
    "gallbladder",
    "esophagus",
    "stomach",
    "duodenum",
    "left_kidney",
)
"""The classes that the published organ scores are means of."""

TUMOR = "tumor"

TOLERANCES_MM = dict(zip(ORGANS, (5, 3, 3, 5, 2, 2, 2, 2, 2, 3, 5, 7, 3), strict=True)) | {TUMOR: 2}
"""The challenge's tolerances of the NSD, in the order of `ORGANS` (its evaluation script)."""


@dataclass(frozen=True)
class Published:
    """One system's published result; None for what is not published.

    Attributes:
        name: who.
        cases: what it was measured on, as the source says.
        organ_dsc: mean of the organs' DSC in percent.
        organ_nsd: likewise NSD.
        tumor_dsc: DSC of tumors in percent.
        tumor_nsd: likewise NSD.
        seconds: mean wall time of a case.
        gpu_area: mean area under the GPU memory-time curve in MB s.
        note: what goes with the figures.
    """

    name: str
    cases: str
    organ_dsc: float
    organ_nsd: float | None
    tumor_dsc: float | None
    tumor_nsd: float | None
    seconds: float | None = None
    gpu_area: float | None = None
    note: str = ""


PAPER_VALIDATION = Published(
    "paper (Huang et al.)", "FLARE23 online validation", 89.63, 96.46, 46.07, 39.17, seconds=16.1
)
PAPER_TEST = Published(
    "paper (Huang et al.), FLARE23 3rd",
    "FLARE23 test",
    89.98,
    96.53,
    62.61,
    52.15,
    seconds=12.02,
    gpu_area=12033,
    note="peak 2.8 to 3.4 GB",
)

RESULTS = (
    PAPER_TEST,
    PAPER_VALIDATION,
    Published("FLARE23 1st (Shenzhen-Yorktal/flare23)", "not stated", 92.11, 95.89, 64.67, 54.32),
    Published("FLARE23 2nd (luckieucas/FLARE23)", "not stated", 92.18, 96.33, 46.26, 38.65),
    Published(
        "lyupengju/Flare23",
        "FLARE23 online validation",
        89.84,
        None,
        50.26,
        None,
        seconds=18,
        note="a case of 512x512x215, under 2 GB",
    ),
    Published("FLARE25 task 2", "FLARE25", 89.12, 95.18, None, None, seconds=19.3, note="on a CPU"),
)


@dataclass(frozen=True)
class Range:
    """Least and largest value over the cases of the paper's Table 8."""

    low: float
    high: float


EFFICIENCY_MACHINE = "Quadro RTX5000"
EFFICIENCY = {"seconds": Range(13, 29), "gpu_peak": Range(2836, 3394), "gpu_area": Range(14975, 23825)}
"""The paper's Table 8: wall time, peak and area of GPU memory over its cases."""


def organs_match(labels: LabelMap) -> bool:
    """Tell whether the organs are the published ones, so that their mean means the same."""
    return sorted(label.name for label in labels.organs) == sorted(ORGANS)


def tumor_matches(labels: LabelMap) -> bool:
    """Tell whether the map has the published tumor class."""
    return TUMOR in [label.name for label in labels.tumors]
