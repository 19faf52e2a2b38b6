"""Figures that README.md prints are those of the kept benchmarks."""

import string
from decimal import Decimal

import pytest
from places import REPOSITORY

from flare23_lib.io.atomic import read_json

README = " ".join((REPOSITORY / "README.md").read_text().split())

FOUR, EIGHT, SIXTEEN = (f"seeds.{number} fully labeled, 36 epochs" for number in (4, 8, 16))
NONE = "runs.seed 11, 0 fully labeled, 36 epochs.summary"
ONE = "runs.seed 11, 1 fully labeled.summary"
GLAND = "summary.arms"


def recovered(arm, seeds=""):
    """A cell of an arm: its DSC, its recovery and the interval of that, over seeds with 4 fully labeled CTs."""
    ends = " to ".join(f"{{{FOUR}.{arm}.recovery.interval.{end}:.2f}}" for end in (0, 1))
    return f"{{{FOUR}.{arm}.dsc.mean:.3f}} ({{{FOUR}.{arm}.recovery.mean:.2f}}; {ends}){seeds} |"


PRINTED = [
    ("recovery_real", f"| L | {{{FOUR}.lower.dsc.mean:.3f}} |"),
    ("recovery_real", f"a student | {{{FOUR}.chain.dsc.mean:.3f}} ({{{FOUR}.chain.recovery.mean:.2f}}) |"),
    ("recovery_real", f"`loss: label_sets` | {recovered('sets_soft', ', 4 seeds')}"),
    ("recovery_real", f"| the same, twice the iterations for the teacher | {recovered('sets_long_soft')}"),
    ("recovery_real", f"| the same, four times | {recovered('sets_longer_soft')}"),
    ("recovery_real", f"| U | {{{FOUR}.upper.dsc.mean:.3f}} |"),
    (
        "recovery_real",
        f"has {{{EIGHT}.sets_longer_soft.dsc.mean:.3f}} and {{{SIXTEEN}.sets_longer_soft.dsc.mean:.3f}} (recovery "
        f"{{{EIGHT}.sets_longer_soft.recovery.mean:.2f}} and {{{SIXTEEN}.sets_longer_soft.recovery.mean:.2f}}), the "
        f"chain {{{EIGHT}.chain.dsc.mean:.3f}} and {{{SIXTEEN}.chain.dsc.mean:.3f}}, "
        f"L {{{EIGHT}.lower.dsc.mean:.3f}} and {{{SIXTEEN}.lower.dsc.mean:.3f}} (3 seeds)",
    ),
    (
        "recovery_real",
        f"without any it has {{{NONE}.sets_longer_soft.dsc.value:.3f}}, the ordinary loss "
        f"{{{NONE}.background.dsc.value:.3f}}",
    ),
    ("recovery_btcv", f"1 seed | {{{ONE}.background.dsc.value:.3f}} ({{{ONE}.background.recovery.value:.2f}}) |"),
    ("recovery_btcv", f"| {{{ONE}.chain.dsc.value:.3f}} ({{{ONE}.chain.recovery.value:.2f}}) |"),
    ("recovery_btcv", f"4 seeds | {{{ONE}.sets_soft.dsc.value:.3f}} ({{{ONE}.sets_soft.recovery.value:.2f}}) |"),
    (
        "recovery_gland",
        f"| {{{GLAND}.student_long_soft_native.organs.mean:.3f}} "
        f"({{{GLAND}.student_long_soft_native.recovery.mean:.2f}}; "
        f"{{{GLAND}.student_long_soft_native.recovery.interval.0:.2f}} to "
        f"{{{GLAND}.student_long_soft_native.recovery.interval.1:.2f}}) |",
    ),
    (
        "recovery_gland",
        f"recovers {{{GLAND}.student_long_soft_native.recovery_native.mean:.2f}}; a student without native targets "
        f"recovers {{{GLAND}.student_long_soft.recovery.mean:.2f}}.",
    ),
    ("recovery_gland", f"| {{{GLAND}.labeled_only.organs.mean:.3f}} |"),
    ("recovery_gland", f"| {{{GLAND}.full_truth.organs.mean:.3f}} |"),
    ("recovery", "where it recovered {summary.arms.student.recovery.mean:.2f}."),
    (
        "demo",
        "The demo takes {as it is.seconds/60:.0f} minutes on 2 cores with AVX-512 BF16, "
        "{AVX2.seconds/60:.0f} with AVX2 (float32).",
    ),
    ("demo", "Its student finds {as it is.tumors_found} of the {as it is.tumors} tumors with the former and"),
    ("demo", "tumors with the former and {AVX2.tumors_found} with the latter"),
    ("shuffled_labels", "| a student trained on shuffled pseudo-labels | {DSC.shuffled.organs:.2f} |"),
    ("atlas_baseline", "| fixed positions and HU thresholds | {DSC.mean:.2f} |"),
    (
        "inference",
        "| nnU-Net's predictor | all, step 0.5 | float32 | {nnunet.seconds:.0f} s | {nnunet.peak_MB/1000:.1f} GB |",
    ),
    (
        "inference",
        "| float32 | {ours_all_windows_float32.seconds:.0f} s ({ours_all_windows_float32.ratio:.1f} times as fast) | "
        "{ours_all_windows_float32.peak_MB/1000:.1f} GB | {ours_all_windows_float32.dice_with_nnunet.least:.3f} to "
        "{ours_all_windows_float32.dice_with_nnunet.1:.3f} |",
    ),
    (
        "inference",
        "| bfloat16 | {ours_all_windows.seconds:.0f} s ({ours_all_windows.ratio:.1f} times) | "
        "{ours_all_windows.peak_MB/1000:.1f} GB | {ours_all_windows.dice_with_nnunet.least:.3f} to "
        "{ours_all_windows.dice_with_nnunet.1:.3f} |",
    ),
    (
        "inference",
        "| bfloat16 | {ours_deployed.seconds:.1f} s ({ours_deployed.ratio:.0f} times) | "
        "{ours_deployed.peak_MB/1000:.1f} GB | {ours_deployed.dice_with_nnunet.14:.2f} (tumor) to "
        "{ours_deployed.dice_with_nnunet.1:.2f} |",
    ),
    (
        "inference",
        "The windows alone take {ours_all_windows_float32.phases.windows:.0f} s here and "
        "{nnunet.phases.windows:.0f} s in nnU-Net",
    ),
    ("inference", "nnU-Net's default takes {nnunet.phases.resample+nnunet.phases.labels:.0f} s, the trilinear one"),
    (
        "inference",
        "the trilinear one here "
        "{ours_all_windows_float32.phases.resample+ours_all_windows_float32.phases.labels:.1f} s.",
    ),
    (
        "inference_labels",
        "({different} of 117 million voxels differ) | {seconds:.2f} s | {full_seconds:.1f} s |",
    ),
    (
        "evaluation",
        "a case of {case.shape.0}x{case.shape.1}x{case.shape.2}, {case.classes} classes, one core | "
        "{prediction.ours.total:.2f} s | official procedure: {prediction.official.total:.1f} s |",
    ),
    ("training", "training, STU-Net-S, float32 (bfloat16: {networks.0.ours_bfloat16.iterations_per_s:.3f});"),
    (
        "training",
        "| {networks.0.ours.iterations_per_s:.3f} iterations/s | nnU-Net's trainer, float32: "
        "{networks.0.stock.iterations_per_s:.3f} |",
    ),
    ("survival", "restart included (a checkpoint every second) | {seconds_lost_per_kill:.1f} s |"),
]
"""A benchmark, and a text with figures of its result; a path leads to each, `/` divides and `+` adds."""


class Filled(string.Formatter):
    def get_field(self, field_name, args, kwargs):
        places, _, divisor = field_name.partition("/")
        total = Decimal(0)
        for place in places.split("+"):
            value = kwargs
            for part in place.split("."):
                value = value[int(part) if isinstance(value, list) else part]
            total += Decimal(str(value))  # as it is written: 6.35 is 6.4
        return total / Decimal(divisor or 1), None


@pytest.mark.parametrize(("benchmark", "text"), PRINTED)
def test_readme_prints_what_was_measured(benchmark, text):
    result = read_json(REPOSITORY / "benchmarks/results" / f"{benchmark}.json")
    assert Filled().vformat(text, (), result) in README
