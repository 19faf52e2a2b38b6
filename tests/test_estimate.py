import os
import re
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY
from estimates import CASES, MACS, MODEL, RECIPE, TINY, A, B, C, case, lines, sizes, tiny_config
from torch.utils.flop_counter import FlopCounterMode

from flare23_lib import cli
from flare23_lib.cohort.table import write_cases
from flare23_lib.config import Config
from flare23_lib.errors import CohortError, ConfigError
from flare23_lib.estimate.extents import Members, Sizes, parse_counts, read_geometry
from flare23_lib.estimate.table import ALL, estimate
from flare23_lib.estimate.throughputs import FIGURES, compute_figure
from flare23_lib.estimate.work import (
    SEGMENTATION_CORES,
    TRAINING_CORES,
    epoch_macs,
    mirrored_passes,
    window_count,
    window_macs,
)
from flare23_lib.inference.windows import pad_to_patch, window_slices, window_starts
from flare23_lib.networks import Architecture
from flare23_lib.networks.size import forward_macs, parameters
from flare23_lib.networks.stunet import STUNet
from flare23_lib.resampling import resampled_shape
from flare23_lib.store import read_csv, read_json, write_csv, write_json

FACTS = Path(os.environ.get("FLARE23_FACTS", REPOSITORY.parent / "shared" / "facts"))
GEOMETRY = FACTS / "flare23_geometry.csv"
COUNTS = ["tumor=1497", "all_organs=250", "five_organs=453", "unlabeled=1718", "validation=50"]


# The network


@pytest.mark.parametrize(
    "spec",
    [
        {"depth": [1, 1], "widths": [4, 8]},
        {"depth": [1, 2, 3], "widths": [3, 5, 4], "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 1]]},
        {"depth": [2, 1], "widths": [4, 6], "kernel_sizes": [[1, 3, 3], [3, 5, 3]]},
    ],
)
def test_work_and_size_are_those_of_the_network_itself(spec):
    network, classes, patch = Architecture.from_spec(spec), 5, (8, 16, 16)
    model = STUNet(1, classes, **network.to_json())
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model(torch.zeros(1, 1, *patch))
    assert forward_macs(network, patch, classes) == counter.get_total_flops() // 2
    assert parameters(network, classes) == sum(weight.numel() for weight in model.parameters())


def test_a_networks_work_is_what_one_counts_by_hand():
    assert window_macs(tiny_config().training_settings("teacher")) == MACS


def test_the_networks_of_the_paper_have_their_published_sizes():
    counted = [parameters(Architecture.from_spec({"name": f"stunet_{name}"}), 105) for name in ("base", "large")]
    assert counted == [58_262_669, 440_302_605]


# Counts


@pytest.mark.parametrize(("extent", "windows"), [(A, 18), (B, 2), (C, 9)])
def test_windows_are_counted_as_the_engine_lays_them(extent, windows):
    assert window_count(extent.shape, extent.spacing, (4, 2, 2), (8, 16, 16), 0.5) == windows
    image = torch.zeros(resampled_shape(extent.shape, extent.spacing, (4, 2, 2)))
    padded, _ = pad_to_patch(image, (8, 16, 16))
    assert len(window_slices(window_starts(padded.shape, (8, 16, 16), 0.5), (8, 16, 16))) == windows


def test_mirroring_doubles_the_passes_per_axis():
    assert [mirrored_passes(axes, True) for axes in ([], [2], [0, 1, 2])] == [1, 2, 8]
    assert mirrored_passes([0, 1, 2], False) == 1


def test_a_tiny_run_costs_what_one_counts_by_hand():
    found = lines(tiny_config())
    use = {name: figure.use for name, figure in FIGURES.items()}

    pseudo = found["pseudo-labels", "unlabeled"]
    assert (pseudo.cases, pseudo.windows) == (2, 2 + 9)
    gpu = use["gpu_inference_float32_small"](11 * 4 * MACS) / 3600
    assert pseudo.gpu_hours == pytest.approx(gpu)
    voxels = 20 * 16 * 16 + 4 * 64 * 64
    assert pseudo.core_hours == pytest.approx(use["segment_files"](voxels) / 3600 + SEGMENTATION_CORES * gpu)
    assert pseudo.disk_gb == pytest.approx(FIGURES["written_labels"].value * voxels / 1e9)

    trained = found["training", "student"]
    hours = use["gpu_training_16bit_small"](10 * (3 * 5 + 1) * 2 * MACS) / 3600
    assert (trained.cases, trained.windows) == (3, None)
    assert trained.gpu_hours == pytest.approx(hours)
    assert trained.core_hours == pytest.approx(TRAINING_CORES * hours)
    numbers = parameters(Architecture.from_spec({**MODEL["network"], "strides": MODEL["strides"]}), 15)
    assert trained.disk_gb == pytest.approx(4 * numbers * 4 / 1e9)

    predicted = found["predictions", "student"]
    assert (predicted.cases, predicted.windows) == (2, 18 + 2)
    assert found["evaluation", "student"].cases == 1
    assert found["evaluation", "student"].core_hours == pytest.approx(use["evaluate"](10 * 32 * 32) / 3600)

    read = found["scan", ""]
    assert read.cases == 5
    images, labels = 2 * 10 * 32 * 32 + 2 * 20 * 16 * 16 + 4 * 64 * 64, 2 * 10 * 32 * 32
    assert read.core_hours == pytest.approx((use["scan_images"](images) + use["scan_labels"](labels)) / 3600)

    total = found[ALL, ""]
    assert total.windows == 11 + 20
    assert total.gpu_hours == pytest.approx(sum(line.gpu_hours for line in found.values()) / 2)


def test_images_and_labels_are_preprocessed_once_and_shared():
    found = lines(tiny_config())
    resampled = 10 * 16 * 16 + 4 * 32 * 32
    student = found["preprocessed images", "student"]
    assert (found["preprocessed images", "teacher"].cases, student.cases) == (1, 2)
    assert student.disk_gb == pytest.approx(FIGURES["preprocessed_images"].value * resampled / 1e9)
    assert [found["preprocessed labels", name].cases for name in ("teacher", "student")] == [1, 2]


def test_another_intensity_makes_other_images_and_the_same_labels():
    student = TINY["models"]["student"] | {"intensity": {"low": 0, "high": 1, "mean": 0, "std": 1}}
    found = lines(tiny_config(models=TINY["models"] | {"student": student}))
    assert found["preprocessed images", "student"].cases == 3
    assert found["preprocessed labels", "student"].cases == 2


def test_measured_intensities_are_shared_by_the_same_training_set_only():
    student = TINY["models"]["student"] | {"intensity": "measure"}
    models = TINY["models"] | {"student": student, "twin": student}
    found = lines(tiny_config(models=models))
    assert [found["preprocessed images", name].cases for name in ("teacher", "student", "twin")] == [1, 3, 0]


def test_a_job_on_two_gpus_holds_its_cores_once():
    one, two = (
        lines(tiny_config(models=TINY["models"] | {"student": TINY["models"]["student"] | {"gpus": gpus}}))
        for gpus in (1, 2)
    )
    assert two["training", "student"].gpu_hours == one["training", "student"].gpu_hours
    assert two["training", "student"].core_hours == pytest.approx(one["training", "student"].core_hours / 2)


def test_the_next_class_is_a_second_file():
    def look(rule):
        completion = {"category": "all_organs", "teacher": "student", "dropped_to": rule}
        return tiny_config(completions=TINY["completions"] | {"all_organs": completion})

    once, twice = (lines(look(rule))["pseudo-labels", "all_organs"] for rule in ("background", "next_class"))
    assert twice.disk_gb == pytest.approx(2 * once.disk_gb)


def test_headers_alone_cost_no_voxel_of_the_images():
    voxels = 2 * 10 * 32 * 32
    read = lines(tiny_config(scan={"check_images": "header"}))["scan", ""]
    assert read.core_hours == pytest.approx(FIGURES["scan_labels"].use(voxels) / 3600)


def test_quarantined_cases_are_left_out():
    assert lines(tiny_config()) == lines(tiny_config(), [row for row in CASES if row.usable])


def test_a_case_of_an_unknown_category_is_refused_by_name():
    with pytest.raises(ConfigError, match="x is of the category 'spleens'; there are tumor, all_organs"):
        sizes(tiny_config(), [case("x", A, "spleens")])


def test_a_sample_stands_for_any_number_of_cases():
    config = tiny_config()
    sample = Sizes.of_sample([B, C], {"unlabeled": 20}, ["unlabeled", "all_organs"])
    assert sample.categories["unlabeled"] == Members([B, C], 20)
    found = {(line.stage, line.name): line for line in estimate(config, sample, FIGURES).lines}
    assert found["pseudo-labels", "unlabeled"].windows == 110
    assert found["predictions", "student"].windows == 0


# Devices


def test_on_a_processor_there_are_no_gpu_hours():
    found = lines(tiny_config(device="cpu"))
    assert all(line.gpu_hours == 0 for line in found.values())
    pseudo = found["pseudo-labels", "unlabeled"]
    files = FIGURES["segment_files"].use(20 * 16 * 16 + 4 * 64 * 64)
    work = FIGURES["cpu_inference_float32"].use(11 * 4 * MACS)
    assert pseudo.core_hours == pytest.approx((files + work) / 3600)
    assert "cpu_training_float32" in found["training", "student"].figures, "mixed is float32 on a processor"


def test_a_networks_figure_follows_from_its_size_and_precision():
    config = Config.load([RECIPE], {"model_defaults": {"inference": {"precision": "bfloat16"}}})
    figures = [compute_figure(FIGURES, config, phase, model)
               for phase in ("training", "inference") for model in ("organ_teacher", "student")]  # fmt: skip
    assert figures == [
        "gpu_training_16bit_large", "gpu_training_16bit_small",
        "gpu_inference_16bit_large", "gpu_inference_16bit_small",
    ]  # fmt: skip


def test_the_assumed_gpu_figures_are_what_their_sources_say():
    config = Config.load([RECIPE])
    small = epoch_macs(config.training_settings("student")) / 26.9 / 1e12
    large = epoch_macs(config.training_settings("organ_teacher")) / (48 * 3600 / 2000) / 1e12
    assert FIGURES["gpu_training_16bit_small"].value == pytest.approx(small, rel=0.005)
    assert FIGURES["gpu_training_16bit_large"].value == pytest.approx(large, rel=0.005)


def test_the_assumed_figures_of_cores_are_those_of_the_kept_benchmark():
    kept = read_json(REPOSITORY / "benchmarks" / "results" / "throughput.json")
    measured = kept["Mvoxel_per_core_second"] | kept["TMAC_per_core_second"]
    for name, figure in FIGURES.items():
        if figure.resource == "core":
            assert figure.value == pytest.approx(measured[name.replace("16bit", "bfloat16")], rel=0.02), name


def test_gpu_jobs_hold_the_cores_that_their_rules_ask_for():
    threads = {}
    for path in (REPOSITORY / "rules").glob("*.smk"):
        for rule in re.split(r"^rule ", path.read_text(), flags=re.MULTILINE)[1:]:
            if asked := re.search(r"^    threads: (\d+)", rule, re.MULTILINE):
                threads[rule.partition(":")[0]] = int(asked.group(1))
    assert threads["train"] == TRAINING_CORES
    assert threads["pseudo_label"] == threads["predict"] == SEGMENTATION_CORES


# What people give


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("slices,rows\n1,2\n", "lacks columns, spacing_z_mm"),
        ("slices,rows,columns,spacing_z_mm,spacing_y_mm,spacing_x_mm\n", "holds no row"),
        ("slices,rows,columns,spacing_z_mm,spacing_y_mm,spacing_x_mm\n1,2,3,1,1,1\n1,2,3,1,0,1\n", "line 3"),
        ("slices,rows,columns,spacing_z_mm,spacing_y_mm,spacing_x_mm\n1,2,3,1,x,1\n", "line 2"),
        ("slices,rows,columns,spacing_z_mm,spacing_y_mm,spacing_x_mm\n1,2,3,1,nan,1\n", "line 2"),
    ],
)
def test_a_bad_geometry_table_is_refused_with_its_name(tmp_path, text, message):
    path = tmp_path / "geometry.csv"
    path.write_text(text)
    with pytest.raises(CohortError, match=f"geometry.csv: .*{message}"):
        read_geometry(path)


def test_a_missing_geometry_table_is_named(tmp_path):
    with pytest.raises(CohortError, match=r"none\.csv: there is no such file"):
        read_geometry(tmp_path / "none.csv")


@pytest.mark.parametrize("text", ["tumor", "tumor=", "=3", "tumor=-1", "tumor=1.5"])
def test_a_count_that_is_none_is_refused(text):
    with pytest.raises(ConfigError, match="is not CATEGORY=N"):
        parse_counts([text])


def test_counts_are_needed_and_their_names_known():
    with pytest.raises(ConfigError, match=r"--count: say how many.*of organs, none, validation"):
        Sizes.of_sample([A], {}, ["organs", "none"])
    with pytest.raises(ConfigError, match="no category 'tumors'; there are organs, none, validation"):
        Sizes.of_sample([A], {"tumors": 1}, ["organs", "none"])


def run(*arguments):
    return cli.main(["estimate", "--base-config", str(RECIPE), *map(str, arguments)])


@pytest.fixture
def geometry(tmp_path):
    path = tmp_path / "geometry.csv"
    path.write_text("slices,rows,columns,spacing_z_mm,spacing_y_mm,spacing_x_mm\n100,512,512,2.5,0.8,0.8\n")
    return path


def test_the_command_prints_and_writes_the_table(tmp_path, geometry, capsys):
    assert run("--geometry", geometry, "--count", *COUNTS, "--output", tmp_path / "e.csv") == 0
    shown = capsys.readouterr().out
    rows = read_csv(tmp_path / "e.csv")
    assert rows[-1]["stage"] == ALL
    assert float(rows[-1]["gpu_hours"]) == pytest.approx(sum(float(row["gpu_hours"]) for row in rows[:-1]), rel=1e-4)
    trained = next(row for row in rows if (row["stage"], row["of"]) == ("training", "student"))
    assert "gpu_training_16bit_small=20.7 TMAC/s (assumed)" in trained["figures"]
    assert all(row["stage"] in shown for row in rows)


@pytest.mark.parametrize("arguments", [("--count", "tumor=1"), ("--measured", "nowhere"), ()])
def test_the_command_ends_in_one_line_where_something_is_missing(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(*arguments) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_the_command_takes_the_cases_of_the_configured_results(tmp_path, capsys):
    write_cases(tmp_path / "cohort" / "cases.csv", CASES)
    assert run("--config", f"results={tmp_path}") == 0
    assert "unlabeled" in capsys.readouterr().out


def test_the_workflows_job_writes_the_same_table(tmp_path):
    config = Config.load([RECIPE], {"results": str(tmp_path)})
    write_cases(tmp_path / "cohort" / "cases.csv", CASES)
    write_json(tmp_path / "told.json", {"settings": config.to_json()})
    job = ["stage", "estimate", "--results", tmp_path, "--settings", tmp_path / "told.json"]
    assert cli.main([*map(str, job), "--output", str(tmp_path / "job.csv")]) == 0
    assert run("--config", f"results={tmp_path}", "--output", tmp_path / "person.csv") == 0
    assert (tmp_path / "job.csv").read_bytes() == (tmp_path / "person.csv").read_bytes()


# The documentation


@pytest.mark.skipif(not GEOMETRY.is_file(), reason=f"{GEOMETRY} is not there; FLARE23_FACTS names its folder")
def test_the_documented_table_is_what_the_command_prints(capsys):
    assert run("--geometry", GEOMETRY, "--count", *COUNTS) == 0
    table = capsys.readouterr().out.strip()
    assert table in (REPOSITORY / "docs" / "estimate.md").read_text()


def test_the_documentation_gives_the_example_by_hand():
    text = (REPOSITORY / "docs" / "estimate.md").read_text()
    macs = window_macs(Config.load([RECIPE]).training_settings("organ_teacher"))
    assert f"{macs / 1e12:.3f} TMAC" in text


def test_the_geometry_of_a_sample_is_read(tmp_path):
    columns = ["slices", "rows", "columns", "spacing_z_mm", "spacing_y_mm", "spacing_x_mm", "more"]
    write_csv(tmp_path / "g.csv", columns, [dict(zip(columns, (10, 32, 32, 4.0, 2.0, 2.0, "x"), strict=True))])
    assert read_geometry(tmp_path / "g.csv") == [A]
