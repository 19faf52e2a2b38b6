import json

import pytest
from cohorts import changed
from estimates import CASES, MACS, TINY, lines, sizes, tiny_config

from flare23_lib.cohort.table import write_cases
from flare23_lib.errors import StoreError
from flare23_lib.estimate.measured import measured_figures
from flare23_lib.estimate.table import estimate, format_estimate
from flare23_lib.estimate.throughputs import FIGURES
from flare23_lib.stages import training
from flare23_lib.stages.results import Results
from flare23_lib.stages.segmentation import model_digest, segmentation_folder
from flare23_lib.store import read_json, write_json


class Earlier:
    """The results of an earlier run of the tiny configuration, as far as an estimate looks at them."""

    def __init__(self, root, config):
        self.results, self.config = Results(root), config
        write_cases(self.results.cases, CASES)

    def note(self, folder, name, suffixes, results):
        item = folder.create().item(name, {"of": name})
        for suffix, size in suffixes.items():
            item.file(suffix).write_bytes(bytes(size))
        item.finish(suffixes, {}, results)

    def image(self, name, size, **results):
        folder = self.results.folder("preprocessed_images", {"spacing": [4, 2, 2]})
        self.note(folder, name, {".b2nd": size}, results)

    def trained(self, model, device, **changes):
        settings = self.config.training_settings(model)
        settings = changed(settings, training=changes.pop("training", {}))
        record = {"device": device, "epochs": 10, "threads": 2, "gpus": 1, "epoch_seconds": 0.5,
                  "settings": settings.to_json()}  # fmt: skip
        write_json(self.results.training(model), record | changes)
        described = training.describe(model, settings, self.config.inference_settings(model),
                                      self.config.label_map.names, [], "0" * 64, {})  # fmt: skip
        write_json(self.results.bundle(model) / "model.json", described.to_json())

    def segmented(self, model, name, seconds):
        digest = model_digest(read_json(self.results.bundle(model) / "model.json"))
        folder = segmentation_folder(self.results, digest, self.config.inference_settings(model))
        self.note(folder, name, {".nii.gz": 100}, {"timings": {"infer": seconds, "upsample": 1.0}})

    def figures(self, config=None):
        return measured_figures(self.results.root, config or self.config, FIGURES)


@pytest.fixture
def earlier(tmp_path):
    return Earlier(tmp_path / "earlier", tiny_config())


def test_an_empty_run_measures_nothing(earlier):
    assert earlier.figures() == FIGURES


def test_a_folder_without_cases_is_refused(tmp_path):
    with pytest.raises(StoreError, match=r"cases\.csv is missing"):
        measured_figures(tmp_path, tiny_config(), FIGURES)


def test_work_on_cores_is_scaled_by_the_seconds_of_the_notes(earlier):
    parts = {"preprocess_images_stored": 20 * 16 * 16, "preprocess_images_resampled": 10 * 16 * 16}
    foretold = sum(FIGURES[name].use(amount) for name, amount in parts.items())
    earlier.image("u1", 5120, core_seconds=3 * foretold)
    found = earlier.figures()
    for name in parts:
        assert found[name].value == pytest.approx(FIGURES[name].value / 3)
        assert found[name].measured
        assert "1 cases of 0.00512 Mvoxel" in found[name].source
    assert not found["preprocess_labels_stored"].measured


def test_bytes_are_those_of_the_files(earlier):
    earlier.image("u1", 5120)
    earlier.image("u2", 8192)
    found = earlier.figures()["preprocessed_images"]
    assert found.value == pytest.approx((5120 + 8192) / (10 * 16 * 16 + 4 * 32 * 32))


def test_notes_without_seconds_and_benchmark_files_measure_no_work(earlier):
    earlier.image("u1", 5120)
    benchmark = earlier.results.root / "benchmarks" / "preprocess" / "student" / "0-of-1.tsv"
    benchmark.parent.mkdir(parents=True)
    benchmark.write_text("s\n0.5\n")
    assert not earlier.figures()["preprocess_images_stored"].measured


def test_a_case_that_left_the_cohort_and_a_cut_note_are_passed_over(earlier):
    earlier.image("gone", 1)
    folder = earlier.results.folder("preprocessed_images", {"spacing": [4, 2, 2]}).path
    (folder / "u1.0123456789ab.json").write_text('{"files"')
    assert earlier.figures() == FIGURES


def test_a_trained_models_own_speed_replaces_the_assumed(earlier):
    earlier.trained("student", "cuda")
    figures = earlier.figures()
    assert figures["training of student"].value == pytest.approx((3 * 5 + 1) * 2 * MACS / 0.5 / 1e12)
    found = lines(earlier.config, figures=figures)
    assert found["training", "student"].gpu_hours == pytest.approx(10 * 0.5 / 3600)
    assert "gpu_training_16bit_small" in found["training", "teacher"].figures


def test_gpus_that_shared_a_training_all_count(earlier):
    earlier.trained("student", "cuda", gpus=2)
    figures = earlier.figures()
    assert figures["training of student"].value == pytest.approx((3 * 5 + 1) * 2 * MACS / (2 * 0.5) / 1e12)


@pytest.mark.parametrize(
    "changes",
    [
        {"training": {"batch_size": 4}},
        {"training": {"precision": "float32"}},
        {"epoch_seconds": None},
        {"threads": None},
    ],
)
def test_what_another_training_took_is_not_used(earlier, changes):
    earlier.trained("student", "cuda", **changes)
    if None in changes.values():  # a record of an older version
        path = earlier.results.training("student")
        record = {name: value for name, value in json.loads(path.read_text()).items() if value is not None}
        path.write_text(json.dumps(record))
    figures = earlier.figures()
    assert ("training of student" in figures) == ("threads" in changes)
    assert "inference of student" not in figures


def test_another_network_or_device_measures_nothing(earlier):
    earlier.trained("student", "cuda")
    earlier.segmented("student", "v1", 2.0)
    wider = TINY["models"]["student"] | {"network": {"depth": [1, 1, 1], "widths": [8, 8, 8]}}
    other = tiny_config(models=TINY["models"] | {"student": wider})
    for config in (other, tiny_config(device="cpu")):
        figures = earlier.figures(config)
        assert "training of student" not in figures
        assert "inference of student" not in figures


def test_segmented_cases_give_the_speed_of_segmenting(earlier):
    earlier.trained("teacher", "cuda")
    earlier.segmented("teacher", "u1", 1.0)
    earlier.segmented("teacher", "u2", 8.0)
    found = earlier.figures()["inference of teacher"]
    assert found.value == pytest.approx(11 * 4 * MACS / (1.0 + 8.0 + 2 * 1.0) / 1e12)
    assert lines(earlier.config, figures=earlier.figures())["pseudo-labels", "unlabeled"].gpu_hours == pytest.approx(
        11 / 3600
    )


def test_on_a_processor_speed_is_that_of_one_core(earlier):
    config = tiny_config(device="cpu")
    earlier.trained("teacher", "cpu")
    earlier.segmented("teacher", "u1", 4.0)
    figures = earlier.figures(config)
    assert figures["training of teacher"].value == pytest.approx((3 * 5 + 1) * 2 * MACS / (0.5 * 2) / 1e12)
    assert figures["inference of teacher"].value == pytest.approx(2 * 4 * MACS / (5.0 * 2) / 1e12)
    assert figures["inference of teacher"].resource == "core"


def test_measured_figures_are_marked_line_by_line(earlier):
    earlier.image("u1", 5120)
    shown = format_estimate(estimate(earlier.config, sizes(earlier.config), earlier.figures()))
    marked = [line for line in shown.splitlines() if "measured  " in line]
    assert len(marked) == 1
    number = marked[0].split()[0]
    assert number.endswith("*")
    users = [line for line in shown.splitlines() if number in line.split() and "preprocessed images" in line]
    assert len(users) == 2
