"""One case that fails in a shard stops no other: the stages that go case by case."""

import gzip
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trainings
from engines import write_work
from places import RECIPE

from flare23_lib.cache.entries import Shard
from flare23_lib.cache.results import Results
from flare23_lib.config import Config
from flare23_lib.config.training_models import InferenceSettings
from flare23_lib.dataset.cases import Case, read_cases, write_cases
from flare23_lib.errors import CasesFailedError
from flare23_lib.inference.segmentations import LABELS, ModelUse, predict_validation
from flare23_lib.io import nifti
from flare23_lib.io.identity import file_identity
from flare23_lib.io.nifti import header_for, read_labels, read_volume, write_volume
from flare23_lib.io.tables import read_csv, write_csv
from flare23_lib.preprocessing.fit_intensity import measure
from flare23_lib.preprocessing.preprocess_cases import preprocess
from flare23_lib.pseudo_labels.complete import CompletionJob, complete

SHARD = Shard(0, 1)
INFERENCE = {"step": 0.5, "tta": False, "windows": "all", "precision": "float32"}
USE = ModelUse("student", InferenceSettings.from_json(INFERENCE), "cpu")


def cut(path):
    path.write_bytes(path.read_bytes()[:-20])


def huge_spacing(path):
    """Make each voxel 8 m long: the image would fill any memory at the model's spacing."""
    header, raw = nifti.read_volume(path).header, nifti.read_volume(path).array
    header["pixdim"][1:4] *= 4000
    header.set_sform(np.diag([-8000.0, -8000.0, 12000.0, 1.0]), code=1)
    write_volume(path, raw, header)


def bomb(path):
    """Make the file a header that claims what no memory holds."""
    header = nifti.read_volume(path).header.copy()
    header["dim"][1:4] = 32767
    path.write_bytes(gzip.compress(header.binaryblock.ljust(352, b"\0") + bytes(10000)))


@pytest.fixture
def cohort(tmp_path):
    """Four training cases, nothing made of them yet."""
    results = Results(tmp_path / "results")
    write_cases(results.cases, [trainings.write_case(tmp_path, number) for number in range(4)])
    return results


def settings():
    return Config.load([RECIPE], trainings.CHANGES)


def image_of(results, number):
    return Path(read_cases(results.cases)[number].image)


@pytest.mark.parametrize("spoil", [cut, bomb, lambda path: path.unlink(), lambda path: path.write_bytes(b"")])
def test_preprocessing_names_a_failing_case_and_does_the_others(cohort, caplog, spoil):
    spoil(image_of(cohort, 1))
    record = cohort.shard("preprocessed", trainings.MODEL, SHARD)
    with pytest.raises(CasesFailedError, match=r"1 of 4 cases failed \(case1\)"):
        preprocess(cohort, settings().preprocessing_settings(trainings.MODEL), [8, 16, 16], SHARD, record)
    assert [message for message in caplog.messages if message.startswith("case1: ")] != []
    assert not record.exists()
    assert len(list(cohort.root.glob("store/preprocessed_images/*/case*.b2nd"))) == 3
    trainings.write_case(cohort.root.parent, 1)
    preprocess(cohort, settings().preprocessing_settings(trainings.MODEL), [8, 16, 16], SHARD, record)
    assert [row["case"] for row in read_csv(record)] == ["case0", "case1", "case2", "case3"]


def test_a_case_of_absurd_spacing_is_named_and_the_others_are_done(cohort):
    huge_spacing(image_of(cohort, 2))
    record = cohort.shard("preprocessed", trainings.MODEL, SHARD)
    with pytest.raises(
        CasesFailedError, match=r"case2.*image2.nii.gz: would have .* voxels .* at the model's spacing"
    ):
        preprocess(cohort, settings().preprocessing_settings(trainings.MODEL), [8, 16, 16], SHARD, record)
    assert len(list(cohort.root.glob("store/preprocessed_images/*/case*.b2nd"))) == 3


@pytest.mark.parametrize("processes", [1, 2])
def test_measuring_intensities_names_a_failing_case(cohort, processes):
    cut(image_of(cohort, 1))
    with pytest.raises(CasesFailedError, match=r"1 of 4 cases failed \(case1\).*image1.nii.gz: the gzip stream"):
        measure(cohort, "student", settings().intensity_settings(trainings.MODEL), processes, cohort.root / "i.json")
    assert len(list(cohort.root.glob("store/intensities/*/case*.npy"))) == 3


@pytest.mark.parametrize("broken", [[0], [1], [0, 1], [3], [0, 2, 3]])
def test_segmenting_names_failing_cases_and_does_the_others(tmp_path, broken):
    results = Results(tmp_path / "results")
    cases = write_work(results, "student", 4)
    for number in broken:
        cut(Path(cases[number].image))
    record = results.shard("predictions", "student", SHARD)
    with pytest.raises(CasesFailedError, match=f"{len(broken)} of 4 cases failed"):
        predict_validation(results, USE, SHARD, record)
    assert not record.exists()
    assert len(list(results.root.glob("store/segmentations/*/case*.nii.gz"))) == 4 - len(broken)


def test_a_segmentation_of_another_image_than_the_one_that_was_seen_is_not_kept(tmp_path):
    results = Results(tmp_path / "results")
    (case,) = write_work(results, "student", 1)
    volume = read_volume(case.image)
    write_volume(case.image, volume.array + np.int16(1), volume.header)
    record = results.shard("predictions", "student", SHARD)
    with pytest.raises(CasesFailedError, match=r"case0\.nii\.gz: has changed since the cohort was read"):
        predict_validation(results, USE, SHARD, record)
    assert not list(results.root.glob("store/segmentations/*/case*"))


def test_completing_names_a_failing_case_and_does_the_others(tmp_path):
    results = Results(tmp_path / "results")
    config = Config.load([RECIPE])
    shape, affine = (4, 6, 6), np.diag([10.0, 10.0, 10.0, 1.0])
    array = np.ones(shape, np.uint8)
    store = results.cache("segmentations", {"made": "by hand"}).create()
    cases, rows = [], []
    for number in range(3):
        label, entry = tmp_path / f"label{number}.nii.gz", store.entry(f"case{number}", {})
        write_volume(label, array, header_for(shape, affine, array.dtype))
        write_volume(entry.file(LABELS), array, header_for(shape, affine, array.dtype))
        entry.save([LABELS], {"passes": 1})
        cases.append(Case(f"case{number}", "a", str(label), "training", {1: 9}, "tumor", shape, (10.0,) * 3,
                          label_id=file_identity(label)))  # fmt: skip
        rows.append({"case": f"case{number}", "file": results.relative(entry.file(LABELS))})
    cut(tmp_path / "label1.nii.gz")
    write_cases(results.cases, cases)
    write_csv(results.shard("pseudo_labels", "tumor", SHARD), ["case", "file"], rows)
    output = results.shard("completed_labels", "tumor", SHARD)
    job = CompletionJob(results, "tumor", None, config.completion_settings("tumor"), config.label_map.names)
    with pytest.raises(CasesFailedError, match=r"1 of 3 cases failed \(case1\).*label1.nii.gz: the gzip stream"):
        complete(job, SHARD, output)
    assert not output.exists()
    assert len(list(results.root.glob("store/completed_labels/*/case*.nii.gz"))) == 2


@pytest.mark.parametrize("kind", ["image", "label"])
def test_a_file_that_changes_after_the_scan_is_not_kept_as_the_one_that_was_seen(cohort, kind):
    """Else a label that is changed and changed back would leave what was made of the other one."""
    case = read_cases(cohort.cases)[1]
    path = Path(getattr(case, kind))
    before, volume = path.read_bytes(), read_labels(path) if kind == "label" else read_volume(path)
    write_volume(path, np.roll(volume.array, 1, 0), volume.header)
    record = cohort.shard("preprocessed", trainings.MODEL, SHARD)
    with pytest.raises(CasesFailedError, match=rf"case1.*{path.name}: has changed since the cohort was read"):
        preprocess(cohort, settings().preprocessing_settings(trainings.MODEL), [8, 16, 16], SHARD, record)
    path.write_bytes(before)
    preprocess(cohort, settings().preprocessing_settings(trainings.MODEL), [8, 16, 16], SHARD, record)
    assert len(read_csv(record)) == 4


def test_voxels_to_ignore_in_a_users_label_reach_the_training(cohort):
    """Without a word of it in the configuration: nnU-Net's dataset.json gets its ignore label."""
    case = read_cases(cohort.cases)[0]
    volume = read_labels(case.label)
    volume.array[:2] = 255
    write_volume(case.label, volume.array, volume.header)
    seen_again = replace(case, label_id=file_identity(case.label))
    write_cases(cohort.cases, [seen_again, *read_cases(cohort.cases)[1:]])
    record = cohort.shard("preprocessed", trainings.MODEL, SHARD)
    preprocess(cohort, settings().preprocessing_settings(trainings.MODEL), [8, 16, 16], SHARD, record)
    rows = read_csv(record)
    assert [cohort.metadata(row["label"])["ignored"] for row in rows] == [True, False, False, False]
    assert "255" not in rows[0]["labels_present"].split()
