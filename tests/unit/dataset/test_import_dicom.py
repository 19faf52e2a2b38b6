"""A clinic's DICOM folder becomes images and labels, with a table of sources; names are matched, never guessed."""

import numpy as np
import pydicom
import pytest
from dicoms import a_series, an_image, new_uids, save
from pydicom.uid import generate_uid

from flare23_lib.cli import main
from flare23_lib.dataset.import_dicom import NameTable, case_of
from flare23_lib.errors import CohortError
from flare23_lib.io.dicom_search import find_series
from flare23_lib.io.dicom_seg import write_seg
from flare23_lib.io.label_tables import label_table, read_label_table
from flare23_lib.io.nifti import read_volume
from flare23_lib.io.rtstruct import write_rtstruct
from flare23_lib.io.tables import read_csv, write_csv

NAMES = "name,value,aliases\nliver,1,Leber;HEPAR 2\nright_kidney,2,\ntumor,14,GTV\n"


@pytest.fixture
def clinic(tmp_path):
    """Three series: one with a SEG, one with an RTSTRUCT, one with a gap; and a SEG without its series."""
    root = tmp_path / "clinic"
    labels = np.zeros((6, 20, 24), np.uint8)
    labels[1:5, 2:12, 3:15], labels[2:4, 5:8, 6:10], labels[3, 6, 7] = 1, 0, 14
    table = label_table(["LEBER", "unknown thing"], [1, 14])
    for name, write in (("a", write_seg), ("b", write_rtstruct), ("lost", write_seg)):
        folder = save(root / name, a_series(an_image(seed=ord(name[0]))))
        (series,) = find_series(folder).series
        write(root / "annotations" / f"{name}.dcm", series, labels, table, "clinic")
    for path in (root / "lost").iterdir():
        path.unlink()
    slices = a_series(an_image((10, 20, 24)))
    save(root / "gap", slices[:4] + slices[5:])
    (tmp_path / "names.csv").write_text(NAMES)
    return root, labels


def run(root, output, *options):
    return main(["import-dicom", "--input", str(root), "--output", str(output), *map(str, options)])


def test_series_and_annotations_become_a_cohort(clinic, tmp_path, capsys):
    root, labels = clinic
    output = tmp_path / "cohort"
    assert run(root, output, "--names", tmp_path / "names.csv") == 1  # a gap, and an annotation without its series
    said = capsys.readouterr().out
    assert "2 of 4 series imported, 2 with labels" in said
    assert "no value for 'unknown thing', in 2 annotations" in said
    rows = read_csv(output / "sources.csv")
    problems = [row["problem"] for row in rows if row["problem"]]
    assert len(problems) == 2
    assert any("1 slices are missing between instance 4" in text for text in problems)
    assert "refers to no CT series that was found" in problems
    assert read_csv(output / "unmatched_names.csv") == [{"name": "unknown thing", "annotations": "2"}]
    for name in ("a", "b"):
        (series,) = find_series(root / name).series
        case = case_of(series)
        (row,) = [row for row in rows if row["case"] == case]
        assert (row["series"], row["patient"], row["structures"]) == (series.uid, "P1", "LEBER")
        made = read_volume(output / row["label"])
        assert np.array_equal(made.array, labels == 1)
        assert read_label_table(output / row["label"]) == {1: "liver", 2: "right_kidney", 14: "tumor"}
        image = read_volume(output / "images" / f"{case}_0000.nii.gz")
        assert np.array_equal(image.array, an_image(seed=ord(name)))
        assert made.geometry.difference(image.geometry) is None


@pytest.mark.parametrize(
    ("name", "attribute"), [("a", "PixelData"), ("a", "SegmentSequence"), ("b", "StructureSetROISequence")]
)
def test_a_damaged_annotation_is_a_row_with_the_reason(clinic, tmp_path, name, attribute):
    root, output = clinic[0], tmp_path / "cohort"
    damaged = root / "annotations" / f"{name}.dcm"
    dataset = pydicom.dcmread(damaged)
    del dataset[attribute]
    dataset.save_as(damaged)
    assert run(root, output, "--names", tmp_path / "names.csv") == 1
    rows = [
        row for row in read_csv(output / "sources.csv") if row["annotations"] in map(str, damaged.parent.iterdir())
    ]
    problems = {row["annotations"]: row["problem"] for row in rows if row["image"]}
    assert len(problems) == 2
    assert problems.pop(str(damaged)).startswith(f"{damaged}: cannot be read (")
    assert list(problems.values()) == [""], "the others are imported"


def test_no_annotation_lies_on_an_interpolated_series_even_of_as_many_slices(tmp_path):
    slices = a_series(an_image())
    (series,) = find_series(save(tmp_path / "ct", slices)).series
    labels = np.zeros((6, 20, 24), np.uint8)
    labels[1:5, 2:12, 3:15] = 1
    write_seg(tmp_path / "ct/seg.dcm", series, labels, label_table(["liver"], [1]), "clinic")
    position = slices[3].ImagePositionPatient = [*slices[3].ImagePositionPatient[:2], 37.8]
    save(tmp_path / "ct", slices)
    seg = pydicom.dcmread(tmp_path / "ct/seg.dcm")
    for frame in seg.PerFrameFunctionalGroupsSequence:
        if frame.PlanePositionSequence[0].ImagePositionPatient[2] == 37.5:
            frame.PlanePositionSequence[0].ImagePositionPatient = position
    seg.save_as(tmp_path / "ct/seg.dcm")
    (tmp_path / "names.csv").write_text(NAMES)
    options = ("--names", tmp_path / "names.csv", "--irregular", "resample")
    assert run(tmp_path / "ct", tmp_path / "cohort", *options) == 1
    (row,) = read_csv(tmp_path / "cohort/sources.csv")
    assert row["problem"] == "liver: cannot lie on a series that was interpolated"
    assert (row["image"] != "", row["label"]) == (True, "")


def test_imports_into_one_folder_add_up(clinic, tmp_path):
    root, _ = clinic
    table, output = ("--names", tmp_path / "names.csv"), tmp_path / "cohort"
    assert run(root / "annotations" / "a.dcm", output, *table) == 1  # no series
    for name in ("a.dcm", "b.dcm"):
        (root / "annotations" / name).rename(root / "b" / name)
    assert run(root / "b", output, *table) == 1
    assert [row["label"] != "" for row in read_csv(output / "sources.csv")] == [True, False]
    assert run(root / "a", output, *table) == 0
    assert len(read_csv(output / "sources.csv")) == 3
    assert run(root, output, *table) == 1
    rows = read_csv(output / "sources.csv")
    assert len(rows) == len({row["case"] for row in rows}) == 4
    assert sum(bool(row["label"]) for row in rows) == 2
    assert run(root / "a", output) == 0
    assert sum(bool(row["label"]) for row in read_csv(output / "sources.csv")) == 2, "labels that are still there"


def test_a_series_that_has_grown_is_written_again(tmp_path):
    slices = a_series(an_image((8, 20, 24)))
    folder = save(tmp_path / "series", slices[:5])
    for count in (5, 8):
        assert run(folder, tmp_path / "cohort") == 0
        (row,) = read_csv(tmp_path / "cohort/sources.csv")
        assert (row["slices"], row["problem"]) == (str(count), "")
        assert read_volume(tmp_path / "cohort" / row["image"]).array.shape[0] == count
        if count == 5:
            label = tmp_path / "cohort/labels" / f"{row['case']}.nii.gz"
            label.parent.mkdir()
            label.write_bytes(b"of five slices")
        save(folder, slices)
    assert "other slices in an earlier import" in row["warnings"]
    assert not label.exists()


def test_a_series_whose_values_were_corrected_is_written_again(tmp_path):
    slices = a_series(an_image())
    for intercept in (-1024, -1000):
        for one in slices:
            one.RescaleIntercept = intercept
        assert run(save(tmp_path / "series", slices), tmp_path / "cohort") == 0
        (row,) = read_csv(tmp_path / "cohort/sources.csv")
        image = read_volume(tmp_path / "cohort" / row["image"])
        assert np.array_equal(image.array, an_image() + 1024 + intercept)
    assert "other values in an earlier import" in row["warnings"]


@pytest.mark.parametrize("patients", [{"patient": ""}, {}], ids=["blanked", "removed"])
def test_a_table_whose_patients_were_taken_out_is_read(tmp_path, patients):
    for seed in (0, 1):
        save(tmp_path / "clinic" / str(seed), a_series(an_image(seed=seed)))
    assert run(tmp_path / "clinic", tmp_path / "cohort") == 0
    table = tmp_path / "cohort/sources.csv"
    rows = [{key: value for key, value in row.items() if key != "patient"} | patients for row in read_csv(table)]
    write_csv(table, list(rows[0]), rows)
    assert run(tmp_path / "clinic", tmp_path / "cohort") == 0
    assert [row["case"] for row in read_csv(table)] == [row["case"] for row in rows]
    assert len(list((tmp_path / "cohort/images").iterdir())) == 2


def test_parts_of_a_series_with_other_spacing_are_cases_of_their_own(tmp_path):
    uids = new_uids()
    save(tmp_path / "series", a_series(an_image(), uids=uids), "A{:04d}.dcm")
    other = a_series(an_image(seed=1), uids=uids, origin=(-10.0, -20.0, 300.0))
    for part in other:
        part.PixelSpacing = [0.9, 0.9]
        part.SOPInstanceUID = part.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    save(tmp_path / "series", other, "B{:04d}.dcm")
    for number in range(6):
        (tmp_path / f"series/B{number:04d}.dcm").rename(tmp_path / f"B{number:04d}.dcm")
    assert run(tmp_path / "series", tmp_path / "cohort") == 0
    (first,) = read_csv(tmp_path / "cohort/sources.csv")
    for number in range(6):
        (tmp_path / f"B{number:04d}.dcm").rename(tmp_path / f"series/B{number:04d}.dcm")
    assert run(tmp_path / "series", tmp_path / "cohort") == 0
    rows = read_csv(tmp_path / "cohort/sources.csv")
    assert first in rows
    assert len({row["case"] for row in rows}) == len(rows) == 2
    arrays = [read_volume(tmp_path / "cohort" / row["image"]).array for row in rows]
    assert sorted(array.sum() for array in arrays) == sorted([an_image().sum(), an_image(seed=1).sum()])


@pytest.mark.parametrize("together", [True, False])
def test_patients_who_share_all_uids_are_cases_of_their_own(tmp_path, together):
    uids, label = new_uids(), np.zeros((6, 20, 24), np.uint8)
    images = [generate_uid() for _ in range(6)]
    for number, name in enumerate("AB", 1):
        slices = a_series(an_image(seed=number), uids=uids, PatientID=name)
        for one, uid in zip(slices, images, strict=True):
            one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = uid
        (series,) = find_series(save(tmp_path / "clinic" / name, slices)).series
        label[number] = 1
        write_seg(tmp_path / "clinic" / name / "seg.dcm", series, label, label_table(["liver"], [1]), "clinic")
    (tmp_path / "names.csv").write_text(NAMES)
    options = (tmp_path / "cohort", "--names", tmp_path / "names.csv")
    for folder in ("",) if together else ("A", "B"):
        assert run(tmp_path / "clinic" / folder, *options) == 0
    before = read_csv(tmp_path / "cohort/sources.csv")
    assert run(tmp_path / "clinic", *options) == 0
    rows = read_csv(tmp_path / "cohort/sources.csv")
    assert sorted((row["patient"], row["case"]) for row in rows) == sorted((r["patient"], r["case"]) for r in before)
    assert sorted(row["patient"] for row in rows) == ["A", "B"]
    for row in rows:
        number = "AB".index(row["patient"]) + 1
        assert np.array_equal(read_volume(tmp_path / "cohort" / row["image"]).array, an_image(seed=number))
        found = read_volume(tmp_path / "cohort" / row["label"]).array
        assert (found.any(axis=(1, 2)) == [False, True, number == 2, False, False, False]).all()


def test_without_a_table_names_are_listed_and_none_is_guessed(clinic, tmp_path):
    run(clinic[0], tmp_path / "cohort")
    assert not (tmp_path / "cohort" / "labels").exists()
    names = {row["name"] for row in read_csv(tmp_path / "cohort" / "unmatched_names.csv")}
    assert names == {"LEBER", "unknown thing"}


def test_a_table_of_names_is_checked(tmp_path):
    path = tmp_path / "names.csv"
    path.write_text(NAMES)
    assert NameTable.read(path).values == {
        "liver": 1,
        "leber": 1,
        "hepar 2": 1,
        "right kidney": 2,
        "tumor": 14,
        "gtv": 14,
    }
    path.write_text(
        "\ufeffname,value,aliases\nliver,1,Печень_1\nkidney,2,почка 1\n", encoding="utf-8"
    )  # as Excel writes it
    assert NameTable.read(path).values == {"liver": 1, "печень 1": 1, "kidney": 2, "почка 1": 2}
    for text, message in (
        ("name,value\nliver,300\n", "the value 300 of liver"),
        ("name,value,aliases\nliver,1,x\nspleen,3,X\n", "'X' stands for 1 and for 3"),
        ("label\nliver\n", "no table of the columns"),
        ("liver,1\n", "no table of the columns"),
    ):
        path.write_text(text)
        with pytest.raises(CohortError, match=message):
            NameTable.read(path)
