"""Intensities measured on a training set: as nnU-Net measures them, kept case by case, and used by what follows."""

import json
from dataclasses import replace

import numpy as np
import pytest
from cohorts import changed
from faults import flip
from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
from places import RECIPE
from trainings import CHANGES, MODEL, write_case

from flare23_lib.cache.results import Results
from flare23_lib.config import Config
from flare23_lib.config.settings import TrainingSet
from flare23_lib.dataset.cases import write_cases
from flare23_lib.errors import ConfigError, StoreError, TrainingError
from flare23_lib.io import nifti
from flare23_lib.io.atomic import read_json
from flare23_lib.io.identity import file_identity
from flare23_lib.preprocessing.fit_intensity import measure, with_intensity
from flare23_lib.preprocessing.intensity import SAMPLES, draw_foreground, pool

SETTINGS = TrainingSet(manual_labels=("all",), label_completions=())


def arrays(case):
    return nifti.read_volume(case.image).array, nifti.read_labels(case.label).array


@pytest.fixture
def cohort(tmp_path):
    results = Results(tmp_path / "results")
    cases = [write_case(tmp_path, number) for number in range(3)]
    write_cases(results.cases, cases)
    return results, cases


def test_the_voxels_drawn_and_their_statistics_are_nnunets(cohort):
    _, cases = cohort
    drawn, theirs = [], []
    for case in cases:
        image, labels = arrays(case)
        drawn.append(draw_foreground(image, labels))
        extracted, _ = DatasetFingerprintExtractor.collect_foreground_intensities(
            labels[None], image[None].astype(np.float32), num_samples=SAMPLES
        )
        theirs.append(extracted[0])
    assert all(np.array_equal(one, other) for one, other in zip(drawn, theirs, strict=True))
    together = np.concatenate(theirs)
    low, high = np.percentile(together, (0.5, 99.5))
    expected = {"low": low, "high": high, "mean": together.mean(), "std": together.std()}
    assert pool(drawn) == pytest.approx(expected, abs=1e-3)


def test_background_and_voxels_to_ignore_are_not_drawn():
    image = np.array([[[10, 20, 30, 40]]], np.int16)
    labels = np.array([[[0, 3, 255, 3]]], np.uint8)
    assert set(draw_foreground(image, labels)) == {20, 40}
    assert draw_foreground(image, np.zeros_like(labels)).size == 0


def test_each_case_weighs_the_same_whatever_its_size():
    small, large = np.full(SAMPLES, 0.0, np.float32), np.full(SAMPLES, 100.0, np.float32)
    assert pool([small, large])["mean"] == 50


@pytest.mark.parametrize("processes", [1, 2])
def test_a_training_set_is_measured_and_only_what_is_new_is_read_again(cohort, tmp_path, processes):
    results, cases = cohort
    output = tmp_path / "intensity.json"
    measure(results, MODEL, SETTINGS, processes, output)
    first = read_json(output)
    assert first["intensity"] == pool([draw_foreground(*arrays(case)) for case in cases])
    assert first["cases"] == 3
    assert first["cases_without_foreground"] == []
    written = {path: path.stat().st_mtime_ns for path in results.root.glob("store/intensities/*/case*.npy")}
    assert len(written) == 3

    write_cases(results.cases, [*cases, write_case(tmp_path, 3)])
    measure(results, MODEL, SETTINGS, processes, output)
    assert read_json(output)["cases"] == 4
    assert read_json(output)["intensity"] != first["intensity"]
    assert {path: path.stat().st_mtime_ns for path in written} == written

    write_cases(results.cases, cases)
    for path in written:
        path.unlink()
    measure(results, MODEL, SETTINGS, processes, output)
    assert read_json(output) == first


def test_drawn_voxels_with_a_flipped_bit_are_not_pooled(cohort, tmp_path):
    results, cases = cohort
    measure(results, MODEL, SETTINGS, 1, tmp_path / "intensity.json")
    drawn = next(results.root.glob("store/intensities/*/case*.npy"))
    flip(drawn, 200)
    write_cases(results.cases, [*cases, write_case(tmp_path, 3)])
    with pytest.raises(StoreError, match=rf"{drawn.name} is missing or damaged; run `flare23 verify --deep`"):
        measure(results, MODEL, SETTINGS, 1, tmp_path / "intensity.json")


def test_a_case_without_foreground_is_named_and_a_set_of_such_cases_refused(cohort, tmp_path):
    results, cases = cohort
    blank = np.zeros_like(arrays(cases[0])[1])
    nifti.write_volume(cases[0].label, blank, nifti.read_volume(cases[0].label).header)
    cases[0] = replace(cases[0], label_id=file_identity(cases[0].label))
    write_cases(results.cases, cases)
    measure(results, MODEL, SETTINGS, 1, tmp_path / "intensity.json")
    assert read_json(tmp_path / "intensity.json")["cases_without_foreground"] == ["case0"]
    write_cases(results.cases, cases[:1])
    with pytest.raises(TrainingError, match="no case has a labeled voxel"):
        measure(results, MODEL, SETTINGS, 1, tmp_path / "intensity.json")


def test_measured_numbers_take_the_place_of_measure_and_given_ones_stay(tmp_path):
    record = tmp_path / "intensity.json"
    numbers = {"low": -1.0, "high": 2.0, "mean": 0.5, "std": 1.5}
    record.write_text(json.dumps({"intensity": numbers}))
    given = Config.load([RECIPE], CHANGES).training_settings(MODEL)
    asked = changed(given, intensity="measure")
    made = with_intensity(asked, record).to_json()
    assert json.dumps(made["intensity"]) == json.dumps(numbers), "measured numbers stay as they were written"
    assert made == {**asked.to_json(), "intensity": numbers}
    assert with_intensity(given, None) == given
    with pytest.raises(ConfigError, match="--intensity"):
        with_intensity(asked, None)
    with pytest.raises(StoreError, match=r"intensity\.json is missing"):
        with_intensity(asked, tmp_path / "no" / "intensity.json")


def test_the_configuration_takes_measure_for_one_model_or_for_all():
    one = Config.load([RECIPE], {**CHANGES, "models": {**CHANGES["models"], MODEL: {
        **CHANGES["models"][MODEL], "intensity": "measure"}}})  # fmt: skip
    every = Config.load([RECIPE], {**CHANGES, "model_defaults": {"intensity": "measure"}})
    assert one.models[MODEL].intensity == every.models[MODEL].intensity == "measure"
    assert Config.load([RECIPE], CHANGES).models[MODEL].intensity != "measure"
    assert one.intensity_settings(MODEL) == SETTINGS
    assert one.preprocessing_settings(MODEL).intensity == "measure"
