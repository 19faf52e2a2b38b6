"""What `flare23 predict` and `statistics` write: names, numbers, pictures, DICOM, each as asked for."""

import csv
import errno
import json
import os
import shutil
import unicodedata
import zipfile
from dataclasses import replace
from pathlib import Path

import matplotlib.image
import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK
import torch
from dicoms import OBLIQUE, a_series, an_image, enhanced, new_uids, save
from engines import a_bundle, a_volume, volume_of
from scipy import ndimage

from flare23_lib.cli import main
from flare23_lib.inference import memory
from flare23_lib.inference.bundle import load_bundle, write_bundle
from flare23_lib.inference.image_files import MB, PredictionCase
from flare23_lib.inference.label_statistics import measure_labels
from flare23_lib.inference.model import ModelLabel
from flare23_lib.inference.segment_cases import Reader
from flare23_lib.io.dicom import DicomFile
from flare23_lib.io.dicom_search import choose_series, find_series
from flare23_lib.io.dicom_seg import read_seg
from flare23_lib.io.itk import itk_of_volume, read_itk, read_itk_geometry
from flare23_lib.io.label_tables import header_extension, label_table, read_label_table
from flare23_lib.io.nifti import header_for, read_volume, write_volume
from flare23_lib.io.rtstruct import read_rtstruct
from flare23_lib.io.tables import read_csv
from flare23_lib.report.preview import draw_preview, fullest
from flare23_lib.runtime import machine

NAMES = ("background", "liver", "right_kidney", "tumor")


def write_model(folder, names=NAMES):
    """A bundle of an untrained network, which finds something of everything."""
    labels = tuple(ModelLabel(name, value) for name, value in zip(names, (0, 1, 2, 14), strict=True))
    bundle = a_bundle((0, 1, 2, 14), labels=labels, spacing=(2.5, 0.8, 0.7), orientation="canonical")
    write_bundle(folder, bundle.model, bundle.state_dict)
    return folder


@pytest.fixture
def model(tmp_path):
    return write_model(tmp_path / "model")


@pytest.fixture
def ct(tmp_path):
    """A folder with an oblique DICOM series."""
    return save(tmp_path / "dicom" / "patient", a_series(an_image((8, 20, 24)), OBLIQUE))


def predict(model, inputs, output, *options):
    arguments = ["--model", str(model), "--input", str(inputs), "--output", str(output), *map(str, options)]
    return main(["predict", *arguments, "--precision", "float32", "--windows", "all"])


def test_a_dicom_series_gets_the_labels_of_its_nifti_file(model, ct, tmp_path):
    (series,) = choose_series(find_series(ct), ct, None)
    volume = series.read()
    write_volume(tmp_path / "nifti" / "ct_0000.nii.gz", volume.array, volume.header)
    assert predict(model, tmp_path / "nifti", tmp_path / "from_nifti") == 0
    assert predict(model, ct, tmp_path / "from_dicom") == 0
    expected = read_volume(tmp_path / "from_nifti" / "ct.nii.gz")
    labels = read_volume(tmp_path / "from_dicom" / "patient.nii.gz")
    assert np.array_equal(labels.array, expected.array)
    assert labels.geometry.difference(expected.geometry) is None
    assert len(np.unique(labels.array)) > 2
    assert read_label_table(tmp_path / "from_dicom/patient.nii.gz") == {1: "liver", 2: "right_kidney", 14: "tumor"}


def test_everything_at_once_from_dicom(model, ct, tmp_path):
    output = tmp_path / "out"
    options = ["--output-type", "nifti", "dicom-seg", "rtstruct", "--per-class", "--statistics", "--preview"]
    assert predict(model, ct, output, *options, "--run-report", tmp_path / "run.json") == 0
    labels = read_volume(output / "patient.nii.gz").array
    (series,) = choose_series(find_series(ct), ct, None)
    for read, name in ((read_seg, "patient.seg.dcm"), (read_rtstruct, "patient.rtstruct.dcm")):
        segments = {segment.name: segment.mask for segment in read(DicomFile(output / name), series)}
        assert set(segments) == set(NAMES[1:])
        assert np.array_equal(segments["tumor"], labels == 14)
    for name, value in zip(NAMES[1:], (1, 2, 14), strict=True):
        assert np.array_equal(read_volume(output / "patient" / f"{name}.nii.gz").array, labels == value)
    assert matplotlib.image.imread(output / "patient.png").shape[2] == 4
    with (output / "statistics.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert [row["label"] for row in rows] == list(NAMES[1:])
    assert int(rows[2]["voxels"]) == (labels == 14).sum()
    report = json.loads((tmp_path / "run.json").read_text())
    assert report["model"]["name"] == "tiny"
    assert len(report["model"]["weights_sha256"]) == 64
    (case,) = report["cases"]
    assert case["case"] == "patient"
    assert case["error"] is None
    assert {"read", "resample", "windows", "labels", "write"} <= set(case["seconds"])


def test_what_is_missing_is_made_from_the_labels_that_are_there(model, ct, tmp_path, monkeypatch):
    output = tmp_path / "out"
    assert predict(model, ct, output) == 0
    labels = read_volume(output / "patient.nii.gz").array
    monkeypatch.setattr("flare23_lib.inference.engine.Engine.infer", None)  # no second segmentation
    assert predict(model, ct, output, "--output-type", "nifti", "dicom-seg", "--statistics") == 0
    (series,) = choose_series(find_series(ct), ct, None)
    segments = read_seg(DicomFile(output / "patient.seg.dcm"), series)
    assert np.array_equal(segments[0].mask, labels == 1)
    assert (output / "statistics.csv").exists()


def test_only_what_is_missing_or_older_than_the_labels_is_made_from_them(model, ct, tmp_path):
    output = tmp_path / "out"
    assert predict(model, ct, output, "--output-type", "nifti", "dicom-seg", "--per-class") == 0
    liver, seg = output / "patient/liver.nii.gz", output / "patient.seg.dcm"
    volume, written = read_volume(liver), seg.read_bytes()
    write_volume(liver, np.ones_like(volume.array), volume.header)  # corrected by hand
    os.utime(output / "patient/tumor.nii.gz", (0, 0))
    options = ("--per-class", "--statistics", "--preview")
    assert predict(model, ct, output, "--output-type", "nifti", "dicom-seg", "rtstruct", *options) == 0
    assert {"patient.rtstruct.dcm", "patient.statistics.json", "patient.png"} <= {p.name for p in output.iterdir()}
    assert read_volume(liver).array.all()
    assert seg.read_bytes() == written
    assert (output / "patient/tumor.nii.gz").stat().st_mtime > 0
    assert predict(model, ct, output, "--per-class", "--overwrite") == 0
    assert np.array_equal(read_volume(liver).array, volume.array)


def test_without_nifti_only_dicom_is_written(model, ct, tmp_path):
    assert predict(model, ct, tmp_path / "out", "--output-type", "dicom-seg") == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["patient.seg.dcm"]
    assert predict(model, ct, tmp_path / "named/x.nii.gz", "--output-type", "dicom-seg") == 0
    assert [path.name for path in (tmp_path / "named").iterdir()] == ["x.seg.dcm"]


def test_without_label_files_only_labels_are_written(model, ct, tmp_path):
    assert predict(model, ct, tmp_path / "out", "--no-label-files") == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["patient.nii.gz"]


def test_chosen_labels_are_those_of_the_whole_run(model, ct, tmp_path, capsys):
    assert predict(model, ct, tmp_path / "all") == 0
    assert predict(model, ct, tmp_path / "some", "--labels-only", "tumor", "liver") == 0
    whole, some = (read_volume(tmp_path / name / "patient.nii.gz").array for name in ("all", "some"))
    assert np.array_equal(some, np.where(np.isin(whole, [1, 14]), whole, 0))
    assert read_label_table(tmp_path / "some" / "patient.nii.gz") == {1: "liver", 14: "tumor"}
    assert (tmp_path / "some" / "labels.ctbl").read_text().count("\n") == 5
    assert predict(model, ct, tmp_path / "some", "--labels-only", "spleen") == 2
    assert (
        "flare23: --labels-only: there is no label 'spleen'; the labels are liver, right_kidney, tumor"
        in capsys.readouterr().err
    )


def test_labels_of_another_choice_are_not_taken_for_those_asked_for(model, ct, tmp_path, caplog):
    assert predict(model, ct, tmp_path / "out", "--labels-only", "liver") == 0
    assert predict(model, ct, tmp_path / "out") == 1
    assert "holds other labels (liver); give another output, or replace it with --overwrite" in caplog.text
    assert predict(model, ct, tmp_path / "out", "--overwrite") == 0


def test_labels_of_another_model_or_other_options_are_not_taken_for_those_asked_for(model, ct, tmp_path, caplog):
    assert predict(model, ct, tmp_path / "out", "--statistics") == 0
    assert predict(model, ct, tmp_path / "out", "--step", "0.9") == 1
    assert "holds the labels of another model or other options (tiny " in caplog.text
    figures = (tmp_path / "out/patient.statistics.json").stat().st_mtime_ns
    assert predict(model, ct, tmp_path / "out", "--overwrite", "--step", "0.9") == 0
    assert predict(model, ct, tmp_path / "out", "--statistics", "--step", "0.9") == 0
    assert (tmp_path / "out/patient.statistics.json").stat().st_mtime_ns > figures, "older than the labels"


@pytest.mark.parametrize("on_the_same_grid", [True, False])
def test_labels_of_others_are_neither_taken_for_ours_nor_replaced_unasked(
    model, ct, tmp_path, caplog, on_the_same_grid
):
    (series,) = choose_series(find_series(ct), ct, None)
    volume = series.read()
    shape, affine = (volume.array.shape, volume.geometry.affine) if on_the_same_grid else ((5, 6, 7), np.eye(4))
    write_volume(tmp_path / "out/patient.nii.gz", np.ones(shape, np.uint8), header_for(shape, affine, np.uint8))
    before = (tmp_path / "out/patient.nii.gz").read_bytes()
    assert predict(model, ct, tmp_path / "out", "--output-type", "nifti", "dicom-seg") == 1
    assert "holds labels that do not say which model and image they are of" in caplog.text
    assert (tmp_path / "out/patient.nii.gz").read_bytes() == before
    assert not (tmp_path / "out/patient.seg.dcm").exists()


@pytest.mark.parametrize("kind", ["dicom-seg", "rtstruct"])
def test_dicom_of_another_patient_or_choice_is_not_taken_for_what_is_asked_for(model, tmp_path, caplog, kind):
    for name in ("p1", "p2"):
        save(tmp_path / name / "CT", a_series(an_image(seed=ord(name[1]))))
    output, only = tmp_path / "out", ("--output-type", kind)
    assert predict(model, tmp_path / "p1/CT", output, *only) == 0
    (written,) = output.iterdir()
    before = written.read_bytes()
    assert predict(model, tmp_path / "p1/CT", output, *only) == 0
    assert written.read_bytes() == before
    for folder, options in (
        ("p2", only),
        ("p1", (*only, "--step", "0.9")),
        ("p1", (*only, "--labels-only", "liver")),
    ):
        caplog.clear()
        assert predict(model, tmp_path / folder / "CT", output, *options) == 1
        assert "exists and holds what was made from another image, or by another model" in caplog.text
    assert written.read_bytes() == before
    assert predict(model, tmp_path / "p1/CT", output, *only, "--statistics", "--overwrite") == 0
    assert predict(model, tmp_path / "p2/CT", output, *only, "--overwrite") == 0
    assert "CT.statistics.json: may be of earlier labels" in caplog.text
    assert predict(model, tmp_path / "p2/CT", output, *only, "--statistics") == 0
    assert json.loads((output / "CT.statistics.json").read_text())["image"].startswith(str(tmp_path / "p2"))


def test_dicom_of_earlier_labels_is_made_again(model, ct, tmp_path):
    output, both = tmp_path / "out", ("--output-type", "nifti", "dicom-seg")
    assert predict(model, ct, output, *both) == 0
    before = (output / "patient.seg.dcm").read_bytes()
    assert predict(model, ct, output, "--step", "0.9", "--overwrite") == 0
    labels = (output / "patient.nii.gz").read_bytes()
    assert predict(model, ct, output, "--step", "0.9", *both) == 0
    assert (output / "patient.seg.dcm").read_bytes() != before
    assert (output / "patient.nii.gz").read_bytes() == labels


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".mhd", ".nhdr", ".nrrd"])
def test_labels_of_another_image_are_not_taken_for_those_asked_for(model, tmp_path, caplog, suffix):
    volume = a_volume((8, 20, 24), dtype=np.int16)
    for name, added in (("a", 0), ("b", 1)):
        array = volume.array + np.int16(added)
        (tmp_path / name).mkdir()
        if suffix.startswith(".nii"):
            write_volume(tmp_path / name / f"ct{suffix}", array, volume.header)
        else:
            SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array), tmp_path / name / f"ct{suffix}")
    assert predict(model, tmp_path / "a", tmp_path / "out") == 0
    assert predict(model, tmp_path / "b", tmp_path / "out") == 1
    assert "holds the labels of another image (" in caplog.text
    assert predict(model, tmp_path / "a", tmp_path / "out") == 0
    assert predict(model, tmp_path / "b", tmp_path / "out", "--overwrite") == 0


@pytest.mark.parametrize("kind", ["nifti", "dicom-seg"])
def test_labels_of_a_series_that_was_corrected_are_not_taken_for_those_asked_for(model, ct, tmp_path, caplog, kind):
    options = (tmp_path / "out", "--output-type", kind)
    caplog.set_level("INFO")
    assert predict(model, ct, *options) == 0
    assert predict(model, ct, *options) == 0
    assert "exists already" in caplog.text
    for path in ct.iterdir():
        dataset = pydicom.dcmread(path)
        dataset.RescaleIntercept = -1000
        dataset.save_as(path)
    assert predict(model, ct, *options) == 1
    assert "another image" in caplog.text


def test_only_broken_labels_are_made_again_unasked(model, tmp_path, caplog):
    volume = a_volume((8, 20, 24), dtype=np.int16)
    write_volume(tmp_path / "in/ct.nii.gz", volume.array, volume.header)
    labels = tmp_path / "out/ct.nii.gz"
    labels.parent.mkdir()
    for content in (np.zeros((4, 5, 6, 3), np.int16), None):
        if content is None:
            labels.write_bytes(b"notes, not labels, of somebody" * 20)
        else:
            nib.save(nib.Nifti1Image(content, np.eye(4)), labels)
        before = labels.read_bytes()
        assert predict(model, tmp_path / "in", tmp_path / "out") == 1
        assert "exists and holds what is no label map" in caplog.text
        assert labels.read_bytes() == before
    labels.unlink()
    assert predict(model, tmp_path / "in", tmp_path / "out") == 0
    whole = read_volume(labels).array
    labels.write_bytes(labels.read_bytes()[:-20])
    (tmp_path / "out/ct.statistics.json").touch()
    assert predict(model, tmp_path / "in", tmp_path / "out") == 0
    assert np.array_equal(read_volume(labels).array, whole)
    assert "ct.statistics.json: may be of earlier labels" in caplog.text


def test_outputs_are_named_after_the_file_that_is_given(model, tmp_path, capsys):
    volume = a_volume()
    write_volume(tmp_path / "cts/s1/ct.nii.gz", volume.array, volume.header)
    assert predict(model, tmp_path / "cts/s1/ct.nii.gz", tmp_path / "out/s1.nii.gz", "--statistics") == 0
    assert json.loads((tmp_path / "out/s1.statistics.json").read_text())["case"] == "s1"
    for name in ("s1.nrrd", "s1.seg.dcm"):
        with pytest.raises(SystemExit):
            predict(model, tmp_path / "cts/s1/ct.nii.gz", tmp_path / "out" / name)
        message = "give a folder, or X.nii.gz or X.nii, after which other kinds of files are named (X.seg.dcm)"
        assert f"{name}: {message}" in " ".join(capsys.readouterr().err.split())
    assert predict(model, tmp_path / "cts", tmp_path / "labels") == 1
    assert f"{tmp_path / 'cts/s1'} holds images: give that folder" in capsys.readouterr().err


def test_several_series_are_listed_or_all_segmented_under_their_numbers(model, tmp_path, capsys):
    study = new_uids()[0]
    for number in (3, 7):
        slices = a_series(an_image((8, 20, 24), number), uids=(study, *new_uids()[1:]), SeriesNumber=number)
        save(tmp_path / "scan", slices, f"{number}-{{}}")
    assert predict(model, tmp_path / "scan", tmp_path / "out") == 1
    assert "2 CT series; choose with --series" in capsys.readouterr().err
    (tmp_path / "scan/mixed").mkdir()
    (tmp_path / "scan/mixed/ct.nii.gz").write_bytes(b"")
    assert predict(model, tmp_path / "scan", tmp_path / "out") == 1
    first, *rows = capsys.readouterr().err.splitlines()
    assert first.endswith(f"UID or all; {tmp_path}/scan/mixed holds images: give that folder")
    assert not any("images" in row for row in rows)
    assert predict(model, tmp_path / "scan", tmp_path / "out", "--series", "7") == 0
    assert [path.name for path in (tmp_path / "out").glob("*.nii.gz")] == ["scan_7.nii.gz"]
    assert predict(model, tmp_path / "scan", tmp_path / "out", "--series", "2") == 1
    assert predict(model, tmp_path / "scan", tmp_path / "out", "--series", "all") == 0
    assert sorted(path.name for path in (tmp_path / "out").glob("*.nii.gz")) == ["scan_3.nii.gz", "scan_7.nii.gz"]


def test_series_of_several_patients_are_named_after_their_folders(model, tmp_path):
    for name in ("alice", "bob"):
        slices = a_series(an_image((8, 20, 24), ord(name[0])), SeriesNumber=2, PatientID=name)
        save(tmp_path / "cohort" / name / "CT", slices)
    report = tmp_path / "run.json"
    assert predict(model, tmp_path / "cohort", tmp_path / "out", "--series", "all", "--run-report", report) == 0
    assert sorted(path.name for path in (tmp_path / "out").glob("*.nii.gz")) == ["alice_CT.nii.gz", "bob_CT.nii.gz"]
    images = [case["image"] for case in json.loads(report.read_text())["cases"]]
    assert images == [f"{tmp_path}/cohort/{name}/CT (series 2)" for name in ("alice", "bob")]


def test_a_folder_of_dicom_and_labels_is_refused(model, ct, tmp_path, capsys):
    """As after `--output` into the folder of the series: the labels would be segmented."""
    assert predict(model, ct, ct / "seg.nii.gz") == 0
    assert predict(model, ct, tmp_path / "again") == 1
    assert "holds images (seg.nii.gz) and DICOM" in capsys.readouterr().err
    for path in ct.glob("*.dcm"):  # without a preamble
        path.write_bytes(path.read_bytes()[132:])
    assert predict(model, ct, tmp_path / "again") == 1
    assert "holds images (seg.nii.gz) and DICOM" in capsys.readouterr().err


def test_other_files_beside_images_are_no_dicom(model, ct, tmp_path):
    (series,) = choose_series(find_series(ct), ct, None)
    volume = series.read()
    write_volume(tmp_path / "images/a_0000.nii.gz", volume.array, volume.header)
    for name in ("cases.xlsx", "arrays.npz", "notes"):
        (tmp_path / "images" / name).write_bytes(b"PK\3\4" + bytes(200))
    assert predict(model, tmp_path / "images", tmp_path / "out") == 0


def test_two_labels_with_one_file_are_refused_before_anything_is_computed(ct, tmp_path, capsys):
    odd = write_model(tmp_path / "odd", ("background", "a/b", "a_b", "tumor"))
    assert predict(odd, ct, tmp_path / "out", "--per-class") == 2
    assert "2 labels would be written to a_b.nii.gz" in capsys.readouterr().err


def test_an_archive_of_several_patients_names_cases_and_loses_none(model, tmp_path, capsys):
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for folder, patient, number in (("/x", "p1", 1), ("/x", "p2", 2), ("../y", "p3", 3)):
            slices = a_series(an_image((8, 20, 24), number), SeriesNumber=number, PatientID=patient)
            for file in save(tmp_path / patient, slices).iterdir():
                archive.write(file, f"{folder}/{patient}_{file.name}")
    assert predict(model, tmp_path / "all.zip", tmp_path / "out") == 1
    listed = capsys.readouterr().err
    assert " x " in listed and " y " in listed
    assert predict(model, tmp_path / "all.zip", tmp_path / "out", "--series", "all") == 0
    assert sorted(path.name for path in (tmp_path / "out").glob("*.nii.gz")) == [
        "x_1.nii.gz", "x_2.nii.gz", "y.nii.gz",
    ]  # fmt: skip


def test_dicom_of_earlier_labels_goes_when_nothing_is_found(model, ct, tmp_path, caplog):
    types = ("--output-type", "nifti", "dicom-seg", "rtstruct")
    assert predict(model, ct, tmp_path / "out", *types, "--per-class") == 0
    bundle = load_bundle(model)
    weights = {name: torch.zeros_like(weight) for name, weight in bundle.state_dict.items()}
    write_bundle(tmp_path / "blind", bundle.model, weights)
    assert predict(tmp_path / "blind", ct, tmp_path / "out", *types, "--overwrite") == 0
    assert not read_volume(tmp_path / "out/patient.nii.gz").array.any()
    assert not list((tmp_path / "out").glob("*.dcm"))
    assert "patient/liver.nii.gz: may be of earlier labels" in caplog.text


def test_names_of_labels_do_not_lead_out_of_the_case_s_folder(ct, tmp_path):
    odd = write_model(tmp_path / "odd", ("background", "kidney/left", "../up", "tumor"))
    assert predict(odd, ct, tmp_path / "out", "--per-class") == 0
    files = sorted(path.name for path in (tmp_path / "out/patient").iterdir())
    assert files == ["_._up.nii.gz", "kidney_left.nii.gz", "tumor.nii.gz"]
    assert not list((tmp_path / "out").glob("up*"))


def test_statistics_of_others_are_passed_over(model, ct, tmp_path, caplog):
    (tmp_path / "out").mkdir()
    others = {
        "other": '{"liver": {"volume": 1}}', "list": "[1]", "cut": '{"case": "a", "lab', "bytes": "\0", "none": "",
        "rows": '{"case": "a", "labels": [{"liver": 1}]}', "number": '{"case": "a", "labels": 1}',
    }  # fmt: skip
    for name, content in others.items():
        (tmp_path / f"out/{name}.statistics.json").write_text(content)
    (tmp_path / "out/folder.statistics.json").mkdir()
    assert predict(model, ct, tmp_path / "out", "--statistics") == 0
    for name in (*others, "folder"):
        assert f"{name}.statistics.json: is passed over" in caplog.text
    assert {row["case"] for row in read_csv(tmp_path / "out/statistics.csv")} == {"patient"}


def test_statistics_that_cannot_be_read_are_made_again_from_the_labels(model, ct, tmp_path):
    own = tmp_path / "out/patient.statistics.json"
    assert predict(model, ct, tmp_path / "out", "--statistics") == 0
    content, table = own.read_text(), (tmp_path / "out/statistics.csv").read_text()
    own.write_text(content[:100])
    assert predict(model, ct, tmp_path / "out", "--statistics") == 0
    assert own.read_text() == content
    assert (tmp_path / "out/statistics.csv").read_text() == table


def test_statistics_are_not_passed_over_where_a_disk_fails(model, ct, tmp_path, monkeypatch, capsys):
    assert predict(model, ct, tmp_path / "out", "--statistics") == 0
    own = tmp_path / "out/patient.statistics.json"
    reading = Path.read_bytes

    def fail(path):
        if path == own:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return reading(path)

    monkeypatch.setattr(Path, "read_bytes", fail)
    assert predict(model, ct, tmp_path / "out", "--statistics") == 1
    assert str(own) in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "single"),
    [("labels.csv", False), ("labels.ctbl", True), ("labels.itksnap.txt", False), ("statistics.csv", True)],
)
def test_tables_of_others_are_refused_unless_they_may_be_replaced(model, tmp_path, capsys, name, single):
    volume, output = a_volume(), tmp_path / "out"
    write_volume(tmp_path / "in/x.nii.gz", volume.array, volume.header)
    output.mkdir()
    mine, other = ((output / f"{prefix}{name}") for prefix in (("x.", "") if single else ("", "x.")))
    for file in (mine, other):
        file.write_text("patient;volume\n1;2\n")
    target = output / "x.nii.gz" if single else output
    assert predict(model, tmp_path / "in/x.nii.gz", target, "--statistics") == 1
    assert f"flare23: {mine}: exists and was not written by flare23" in capsys.readouterr().err
    assert sorted(output.iterdir()) == sorted((mine, other))
    for overwrite in (["--overwrite"], []):
        assert predict(model, tmp_path / "in/x.nii.gz", target, "--statistics", *overwrite) == 0
    assert "patient;volume" in other.read_text()
    assert "patient;volume" not in mine.read_text()


def test_a_table_of_others_is_not_replaced_by_statistics(tmp_path, capsys):
    (tmp_path / "statistics.csv").write_text("mine")
    folders = [f"--{name}={tmp_path}" for name in ("labels", "images", "output")]
    assert main(["statistics", *folders]) == 1
    assert f"{tmp_path}/statistics.csv: exists and was not written by flare23" in capsys.readouterr().err
    assert (tmp_path / "statistics.csv").read_text() == "mine"


@pytest.mark.parametrize("name", ["x.png", "x.statistics.json", "x/liver.nii.gz"])
def test_files_of_others_under_names_of_a_case_are_refused_unless_they_may_be_replaced(model, tmp_path, caplog, name):
    volume, mine = a_volume(), tmp_path / "out" / name
    write_volume(tmp_path / "in/x.nii.gz", volume.array, volume.header)
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    options = ("--per-class", "--statistics", "--preview")
    assert predict(model, tmp_path / "in", tmp_path / "out", *options) == 1
    assert f"{mine}: exists and holds what may be of others" in caplog.text
    assert mine.read_bytes() == b"mine"
    assert predict(model, tmp_path / "in", tmp_path / "out", *options, "--overwrite") == 0
    assert mine.read_bytes() != b"mine"


def test_hidden_statistics_and_those_beside_a_single_file_are_left_out(model, ct, tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    for name in ("._patient", ".partial-other"):
        (output / f"{name}.statistics.json").write_bytes(b"\0\5\x16\7")
    (output / "other.statistics.json").write_text('{"case": "other", "labels": []}')
    assert predict(model, ct, output, "--statistics") == 0
    (output / "statistics.csv").write_text("mine")
    assert predict(model, ct, output / "x.nii.gz", "--statistics") == 0
    assert (output / "statistics.csv").read_text() == "mine"
    assert {row["case"] for row in read_csv(output / "x.statistics.csv")} == {"x"}


def test_a_zip_and_a_single_output_file(model, ct, tmp_path):
    archive = shutil.make_archive(str(tmp_path / "ct"), "zip", ct)
    assert predict(model, archive, tmp_path / "seg.nii.gz") == 0
    assert (tmp_path / "seg.nii.gz").exists()
    assert (tmp_path / "seg.labels.csv").exists()
    assert not (tmp_path / "labels.csv").exists()


def test_a_gap_is_named_and_interpolated_on_request(model, tmp_path, caplog, capsys):
    slices = a_series(an_image((12, 20, 24)))
    save(tmp_path / "gap", slices[:6] + slices[7:])
    assert predict(model, tmp_path / "gap", tmp_path / "out") == 1
    assert "1 slices are missing between instance 6" in caplog.text
    assert predict(model, tmp_path / "gap", tmp_path / "out", "--irregular", "resample") == 0
    assert read_volume(tmp_path / "out" / "gap.nii.gz").geometry.shape == (12, 20, 24)
    assert "its 11 slices were interpolated to 12" in caplog.text
    options = ("--irregular", "resample", "--output-type", "dicom-seg")
    assert predict(model, tmp_path / "gap", tmp_path / "other", *options) == 1
    assert "its slices are interpolated, so that there can be no DICOM of it" in caplog.text
    assert not list((tmp_path / "other").glob("gap*"))


@pytest.mark.parametrize(("limit", "code"), [(2000, 1), (16000, 0)])
def test_without_memory_the_limit_is_that_of_the_container_if_it_has_less(
    model, ct, tmp_path, caplog, monkeypatch, limit, code
):
    """A case that needs 3 GB is refused in a container of 2, and not killed by it."""
    early, needed = [], 3000 * MB
    monkeypatch.setattr(machine, "available_memory", lambda: 32_000 * MB)
    monkeypatch.setattr(machine, "memory_limit", lambda: limit * MB)
    monkeypatch.setattr(Reader, "start_early", lambda self, size: early.append(size))
    monkeypatch.setattr(memory, "_with_cost", lambda plan, *_: replace(plan, host=needed))
    assert predict(model, ct, tmp_path / "out") == code
    assert early == [min(8000, 0.9 * limit) * MB]
    if code:
        assert "needs 3000 MB of memory, the limit is 1800 (nine tenths of what machine, job or" in caplog.text


def test_dicom_that_cannot_be_written_is_refused_before_the_segmentation(model, tmp_path, caplog, monkeypatch):
    slices = a_series(an_image((8, 20, 24)))
    save(tmp_path / "frames", [enhanced(slices[:4]), enhanced(slices[4:])])
    both = ("--output-type", "nifti", "rtstruct")
    assert predict(model, tmp_path / "frames", tmp_path / "out", *both) == 0
    slices = a_series(an_image((8, 20, 24)))
    for one in slices:
        one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = slices[0].SOPInstanceUID
    save(tmp_path / "uids", slices)
    assert predict(model, tmp_path / "uids", tmp_path / "out") == 0
    monkeypatch.setattr("flare23_lib.inference.engine.Engine.infer", None)
    assert predict(model, tmp_path / "frames", tmp_path / "seg", "--output-type", "dicom-seg") == 1
    assert "is in 2 multi-frame files, of which there can be no dicom-seg" in caplog.text
    assert predict(model, tmp_path / "uids", tmp_path / "seg", *both) == 1
    assert "its files have no UIDs of their own, so that there can be no DICOM of it" in caplog.text


@pytest.mark.parametrize("with_nifti", [True, False])
def test_dicom_that_cannot_be_written_ends_no_other_output(model, ct, tmp_path, caplog, monkeypatch, with_nifti):
    def fails(*_):
        raise ValueError("a header that\nno one foresaw")

    monkeypatch.setattr("flare23_lib.io.dicom_seg.write_seg", fails)
    types = [*["nifti"] * with_nifti, "dicom-seg", "rtstruct"]
    options = ("--output-type", *types, "--statistics", "--preview", "--per-class")
    assert predict(model, ct, tmp_path / "out", *options) == 1
    message = f"{tmp_path / 'out/patient.seg.dcm'}: cannot be written (a header that)"
    there = f"; the labels are in {tmp_path / 'out/patient.nii.gz'}" if with_nifti else ""
    assert caplog.messages[-1].endswith(message + there)
    names = ["patient.statistics.json", "patient.png", "patient/liver.nii.gz", "patient.rtstruct.dcm"]
    names += ["patient.nii.gz"] * with_nifti
    assert all((tmp_path / "out" / name).exists() for name in names)


def test_slices_that_say_they_have_one_frame_are_no_multi_frame_files(model, tmp_path):
    save(tmp_path / "ct", a_series(an_image((8, 20, 24)), NumberOfFrames=1))
    assert predict(model, tmp_path / "ct", tmp_path / "seg", "--output-type", "dicom-seg") == 0


@pytest.mark.parametrize("change", [{"PatientID": "B"}, {"PixelSpacing": [0.8, 0.9]}, {"ImageComments": "longer"}])
def test_a_series_has_the_identity_of_its_patient_spacing_and_sizes(tmp_path, change):
    uids, slices = new_uids(), []
    for number, changes in enumerate(({}, change)):
        slices = [*slices, a_series(an_image((8, 20, 24)), uids=uids, **changes)]
        for one, first in zip(slices[-1], slices[0], strict=True):
            one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = first.SOPInstanceUID
        save(tmp_path / str(number), slices[-1])
    one, other = (
        PredictionCase("x", find_series(tmp_path / str(number)).series[0], tmp_path / "x.nii.gz") for number in (0, 1)
    )
    assert one.identity != other.identity


NRRD = "NRRD0004\ntype: short\ndimension: 3\nsizes: 24 20 8\nencoding: raw\nendian: little\n"
META = "NDims = 3\nDimSize = 24 20 8\nBinaryData = True\nElementType = MET_SHORT\n"
AXES = "space directions: (1,0,0) (0,1,0) (0,0,2)\n"


@pytest.mark.parametrize(
    ("name", "header", "guessed"),
    [
        ("x.nrrd", NRRD + "spacings: 1 1 2\n\n", True),
        ("x.nrrd", NRRD + "space dimension: 3\n" + AXES + "\n", True),
        ("x.nrrd", NRRD + "space: RAS\n" + AXES + "\n", False),
        ("x.nrrd", NRRD + "Space: RAS\n" + AXES.title() + "\n", False),
        ("x.mha", META + "ElementDataFile = LOCAL\n", True),
        ("x.mha", META + "TransformMatrix = 1 0 0 0 1 0 0 0 1\nElementDataFile = LOCAL\n", False),
    ],
)
def test_without_directions_of_axes_a_warning_says_that_sides_are_a_guess(
    model, tmp_path, caplog, name, header, guessed
):
    (tmp_path / name).write_bytes(header.encode() + an_image((8, 20, 24)).tobytes())
    assert predict(model, tmp_path / name, tmp_path / "out") == 0
    assert ("its header has no directions of the axes: left and right are a guess" in caplog.text) == guessed
    geometry, _ = read_itk_geometry(tmp_path / name)
    assert read_volume(tmp_path / "out/x.nii.gz").geometry.difference(geometry) is None


def test_dicom_output_of_a_nifti_file_is_refused(model, tmp_path, capsys):
    volume = a_volume((8, 20, 24), dtype=np.int16)
    write_volume(tmp_path / "in" / "x.nii.gz", volume.array, volume.header)
    assert predict(model, tmp_path / "in", tmp_path / "out", "--output-type", "dicom-seg") == 1
    assert "is no DICOM series" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".mhd"])
def test_other_formats_are_segmented_as_nifti(model, tmp_path, suffix):
    affine = np.diag([-0.7, -0.8, 2.5, 1])
    affine[:3, 3] = (40, 30, -20)
    volume = volume_of(a_volume((8, 20, 24), dtype=np.int16).array, affine)
    (tmp_path / "itk").mkdir()
    SimpleITK.WriteImage(itk_of_volume(volume.array, affine), tmp_path / "itk" / f"x{suffix}")
    write_volume(tmp_path / "nifti" / "x.nii.gz", volume.array, volume.header)
    read, (geometry, size) = (f(tmp_path / "itk" / f"x{suffix}") for f in (read_itk, read_itk_geometry))
    assert np.array_equal(read.array, volume.array)
    assert geometry.difference(read.geometry) is None
    assert size == 2 * volume.array.nbytes  # SimpleITK's copy and ours
    for folder in ("itk", "nifti"):
        assert predict(model, tmp_path / folder, tmp_path / f"{folder}_out") == 0
    one, other = (read_volume(tmp_path / f"{folder}_out" / "x.nii.gz") for folder in ("itk", "nifti"))
    assert np.array_equal(one.array, other.array)
    assert one.geometry.difference(other.geometry) is None


def statistics_case():
    rng = np.random.default_rng(0)
    image = rng.integers(-200, 300, (10, 30, 40)).astype(np.int16)
    labels = np.zeros(image.shape, np.uint8)
    labels[2:6, 4:12, 0:9] = 1
    labels[3, 5, 5] = labels[4, 6, 6] = labels[8, 20, 20] = 14  # two that touch at a corner, and one more
    affine = np.diag([0.7, 0.8, 2.5, 1.0])
    affine[1, 2] = 0.5  # sheared: a voxel's volume is the determinant
    return volume_of(image, affine), labels


def test_statistics_are_those_of_numpy():
    volume, labels = statistics_case()
    table = label_table(["liver", "spleen", "tumor"], [1, 3, 14], ["tumor"])
    liver, spleen, tumor = measure_labels(labels, volume, table)
    values = volume.array[labels == 1]
    assert liver.voxels == values.size
    assert liver.volume_ml == pytest.approx(values.size * 0.7 * 0.8 * 2.5 / 1000, abs=1e-4)
    assert liver.hu_mean == pytest.approx(values.mean(), abs=0.01)
    assert liver.hu_sd == pytest.approx(values.std(ddof=1), abs=0.01)
    assert liver.hu_median == np.median(values)
    assert (liver.touches_border, liver.components) == (True, None)
    assert (spleen.voxels, spleen.volume_ml, spleen.hu_mean, spleen.hu_median) == (0, 0, None, None)
    assert tumor.components == ndimage.label(labels == 14, np.ones((3, 3, 3)))[1] == 2
    assert not tumor.touches_border


def test_a_name_of_a_value_that_no_label_file_holds_has_no_voxels(tmp_path):
    volume, labels = statistics_case()
    names = header_extension(label_table(["liver", "tumor", "other"], [1, 14, 1000]))
    write_volume(tmp_path / "images/x_0000.nii.gz", volume.array, volume.header)
    write_volume(tmp_path / "labels/x.nii.gz", labels, volume.header, names)
    folders = [f"--{name}={tmp_path / name}" for name in ("labels", "images", "output")]
    assert main(["statistics", *folders]) == 0
    found = {row["label"]: row["voxels"] != "0" for row in read_csv(tmp_path / "output/statistics.csv")}
    assert found == {"liver": True, "tumor": True, "other": False}


def test_statistics_of_files_name_labels_by_the_files_or_the_model(model, tmp_path, capsys, caplog):
    volume, labels = statistics_case()
    header = volume.header
    write_volume(tmp_path / "images" / "x_0000.nii.gz", volume.array, header)
    write_volume(tmp_path / "labels" / "x.nii.gz", labels, header)
    command = ["statistics"]
    for name in ("labels", "images", "output"):
        command += [f"--{name}", str(tmp_path / name)]
    assert main(command) == 0
    rows = json.loads((tmp_path / "output" / "x.statistics.json").read_text())["labels"]
    assert [row["label"] for row in rows] == ["1", "14"]
    assert main([*command, "--model", str(model)]) == 0
    with (tmp_path / "output" / "statistics.csv").open() as handle:
        assert [row["label"] for row in csv.DictReader(handle)] == ["liver", "right_kidney", "tumor"]
    write_volume(tmp_path / "labels" / "x.nii.gz", np.where(labels == 14, np.int16(257), labels), header)
    assert main(command) == 1
    assert "x.nii.gz: has label values that are not from 0 to 255" in caplog.text
    write_volume(tmp_path / "labels" / "x.nii.gz", labels, header)
    write_volume(tmp_path / "images" / "x_0000.nii.gz", np.full(labels.shape, np.nan, np.float32), header)
    assert main(command) == 1
    assert "x_0000.nii.gz: the image has values that are no numbers" in caplog.text
    write_volume(tmp_path / "labels" / "x.nii.gz", labels[:-1], nib.Nifti1Image(labels[:-1].T, np.eye(4)).header)
    assert main(command) == 1
    assert "0 of 1 cases measured" in capsys.readouterr().out


def test_statistics_of_a_folder_without_labels_are_one_line(tmp_path, capsys, caplog):
    volume, _ = statistics_case()
    for name in ("a", "b"):
        write_volume(tmp_path / f"images/{name}.nii.gz", volume.array, volume.header)
    (tmp_path / "labels").mkdir()
    for name, words in (("labels", "holds no label files"), ("tpyo", "no such file or folder")):
        command = [
            f"--labels={tmp_path / name}",
            f"--images={tmp_path / 'images'}",
            f"--output={tmp_path / 'output'}",
        ]
        assert main(["statistics", *command]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"flare23: {tmp_path / name}: {words}")
    assert caplog.messages == []
    assert not (tmp_path / "output").exists()


def test_statistics_find_labels_however_their_names_are_encoded_and_tell_those_without_an_image(tmp_path, caplog):
    volume, labels = statistics_case()
    for form, name in (("NFC", "images/Müller_0000"), ("NFD", "labels/Müller"), ("NFC", "labels/other")):
        array = volume.array if name.startswith("images") else labels
        write_volume(tmp_path / f"{unicodedata.normalize(form, name)}.nii.gz", array, volume.header)
    command = ["statistics", "--labels", str(tmp_path / "labels"), "--output", str(tmp_path / "output"), "--images"]
    assert main([*command, str(tmp_path / "images")]) == 1
    assert {row["case"] for row in read_csv(tmp_path / "output/statistics.csv")} == {"Müller"}
    assert caplog.messages == [f"{tmp_path}/labels/other.nii.gz: has no image in {tmp_path}/images and was left out"]
    assert main([*command, str(tmp_path / "images/Müller_0000.nii.gz")]) == 0


def test_a_preview_shows_where_most_was_found(tmp_path):
    labels = np.zeros((6, 8, 10), np.uint8)
    labels[2, 1, 1], labels[2, 2, 2], labels[4] = 1, 2, 1
    assert fullest(labels, 0) == 2
    assert fullest(np.zeros_like(labels), 1) == 4
    volume = volume_of(np.zeros(labels.shape, np.int16), np.diag([-1, -1, 2.0, 1]))
    table = label_table(["liver", "spleen"], [1, 2])
    for name, shown in (("some", labels), ("none", np.zeros_like(labels))):
        draw_preview(tmp_path / f"{name}.png", name, volume, shown, table)
    some, none = (matplotlib.image.imread(tmp_path / f"{name}.png") for name in ("some", "none"))
    color = np.array(table[0].color) / 255 * 0.55  # over a gray of 0.4
    orange = np.abs(some[..., :3] - color - 0.45 * 0.4).max(axis=-1) < 0.02
    assert orange.sum() > 100
    assert not (np.abs(none[..., :3] - color - 0.45 * 0.4).max(axis=-1) < 0.02).any()
