import os
import re
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from cohorts import changed
from places import BASE_CONFIG, RECIPE, REPOSITORY, rules

from flare23_lib import cli
from flare23_lib.cache.results import Results
from flare23_lib.config import Config
from flare23_lib.config.training_models import InferenceSettings
from flare23_lib.dataset import flare23
from flare23_lib.dataset.cases import Case, write_cases
from flare23_lib.errors import CohortError, ConfigError, StoreError
from flare23_lib.estimate import (
    CORE,
    DISK,
    FIGURES,
    GPU,
    SEGMENTATION_CORES,
    SHAPE,
    SPACING,
    TRAINING_CORES,
    epoch_macs,
    estimate,
    flare23_sizes,
    measured_figures,
    network_figure,
    patch_macs,
    sizes_of_cases,
    window_count,
    window_macs,
)
from flare23_lib.inference.segmentations import model_digest, segmentation_folder
from flare23_lib.inference.windows import pad_to_patch, window_slices, window_starts
from flare23_lib.io.atomic import read_json, write_json
from flare23_lib.io.tables import read_csv
from flare23_lib.networks import STUNetArchitecture
from flare23_lib.networks.size import parameters
from flare23_lib.networks.stunet import STUNet
from flare23_lib.nnunet import train
from flare23_lib.preprocessing.resampling import resampled_shape

FACTS = Path(os.environ.get("FLARE23_FACTS", REPOSITORY.parent / "shared" / "facts"))
GEOMETRY = FACTS / "flare23_geometry.csv"

MODEL = {
    "network": {"depth": [1, 1, 1], "widths": [4, 8, 8]},
    "patch_size": [8, 16, 16],
    "intensity": {"low": -1000, "high": 1000, "mean": 0, "std": 100},
    "spacing": [4, 2, 2],
    "strides": [[1, 1, 1], [2, 2, 2], [1, 2, 2]],
    "training": {
        "epochs": 10, "iterations_per_epoch": 5, "validation_iterations": 1, "batch_size": 2, "mirror_axes": [1, 2],
    },
    "inference": {"tile_step_size": 0.5, "tta": True, "precision": "float32"},
}  # fmt: skip
MACS = 6_225_920
"""Of MODEL with 15 classes, added up by hand, level by level:
2048 x (544 + 1328 + 60) + 256 x (2624 + 5312 + 32) + 64 x (3520 + 64)."""

TINY = {
    "completions": {"unlabeled": {"category": "unlabeled", "teacher": "teacher"}},
    "models": {
        "teacher": {**MODEL, "train_on": {"manual_labels": ["all_organs"]}},
        "student": {
            **MODEL, "evaluate": True,
            "train_on": {"manual_labels": ["all_organs"], "label_completions": ["unlabeled"]},
        },
    },
}  # fmt: skip

A = (10, 32, 32), (4.0, 2.0, 2.0)  # stays; 2 x 3 x 3 windows
B = (20, 16, 16), (2.0, 2.0, 2.0)  # becomes 10 x 16 x 16; 2 x 1 x 1 windows
C = (4, 64, 64), (4.0, 1.0, 1.0)  # becomes 4 x 32 x 32, padded to 8 slices; 1 x 3 x 3 windows


def case(name, size, category="", split="training", label=None, status="ok"):
    image = f"{name}_0000.nii.gz"
    return Case(name, image, label, split, {1: 1} if label else {}, category, *size, status)


CASES = [
    case("a", A, "all_organs", label="a.nii.gz"),
    case("u1", B, "unlabeled"),
    case("u2", C, "unlabeled"),
    case("broken", C, "unlabeled", status="quarantined"),
    case("v1", A, split="validation", label="v1.nii.gz"),
    case("v2", B, split="validation"),
]


def tiny_config(**overrides):
    recipe = yaml.safe_load(RECIPE.read_text())
    shared = {key: recipe[key] for key in ("cohort", "results", "sources", "labels", "categories")}
    return Config.check(shared | TINY | overrides)


def rows(config, cases=CASES, figures=FIGURES):
    """Return the rows of an estimate by stage and model or completion."""
    table = estimate(config, sizes_of_cases(cases), figures)
    return {(row.stage, row.of): row for row in table.itertuples()}


def hours(**amounts):
    return sum(amount / FIGURES[name][1] for name, amount in amounts.items()) / 3600


def gb(**amounts):
    return sum(amount * FIGURES[name][1] for name, amount in amounts.items()) / 1e9


# The network


@pytest.mark.parametrize(
    "spec",
    [
        {"depth": [1, 1], "widths": [4, 8]},
        {"depth": [1, 2, 3], "widths": [3, 5, 4], "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 1]]},
        {"depth": [2, 1], "widths": [4, 6], "kernel_sizes": [[1, 3, 3], [3, 5, 3]]},
    ],
)
def test_the_size_is_that_of_the_network_itself(spec):
    network, classes = STUNetArchitecture.of(**spec), 5
    model = STUNet(1, classes, **network.to_json())
    assert parameters(network, classes) == sum(weight.numel() for weight in model.parameters())


def test_a_networks_work_is_what_one_counts_by_hand():
    assert patch_macs(tiny_config().training_settings("teacher")) == MACS


# Amounts and costs


@pytest.mark.parametrize(("size", "windows"), [(A, 18), (B, 2), (C, 9)])
def test_windows_are_counted_as_the_engine_lays_them(size, windows):
    settings = changed(tiny_config().training_settings("teacher"), spacing=[4, 2, 2], patch_size=[8, 16, 16])
    assert window_count(sizes_of_cases([case("x", size)]), settings, InferenceSettings(tile_step_size=0.5)) == windows
    padded, _ = pad_to_patch(torch.zeros(resampled_shape(*size, (4, 2, 2))), (8, 16, 16))
    assert len(window_slices(window_starts(padded.shape, (8, 16, 16), 0.5), (8, 16, 16))) == windows


def test_mirroring_doubles_the_passes_per_axis():
    settings = tiny_config().training_settings("teacher")
    assert window_macs(settings, InferenceSettings(tta=True)) == 4 * MACS
    assert window_macs(settings, InferenceSettings(tta=False)) == MACS


def test_a_tiny_run_costs_what_one_counts_by_hand():
    found = rows(tiny_config())

    pseudo = found["pseudo-labels", "unlabeled"]
    assert (pseudo.cases, pseudo.windows) == (2, 2 + 9)
    gpu = hours(gpu_float32=11 * 4 * MACS)
    assert pseudo.gpu_hours == pytest.approx(gpu)
    voxels = 20 * 16 * 16 + 4 * 64 * 64
    assert pseudo.core_hours == pytest.approx(hours(segment_files=voxels, complete=voxels) + SEGMENTATION_CORES * gpu)
    assert pseudo.disk_gb == pytest.approx(gb(written_labels=2 * voxels))

    trained = found["training", "student"]
    gpu = hours(gpu_16bit_small=10 * (3 * 5 + 1) * 2 * MACS)
    assert (trained.cases, trained.windows) == (3, 0)
    assert trained.gpu_hours == pytest.approx(gpu)
    assert trained.core_hours == pytest.approx(TRAINING_CORES * gpu)
    numbers = parameters(STUNetArchitecture.of(**MODEL["network"], strides=MODEL["strides"]), 15)
    assert trained.disk_gb == pytest.approx(4 * numbers * 4 / 1e9)

    predicted = found["predictions", "student"]
    assert (predicted.cases, predicted.windows) == (2, 18 + 2)
    assert predicted.disk_gb == pytest.approx(gb(written_labels=10 * 32 * 32 + 20 * 16 * 16))
    assert found["evaluation", "student"].cases == 1
    assert found["evaluation", "student"].core_hours == pytest.approx(hours(evaluate=10 * 32 * 32))

    read = found["scan", ""]
    assert read.cases == 5
    images, labels = 2 * 10 * 32 * 32 + 2 * 20 * 16 * 16 + 4 * 64 * 64, 2 * 10 * 32 * 32
    assert read.core_hours == pytest.approx(hours(scan_images=images, scan_labels=labels))

    total = found["total", ""]
    assert pd.isna(total.cases)
    assert total.windows == 11 + 20
    for name in (DISK, GPU, CORE):
        assert getattr(total, name) == pytest.approx(sum(getattr(row, name) for row in found.values()) / 2)


def test_preprocessing_costs_what_one_counts_by_hand():
    found = rows(tiny_config())["preprocessing", "teacher"]
    voxels = 10 * 32 * 32  # stored and resampled alike
    amounts = {
        f"preprocess_{what}_{when}": voxels for what in ("images", "labels") for when in ("stored", "resampled")
    }
    assert found.core_hours == pytest.approx(hours(**amounts))
    assert found.disk_gb == pytest.approx(gb(preprocessed_images=voxels, preprocessed_labels=voxels, locations=15))


def test_images_and_labels_are_preprocessed_once_and_shared():
    found = rows(tiny_config())
    assert [found["preprocessing", name].cases for name in ("teacher", "student")] == [1, 2]


def test_another_intensity_makes_other_images_and_the_same_labels():
    intensity = {"low": 0, "high": 1, "mean": 0, "std": 1}
    other = tiny_config(models=TINY["models"] | {"student": TINY["models"]["student"] | {"intensity": intensity}})
    before, after = (rows(which)["preprocessing", "student"] for which in (tiny_config(), other))
    assert (before.cases, after.cases) == (2, 3)
    assert after.disk_gb - before.disk_gb == pytest.approx(gb(preprocessed_images=10 * 32 * 32))


def test_completions_that_share_a_segmentation_count_it_once():
    tables = {"one": {}, "other": {"conflict_policy": "ignore"}, "soft": {"soft": True}}
    shared = {"category": "all_organs", "teacher": "teacher"}
    models = TINY["models"] | {"student": TINY["models"]["student"] | {"train_on": {"label_completions": ["one"]}}}
    found = rows(tiny_config(models=models, completions={name: shared | own for name, own in tables.items()}))
    one, other, soft = (found["pseudo-labels", name] for name in tables)
    assert (one.windows, other.windows, soft.windows) == (18, 0, 18)
    voxels = 10 * 32 * 32
    assert other.gpu_hours == 0
    assert other.core_hours == pytest.approx(hours(complete=voxels))
    assert (one.disk_gb, other.disk_gb) == pytest.approx((2 * other.disk_gb, gb(written_labels=voxels)))


def test_measured_intensities_are_shared_by_the_same_training_set_only():
    student = TINY["models"]["student"] | {"intensity": "measure"}
    models = TINY["models"] | {"student": student, "twin": student}
    found = rows(tiny_config(models=models))
    assert [found["preprocessing", name].cases for name in ("teacher", "student", "twin")] == [1, 3, 0]


def test_a_job_on_two_gpus_holds_its_cores_once():
    one, two = (
        rows(tiny_config(models=TINY["models"] | {"student": TINY["models"]["student"] | {"gpus": gpus}}))
        for gpus in (1, 2)
    )
    assert two["training", "student"].gpu_hours == one["training", "student"].gpu_hours
    assert two["training", "student"].core_hours == pytest.approx(one["training", "student"].core_hours / 2)


def test_headers_alone_cost_no_voxel_of_the_images():
    read = rows(tiny_config(scan={"check_images": "header"}))["scan", ""]
    assert read.core_hours == pytest.approx(hours(scan_labels=2 * 10 * 32 * 32))


def test_quarantined_cases_are_left_out():
    assert rows(tiny_config()) == rows(tiny_config(), [row for row in CASES if row.usable])


def test_a_training_without_a_case_costs_nothing():
    found = rows(tiny_config(), [row for row in CASES if row.category != "all_organs"])
    teacher, student = (found["training", name] for name in ("teacher", "student"))
    assert (teacher.cases, teacher.disk_gb, teacher.gpu_hours, teacher.core_hours) == (0, 0, 0, 0)
    assert student.cases == 2
    assert student.gpu_hours > 0


def test_a_cohort_without_a_usable_case_is_refused():
    with pytest.raises(CohortError, match=r"there is no usable case .*quarantine\.csv"):
        rows(tiny_config(), [case("broken", C, "unlabeled", status="quarantined")])


def test_a_case_of_an_unknown_category_is_refused_by_name():
    with pytest.raises(ConfigError, match=r"cases of spleens, but only tumor, .*; run the target `cohort`"):
        rows(tiny_config(), [case("x", A, "spleens")])


# FLARE23's cases


def test_without_a_cohort_flare23_is_counted():
    table = estimate(Config.load([RECIPE]), flare23_sizes(Config.load([RECIPE]))).set_index(["stage", "of"])
    assert table.loc[("scan", ""), "cases"] == 4050
    assert table.loc[("training", "student"), "cases"] == 4000
    assert table.loc[("training", "student_2200"), "cases"] == 2200
    assert table.loc[("evaluation", "student"), "cases"] == 50


def test_other_categories_than_flare23s_are_refused():
    config = Config.load([RECIPE, REPOSITORY / "presets" / "second_look.yaml"])
    with pytest.raises(ConfigError, match="run the target `cohort`"):
        flare23_sizes(config)


@pytest.mark.skipif(not GEOMETRY.is_file(), reason=f"{GEOMETRY} is not there; FLARE23_FACTS names its folder")
def test_the_ten_sizes_stand_for_all_of_flare23():
    config = Config.load([RECIPE])
    every = pd.read_csv(GEOMETRY).rename(columns={f"{name}_mm": name for name in SPACING}).assign(number=1)
    ten = pd.DataFrame([(*shape, *spacing) for shape, spacing in flare23.SIZES], columns=[*SHAPE, *SPACING])
    ten = ten.assign(number=len(every) / len(ten))
    for model in ("organ_teacher", "student"):
        settings, inference = config.training_settings(model), config.inference_settings(model)
        counts = [window_count(sizes, settings, inference) for sizes in (ten, every)]
        assert counts[0] == pytest.approx(counts[1], rel=0.04)


# Figures


def test_on_a_cpu_there_are_no_gpu_hours():
    found = rows(tiny_config(device="cpu"))
    assert all(row.gpu_hours == 0 for row in found.values())
    voxels = 20 * 16 * 16 + 4 * 64 * 64
    expected = hours(segment_files=voxels, complete=voxels, cpu_inference_float32=11 * 4 * MACS)
    assert found["pseudo-labels", "unlabeled"].core_hours == pytest.approx(expected)
    assert found["training", "student"].speed == "0.0257 TMAC/s assumed", "mixed is float32 on a CPU"


def test_a_networks_figure_follows_from_its_size_and_precision():
    def figures(precision):
        config = Config.load([RECIPE], {"model_defaults": {"inference": {"precision": precision}}})
        return [network_figure(FIGURES, config, phase, model)
                for phase in ("training", "inference") for model in ("organ_teacher", "student")]  # fmt: skip

    assert figures("bfloat16") == ["gpu_16bit_large", "gpu_16bit_small"] * 2
    assert figures("float32") == ["gpu_16bit_large", "gpu_16bit_small", "gpu_float32", "gpu_float32"]


def test_the_assumed_gpu_figures_are_what_their_sources_say():
    config = Config.load([RECIPE])
    small = epoch_macs(config.training_settings("student")) / 26.9
    large = epoch_macs(config.training_settings("organ_teacher")) / (48 * 3600 / 2000)
    assert FIGURES["gpu_16bit_small"][1] == pytest.approx(small, rel=0.005)
    assert FIGURES["gpu_16bit_large"][1] == pytest.approx(large, rel=0.005)


def test_the_assumed_figures_of_cores_are_those_of_the_kept_benchmark():
    kept = read_json(REPOSITORY / "benchmarks" / "results" / "throughput.json")
    measured = {name: 1e6 * value for name, value in kept["Mvoxel_per_core_second"].items()}
    measured |= {name: 1e12 * value for name, value in kept["TMAC_per_core_second"].items()}
    for name, (resource, value) in FIGURES.items():
        if resource == CORE:
            assert value == pytest.approx(measured[name.replace("16bit", "bfloat16")], rel=0.02), name


def test_gpu_jobs_hold_the_cores_that_their_rules_ask_for():
    asked = {name: re.search(r"^    threads: (\d+)", rule, re.MULTILINE) for name, rule in rules().items()}
    threads = {name: int(found[1]) for name, found in asked.items() if found}
    assert threads["train"] == TRAINING_CORES
    assert threads["pseudo_label"] == threads["predict"] == SEGMENTATION_CORES


# An earlier run


class Earlier:
    """The results of an earlier run of the tiny configuration, as far as an estimate reads them."""

    def __init__(self, root, config):
        self.results, self.config = Results(root), config
        write_cases(self.results.cases, CASES)

    def trained(self, model, device, **changes):
        settings = self.config.training_settings(model)
        settings = changed(settings, training=changes.pop("training", {}))
        record = {"device": device, "epochs": 10, "threads": 2, "gpus": 1, "epoch_seconds": 0.5,
                  "settings": settings.to_json()}  # fmt: skip
        write_json(self.results.training(model), record | changes)
        described = train.describe(model, settings, self.config.inference_settings(model),
                                      self.config.label_map.labels, "0" * 64)  # fmt: skip
        write_json(self.results.model_file(model), described.to_json())

    def segmented(self, model, name, seconds, **extras):
        digest = model_digest(read_json(self.results.model_file(model)))
        folder = segmentation_folder(self.results, digest, self.config.inference_settings(model))
        entry = folder.create().entry(name, {"image": "", "exclude": []} | extras)
        entry.file(".nii.gz").write_bytes(bytes(100))
        entry.save([".nii.gz"], {"timings": {"infer": seconds, "upsample": 1.0}})

    def figures(self, config=None):
        return measured_figures(self.results.root, config or self.config)


@pytest.fixture
def earlier(tmp_path):
    return Earlier(tmp_path / "earlier", tiny_config())


def test_an_empty_run_measures_nothing(earlier):
    assert earlier.figures() == FIGURES


def test_a_folder_without_cases_is_refused(tmp_path):
    with pytest.raises(StoreError, match=r"cases\.csv is missing"):
        measured_figures(tmp_path, tiny_config())


def test_a_trained_models_own_speed_replaces_the_assumed(earlier):
    earlier.trained("student", "cuda")
    figures = earlier.figures()
    assert figures["training of student"] == (GPU, pytest.approx((3 * 5 + 1) * 2 * MACS / 0.5))
    found = rows(earlier.config, figures=figures)
    assert found["training", "student"].gpu_hours == pytest.approx(10 * 0.5 / 3600)
    assert found["training", "student"].speed.endswith("TMAC/s measured")
    assert found["training", "teacher"].speed == "20.7 TMAC/s assumed"


def test_gpus_that_shared_a_training_all_count(earlier):
    earlier.trained("student", "cuda", gpus=2)
    assert earlier.figures()["training of student"][1] == pytest.approx((3 * 5 + 1) * 2 * MACS / (2 * 0.5))


@pytest.mark.parametrize("changes", [{"batch_size": 4}, {"precision": "float32"}])
def test_what_another_training_took_is_not_used(earlier, changes):
    earlier.trained("student", "cuda", training=changes)
    assert earlier.figures() == FIGURES


def test_another_network_or_device_measures_nothing(earlier):
    earlier.trained("student", "cuda")
    earlier.segmented("student", "v1", 2.0)
    wider = TINY["models"]["student"] | {"network": {"depth": [1, 1, 1], "widths": [8, 8, 8]}}
    for config in (tiny_config(models=TINY["models"] | {"student": wider}), tiny_config(device="cpu")):
        assert earlier.figures(config) == FIGURES


@pytest.mark.parametrize(
    "change", [lambda record: record.pop("epoch_seconds"), lambda record: record.pop("device"),
               lambda record: record.update(device=None), lambda record: record.update(settings={"network": 5}),
               lambda record: record["settings"].update(network={"depth": [1], "widths": [4]})],
)  # fmt: skip
def test_a_record_of_another_form_measures_nothing(earlier, change):
    earlier.trained("teacher", "cuda")
    earlier.trained("student", "cuda")
    record = read_json(earlier.results.training("student"))
    change(record)
    write_json(earlier.results.training("student"), record)
    assert set(earlier.figures()) == {*FIGURES, "training of teacher"}


def test_segmented_cases_give_the_speed_of_segmenting(earlier):
    earlier.trained("teacher", "cuda")
    earlier.segmented("teacher", "u1", 1.0)
    earlier.segmented("teacher", "u2", 8.0)
    figures = earlier.figures()
    assert figures["inference of teacher"] == (GPU, pytest.approx(11 * 4 * MACS / (1.0 + 8.0 + 2 * 1.0)))
    found = rows(earlier.config, figures=figures)
    assert found["pseudo-labels", "unlabeled"].gpu_hours == pytest.approx(11 / 3600)


@pytest.mark.parametrize("extras", [{"soft": True}, {"votes": True, "exclude": [1, 3]}])
def test_segmentations_for_any_completion_count_once_for_each_time(earlier, extras):
    earlier.trained("teacher", "cuda")
    earlier.segmented("teacher", "u1", 3.0, **extras)
    speed = 2 * 4 * MACS / (3.0 + 1.0)
    assert earlier.figures()["inference of teacher"] == (GPU, pytest.approx(speed))
    earlier.segmented("teacher", "u1", 3.0)
    earlier.segmented("teacher", "elsewhere", 3.0)
    earlier.segmented("teacher", "u1", 30.0, image="of another file")
    assert earlier.figures()["inference of teacher"] == (GPU, pytest.approx(speed))


def test_on_a_cpu_speed_is_that_of_one_core(tmp_path):
    earlier = Earlier(tmp_path / "earlier", tiny_config(device="cpu"))
    earlier.trained("teacher", "cpu")
    earlier.segmented("teacher", "u1", 4.0)
    figures = earlier.figures()
    assert figures["training of teacher"] == (CORE, pytest.approx((3 * 5 + 1) * 2 * MACS / (0.5 * 2)))
    assert figures["inference of teacher"] == (CORE, pytest.approx(2 * 4 * MACS / (5.0 * 2)))


# The command


def run(*arguments):
    return cli.main(["estimate", *BASE_CONFIG, *map(str, arguments)])


def test_the_command_prints_and_writes_the_table(tmp_path, capsys):
    write_cases(tmp_path / "cohort" / "cases.csv", CASES)
    assert run("--config", f"results={tmp_path}", "--output", tmp_path / "e.csv") == 0
    shown = capsys.readouterr().out
    assert "missing" not in shown
    written = read_csv(tmp_path / "e.csv")
    assert [row["stage"] for row in written][:2] == ["scan", "preprocessing"]
    assert written[-1]["stage"] == "total"
    assert float(written[-1][GPU]) == pytest.approx(sum(float(row[GPU]) for row in written[:-1]), rel=1e-4)
    trained = next(row for row in written if (row["stage"], row["of"]) == ("training", "student"))
    assert trained["speed"] == "20.7 TMAC/s assumed"
    assert all(row["stage"] in shown for row in written)


def test_the_command_names_what_it_assumes_without_a_cohort(tmp_path, capsys):
    assert run("--config", f"results={tmp_path}") == 0
    assert capsys.readouterr().out.startswith(f"{tmp_path}/cohort/cases.csv is missing: FLARE23's numbers")


@pytest.mark.parametrize("arguments", [("--cases", "nowhere.csv"), ("--measured", "nowhere")])
def test_the_command_ends_in_one_line_where_something_is_missing(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(*arguments) == 1
    assert capsys.readouterr().err.count("\n") == 1


# The documentation


def test_the_documented_table_is_what_the_command_prints(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run() == 0
    assert capsys.readouterr().out.strip() in (REPOSITORY / "docs" / "estimate.md").read_text()


def test_every_figure_is_documented_with_its_value():
    text = (REPOSITORY / "docs" / "estimate.md").read_text()
    for name, (resource, value) in FIGURES.items():
        scale = 1 if resource == DISK else 1e12 if name.startswith(("cpu", "gpu")) else 1e6
        assert f"| `{name}` | {value / scale:,g} " in text
    macs = patch_macs(Config.load([RECIPE]).training_settings("organ_teacher"))
    assert f"{macs / 1e12:.3f} TMAC" in text
