import csv
import errno
import gzip
import math
import os
import unicodedata
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from flare23_lib.errors import EvaluationError, KilledError, StoreError
from flare23_lib.evaluation.cases import CaseScores, Pair, Scoring, affordable_processes, score_cases
from flare23_lib.evaluation.evaluate import evaluate_folders
from flare23_lib.evaluation.metrics import score_case
from flare23_lib.evaluation.tables import format_summary, read_table, score_table, summarize, write_table
from flare23_lib.io.label_maps import LabelFiles, ValueTable
from flare23_lib.io.nifti import header_for, read_labels, write_volume
from flare23_lib.labels import Label, LabelMap

LABELS = LabelMap(
    (
        Label("liver", 1, tolerance_mm=1.0),
        Label("spleen", 3, tolerance_mm=1.0),
        Label("tumor", 14, kind="tumor", tolerance_mm=1.0),
    )
)
SCORING = Scoring(LABELS)
AFFINE = np.diag([0.8, 0.7, 2.5, 1.0])
CASES = ["case_1", "case_2", "case_3", "case_4", "case_5", "case_6", "case_7"]


def save(path, array, affine=AFFINE):
    write_volume(path, array, header_for(array.shape, affine, array.dtype))


def organs(seed):
    """Two organs and a tumor, shifted a little by the seed."""
    volume = np.zeros((8, 20, 22), np.uint8)
    volume[1:6, 2 + seed % 3 : 10, 3:11] = 1
    volume[2:7, 12:18, 4 + seed % 2 : 15] = 3
    volume[3:5, 4:7, 5:8] = 14
    return volume


@pytest.fixture
def folders(tmp_path):
    """References and good predictions of seven cases."""
    references, predictions = tmp_path / "references", tmp_path / "predictions"
    for number, case in enumerate(CASES):
        save(references / f"{case}.nii.gz", organs(0))
        save(predictions / f"{case}.nii.gz", organs(number + 1))
    return predictions, references, tmp_path / "scores"


def table(path):
    with path.open() as handle:
        return list(csv.DictReader(handle))


def metrics_of(predictions, references, output):
    """Score folders, and return the rows of their table."""
    evaluate_folders(predictions, references, output, SCORING)
    return table(output / "metrics.csv")


def scored(*cases):
    """A table of cases with the same DSC and NSD for each class, 1 unless given."""
    rows = []
    for number, case in enumerate(cases):
        scores = {name: case.get(name, 1.0) for name in LABELS.names}
        rows.append(
            CaseScores(f"case_{number}", {name: {"DSC": value, "NSD": value} for name, value in scores.items()})
        )
    return score_table(rows, LABELS)


def line_of(rows, name):
    return next(row for row in rows if row["class"] == name)


# Folders


def test_folders_are_scored_by_file_name(folders):
    predictions, references, output = folders
    found, extra = evaluate_folders(predictions, references, output, SCORING)
    assert list(found["status"]) == ["ok"] * 7
    assert not extra
    rows = table(output / "metrics.csv")
    assert [row["Name"] for row in rows] == CASES
    reference = read_labels(references / "case_2.nii.gz")
    scores = score_case(reference.array, organs(2), reference.geometry.spacing, LABELS)
    assert 0.5 < scores["liver"]["NSD"] < 1
    for name, score in scores.items():
        assert rows[1][f"{name}_DSC"] == str(round(score["DSC"], 4))
        assert rows[1][f"{name}_NSD"] == str(round(score["NSD"], 4))


def test_every_broken_case_is_named_and_the_others_keep_their_scores(folders, caplog):
    predictions, references, output = folders
    before = metrics_of(predictions, references, output)
    file = {case: predictions / f"{case}.nii.gz" for case in CASES}
    file["case_1"].unlink()
    save(file["case_2"], organs(2), np.diag([-0.8, 0.7, 2.5, 1.0]))
    file["case_3"].write_bytes(file["case_3"].read_bytes()[:-20])
    save(file["case_4"], np.where(organs(4) == 3, 9, organs(4)).astype(np.uint8))
    save(file["case_5"], organs(5).astype(np.int16) + np.int16(1000) * (organs(5) == 3))
    save(file["case_6"], organs(6)[:-1])
    save(predictions / "stray.nii.gz", organs(0))
    caplog.clear()

    found, extra = evaluate_folders(predictions, references, output, SCORING)
    after = table(output / "metrics.csv")

    reasons = {row["Name"]: row["status"] for row in after}
    assert reasons["case_1"] == "the prediction is missing"
    assert "has another geometry" in reasons["case_2"]
    assert "cut short" in reasons["case_3"]
    assert reasons["case_4"] == "the prediction holds values that are not in the label map: 9"
    assert reasons["case_5"] == "the prediction holds values that are not in the label map: 1003"
    assert "shape (7, 20, 22)" in reasons["case_6"]
    assert after[6] == before[6]
    assert (len(found), (found["status"] == "ok").sum()) == (7, 1)
    assert extra == ["stray.nii.gz"]
    faults = [f"{case}: {reason}" for case, reason in reasons.items() if reason != "ok"]
    stray = "stray.nii.gz: has no reference and was left out"
    assert [record.getMessage() for record in caplog.records] == [*faults, stray]
    assert {cell for row in after[:6] for key, cell in row.items() if key.endswith(("SC", "SD"))} == {"0.0"}


@pytest.mark.parametrize("fault", ["empty", "value"])
def test_a_broken_reference_is_named_and_the_model_is_not_blamed(folders, fault, caplog):
    predictions, references, output = folders
    if fault == "empty":
        (references / "case_1.nii.gz").write_bytes(b"")
    else:
        save(references / "case_1.nii.gz", np.where(organs(0) == 3, 9, organs(0)).astype(np.uint8))
    found, extra = evaluate_folders(predictions, references, output, SCORING)
    assert (found["status"] == "ok").sum() == 6
    assert not extra
    (record,) = caplog.records
    assert record.getMessage().startswith("case_1: no usable reference: ")
    assert {table(output / "metrics.csv")[0][f"{name}_DSC"] for name in LABELS.names} == {""}
    assert line_of(table(output / "summary.csv"), "liver")["cases"] == "6"


def test_a_reference_with_unknown_values_is_named_even_if_the_prediction_is_missing(folders, caplog):
    predictions, references, output = folders
    save(references / "case_1.nii.gz", np.where(organs(0) == 3, 9, organs(0)).astype(np.uint8))
    (predictions / "case_1.nii.gz").unlink()
    evaluate_folders(predictions, references, output, SCORING)
    words = "the reference holds values that are not in the label map: 9"
    assert [record.getMessage() for record in caplog.records] == [f"case_1: no usable reference: {words}"]


@pytest.mark.parametrize("step", ["read_labels", "score_case", "measure_details"])
def test_too_little_memory_is_no_fault_of_the_case(folders, monkeypatch, step):
    predictions, references, output = folders

    def no_memory(*arguments):
        raise MemoryError("Unable to allocate 2.00 GiB")

    monkeypatch.setattr(f"flare23_lib.evaluation.cases.{step}", no_memory)
    with pytest.raises(KilledError, match="case_1: there is not enough memory for it"):
        evaluate_folders(predictions, references, output, Scoring(LABELS, with_details=True))


def test_a_prediction_whose_header_asks_for_any_amount_of_memory_is_only_broken(folders):
    predictions, references, output = folders
    content = bytearray(gzip.decompress((predictions / "case_1.nii.gz").read_bytes()))
    content[42:48] = np.array([30000, 30000, 30000], "<i2").tobytes()
    (predictions / "case_1.nii.gz").write_bytes(gzip.compress(bytes(content)))
    evaluate_folders(predictions, references, output, SCORING)
    assert "holds fewer voxels than its header states" in table(output / "metrics.csv")[0]["status"]


@pytest.mark.parametrize("side", ["predictions", "references"])
def test_an_error_of_the_disk_or_the_network_ends_the_evaluation(folders, monkeypatch, side):
    predictions, references, output = folders
    number = errno.EIO
    broken, opened = str(folders[side == "references"] / "case_2.nii.gz"), Path.open

    def open_or_fail(path, *arguments, **options):
        if str(path) == broken:
            raise OSError(number, os.strerror(number), broken)
        return opened(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", open_or_fail)
    with pytest.raises(EvaluationError, match=rf"case_2.nii.gz: cannot be read \({os.strerror(number)}\); nothing"):
        evaluate_folders(predictions, references, output, SCORING)
    assert not (output / "metrics.csv").exists()


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_voxels_to_ignore_in_a_reference_are_left_out(folders, dtype):
    predictions, references, output = folders
    before = metrics_of(predictions, references, output)
    array, guess = organs(2).astype(dtype), organs(2).copy()
    array[:1] = 255
    guess[:1] = 1
    save(references / "case_2.nii.gz", array)
    save(predictions / "case_2.nii.gz", guess)
    with_ignored = metrics_of(predictions, references, output)
    array[:1] = guess[:1] = 0
    save(references / "case_2.nii.gz", array)
    save(predictions / "case_2.nii.gz", guess)
    assert with_ignored == metrics_of(predictions, references, output)
    assert [row["status"] for row in with_ignored] == [row["status"] for row in before]


def test_files_that_are_not_compressed_are_scored_too_and_two_for_a_case_refused(folders):
    predictions, references, output = folders
    before = metrics_of(predictions, references, output)
    packed = predictions / "case_1.nii.gz"
    (predictions / "case_1.nii").write_bytes(gzip.decompress(packed.read_bytes()))
    with pytest.raises(EvaluationError, match=r"case_1\.nii(\.gz)? is a prediction of the same case"):
        evaluate_folders(predictions, references, output, SCORING)
    packed.unlink()
    assert metrics_of(predictions, references, output) == before


def test_a_prediction_stored_as_floats_scores_the_same(folders):
    predictions, references, output = folders
    before = metrics_of(predictions, references, output)
    save(predictions / "case_2.nii.gz", organs(2).astype(np.float32))
    save(predictions / "case_3.nii.gz", organs(3).astype(np.int32))
    assert metrics_of(predictions, references, output) == before


def test_the_spacing_is_the_reference_header_s(folders):
    predictions, references, _ = folders
    pair = Pair("case_2", references / "case_2.nii.gz", predictions / "case_2.nii.gz")
    zooms = nib.load(pair.reference).header.get_zooms()[::-1]
    expected = score_case(organs(0), organs(2), tuple(float(zoom) for zoom in zooms), LABELS)
    assert score_cases([pair], SCORING)[0].scores["liver"]["NSD"] == expected["liver"]["NSD"]


def test_several_processes_give_the_same_rows_in_the_same_order(folders):
    predictions, references, _ = folders
    pairs = [Pair(c, references / f"{c}.nii.gz", predictions / f"{c}.nii.gz") for c in CASES[:3]]
    pairs[1] = Pair(pairs[1].case, pairs[1].reference, None)
    scoring = Scoring(LABELS, with_details=True)
    assert score_cases(pairs, replace(scoring, processes=2)) == score_cases(pairs, scoring)


def test_as_many_processes_run_as_the_memory_allows_for_the_largest_case(tmp_path):
    save(tmp_path / "small.nii.gz", np.zeros((2, 3, 4), np.uint8))
    save(tmp_path / "large.nii.gz", np.zeros((40, 512, 512), np.float32))
    small = Pair("small", tmp_path / "small.nii.gz", tmp_path / "small.nii.gz")
    large = Pair("large", tmp_path / "large.nii.gz", tmp_path / "missing.nii.gz")

    def processes(pairs, memory_mb, with_details=False):
        scoring = Scoring(LABELS, processes=8, memory_mb=memory_mb, with_details=with_details)
        return affordable_processes(pairs, scoring)

    assert processes([small] * 8, 2000) == 8
    assert processes([small, large] * 4, 2000) == 8
    assert processes([small, large] * 4, 1000) == 4
    assert processes([small, large] * 4, 1000, with_details=True) == 3
    assert processes([large] * 8, 10) == 1
    assert processes([large] * 8, None) == 8
    mapping = ValueTable({"large": 1}).text
    masks = Pair("masks", LabelFiles(tmp_path / "{mask}.nii.gz", mapping), tmp_path / "missing.nii.gz")
    assert processes([masks] * 8, 1000) == processes([large] * 8, 1000) < 8


@pytest.mark.parametrize("mode", ["flare23", "plain"])
def test_a_missing_prediction_counts_as_zero_in_both_modes(folders, mode):
    _, references, _ = folders
    (case,) = score_cases([Pair("case_1", references / "case_1.nii.gz", None)], Scoring(LABELS, mode))
    assert case.scores == {name: {"DSC": 0, "NSD": 0} for name in LABELS.names}


def test_a_missing_folder_is_refused_by_name(folders, tmp_path):
    predictions, references, output = folders
    with pytest.raises(EvaluationError, match="nowhere: there is no such folder of predictions"):
        evaluate_folders(tmp_path / "nowhere", references, output, SCORING)
    with pytest.raises(EvaluationError, match="nowhere: there is no such folder of references"):
        evaluate_folders(predictions, tmp_path / "nowhere", output, SCORING)


@pytest.mark.parametrize("kind", ["predictions", "references"])
def test_a_folder_without_label_files_is_refused_and_nothing_is_written(folders, tmp_path, kind):
    other = tmp_path / "other"
    other.mkdir()
    (other / "case_1.nrrd").write_bytes(b"of another format")
    predictions, references, output = folders
    chosen = (other, references) if kind == "predictions" else (predictions, other)
    with pytest.raises(EvaluationError, match=rf"other: holds no {kind} \(\*\.nii\.gz or \*\.nii\)"):
        evaluate_folders(*chosen, output, SCORING)
    assert not output.exists()


def test_files_that_are_still_being_written_are_passed_over(folders):
    predictions, references, output = folders
    (predictions / ".partial-x-case_9.nii.gz").write_bytes(b"half")
    assert evaluate_folders(predictions, references, output, SCORING)[1] == []


# Classes that the model never saw


def test_unseen_classes_are_empty_and_not_zero(folders):
    predictions, references, output = folders
    evaluate_folders(predictions, references, output, Scoring(LABELS, unseen=["tumor"]))
    rows = table(output / "metrics.csv")
    assert {row[f"tumor_{kind}"] for row in rows for kind in ("DSC", "NSD")} == {""}
    assert "" not in {row["liver_DSC"] for row in rows}
    summary = line_of(table(output / "summary.csv"), "tumor")
    assert summary["note"] == "not seen in training"
    assert (summary["cases"], summary["DSC_mean"], summary["NSD_median"]) == ("0", "", "")


def test_what_a_partial_reference_does_not_hold_is_not_scored_in_it(folders):
    predictions, references, output = folders
    partial = organs(0)
    partial[partial != 1] = 0
    save(references / "case_1.nii.gz", partial)
    (predictions / "case_2.nii.gz").unlink()
    whole = metrics_of(predictions, references, output)
    assert whole[0]["spleen_DSC"] == "0.0"
    evaluate_folders(predictions, references, output, Scoring(LABELS, with_details=True, partial_references=True))
    rows = table(output / "metrics.csv")
    assert (rows[0]["spleen_DSC"], rows[0]["tumor_NSD"], rows[0]["status"]) == ("", "", "ok")
    assert rows[0]["liver_DSC"] == whole[0]["liver_DSC"]
    assert rows[1:] == whole[1:]
    assert line_of(table(output / "summary.csv"), "spleen")["cases"] == "6"
    distances = table(output / "distances.csv")
    assert [row["class"] for row in distances if row["Name"] == "case_1"] == ["liver"]
    assert not [row for row in table(output / "tumors.csv") if row["Name"] == "case_1"]


def test_a_class_that_is_known_to_be_absent_is_scored_in_a_partial_reference(folders):
    predictions, references, _ = folders
    healthy = organs(0)
    healthy[healthy != 1] = 0
    save(references / "case_1.nii.gz", healthy)
    pair = Pair("case_1", references / "case_1.nii.gz", predictions / "case_1.nii.gz", annotated=(1, 14))
    (case,) = score_cases([pair], Scoring(LABELS, partial_references=True))
    assert case.scores["tumor"]["DSC"] == 0
    assert math.isnan(case.scores["spleen"]["DSC"])


def test_references_may_end_in_a_suffix_of_their_own(folders, caplog):
    predictions, references, output = folders
    for path in list(references.iterdir()):
        path.rename(references / path.name.replace(".nii.gz", "_seg.nii.gz"))
    with pytest.raises(EvaluationError, match="no prediction has the name of a reference"):
        evaluate_folders(predictions, references, output, SCORING)
    assert not output.exists()
    found, _ = evaluate_folders(predictions, references, output, SCORING, reference_suffix="_seg.nii.gz")
    assert (found["status"] == "ok").sum() == 7
    assert [row["Name"] for row in table(output / "metrics.csv")] == CASES
    save(references / "case_1.nii.gz", organs(0))
    evaluate_folders(predictions, references, output, SCORING, reference_suffix="_seg.nii.gz")
    assert "1 files do not end in _seg.nii.gz and are no references: case_1.nii.gz" in caplog.text


def test_predictions_may_be_named_exactly_like_references_with_a_suffix(folders):
    predictions, references, output = folders
    for path in [*predictions.iterdir(), *references.iterdir()]:
        path.rename(path.with_name(path.name.replace(".nii.gz", "_seg.nii.gz")))
    save(references / "case_1.nii.gz", organs(0))
    found, extra = evaluate_folders(predictions, references, output, SCORING, reference_suffix="_seg.nii.gz")
    assert list(found["status"]) == ["ok"] * 7
    assert not extra
    assert [row["Name"] for row in table(output / "metrics.csv")] == [f"{case}_seg" for case in CASES]


def test_names_are_compared_however_their_letters_are_encoded(folders):
    predictions, references, output = folders
    for folder, form in ((predictions, "NFD"), (references, "NFC")):
        (folder / "case_1.nii.gz").rename(folder / f"{unicodedata.normalize(form, 'Müller')}.nii.gz")
    found, extra = evaluate_folders(predictions, references, output, SCORING)
    assert list(found["status"]) == ["ok"] * 7
    assert not extra
    assert "Müller" in {row["Name"] for row in table(output / "metrics.csv")}


def test_the_common_suffix_as_the_configured_one_changes_nothing(folders):
    predictions, references, output = folders
    (references / "case_1.nii.gz").unlink()
    save(references / "case_1.nii", organs(0))
    found, extra = evaluate_folders(predictions, references, output, SCORING, reference_suffix=".nii.gz")
    assert ((found["status"] == "ok").sum(), extra) == (7, [])


def test_an_unseen_organ_is_left_out_of_the_organs_mean():
    organs_line = summarize(scored({"liver": 0.5, "spleen": 0.9}), LABELS, unseen=["spleen"]).loc["organs"]
    assert organs_line["DSC_mean"] == 0.5
    assert organs_line["note"] == "mean of 1 of 2 organs"


# Details


def test_details_are_tables_of_their_own_and_count_a_missing_prediction_as_nothing_found(folders):
    predictions, references, output = folders
    (predictions / "case_1.nii.gz").unlink()
    before = metrics_of(predictions, references, output)
    assert not (output / "distances.csv").exists()
    evaluate_folders(predictions, references, output, Scoring(LABELS, with_details=True))
    assert table(output / "metrics.csv") == before
    distances = table(output / "distances.csv")
    assert [row["Name"] for row in distances[::3]] == CASES
    assert (distances[0]["prediction_ml"], distances[0]["HD95_mm"]) == ("0.0", "")
    counted = table(output / "detection.csv")[-1]
    assert (counted["diameter"], counted["tumors"], counted["found"], counted["missed"]) == ("all", "7", "6", "1")


def test_details_of_other_predictions_do_not_stay_beside_new_scores(folders):
    predictions, references, output = folders
    evaluate_folders(predictions, references, output, Scoring(LABELS, with_details=True))
    evaluate_folders(predictions, references, output, SCORING)
    assert sorted(path.name for path in output.iterdir()) == ["metrics.csv", "summary.csv"]


# Tables


def test_the_metrics_columns_are_the_official_ones_and_the_status(folders):
    evaluate_folders(*folders, SCORING)
    header = (folders[2] / "metrics.csv").read_text().splitlines()[0]
    assert header == "Name,liver_DSC,spleen_DSC,tumor_DSC,liver_NSD,spleen_NSD,tumor_NSD,status"


def test_values_are_rounded_to_four_decimals_in_the_table_only(folders, monkeypatch):
    scores = {name: {"DSC": 0.123456, "NSD": 1.0} for name in LABELS.names}
    monkeypatch.setattr("flare23_lib.evaluation.cases.score_case", lambda *arguments: scores)
    evaluate_folders(*folders, SCORING)
    assert table(folders[2] / "metrics.csv")[0]["liver_DSC"] == "0.1235"
    assert scored({"liver": 0.123456}).loc[0, "liver_DSC"] == 0.123456


def test_means_are_those_of_rounded_values_rounded_again():
    scores = scored({"liver": 0.11114, "spleen": 0.33333}, {"liver": 0.11114, "spleen": 0.33334})
    summary = summarize(scores, LABELS)
    assert summary.loc["liver", "DSC_mean"] == 0.1111
    assert summary.loc["spleen", "NSD_mean"] == 0.3333
    assert summary.loc["organs", "DSC_mean"] == 0.2222


def test_a_summary_gives_mean_spread_and_median_per_class():
    liver = summarize(scored({"liver": 0.2}, {"liver": 0.4}, {"liver": 0.9}), LABELS).loc["liver"]
    assert (liver["cases"], liver["DSC_mean"], liver["DSC_median"]) == (3, 0.5, 0.4)
    assert liver["DSC_std"] == pytest.approx(0.2944, abs=1e-9)


def test_the_tumor_does_not_enter_the_organs_mean():
    summary = summarize(scored({"liver": 0.8, "spleen": 0.6, "tumor": 0.0}), LABELS)
    assert summary.loc["organs", "DSC_mean"] == 0.7
    assert summary.loc["tumor", "DSC_mean"] == 0.0


def test_cells_without_a_number_are_passed_over():
    liver = summarize(scored({"liver": 0.4}, {"liver": math.nan}, {"liver": 0.6}), LABELS).loc["liver"]
    assert (liver["cases"], liver["DSC_mean"]) == (2, 0.5)


def test_a_summary_of_written_metrics_is_that_of_the_rows(tmp_path):
    scores = scored({"liver": 1 / 3, "spleen": 2 / 3}, {"tumor": math.nan})
    write_table(tmp_path / "metrics.csv", scores.round(4))
    pd.testing.assert_frame_equal(
        summarize(read_table(tmp_path / "metrics.csv"), LABELS), summarize(scores, LABELS), check_exact=True
    )


def test_a_name_is_read_as_text_and_an_empty_cell_as_no_number(tmp_path):
    (tmp_path / "metrics.csv").write_text("Name,liver_DSC,status\n001,,ok\nNA,0.5,\n")
    read = read_table(tmp_path / "metrics.csv")
    assert read["Name"].tolist() == ["001", "NA"]
    assert read["status"].tolist() == ["ok", ""]
    assert math.isnan(read["liver_DSC"][0])


@pytest.mark.parametrize("content", [None, b"", b"\x1f\x8b\xff\x00"])
def test_what_is_no_table_is_refused_by_name(tmp_path, content):
    if content is not None:
        (tmp_path / "metrics.csv").write_bytes(content)
    with pytest.raises(StoreError, match=r"metrics\.csv is (missing|not a CSV table)"):
        read_table(tmp_path / "metrics.csv")


def test_the_terminal_table_ends_with_the_organs_mean_and_the_tumor(tmp_path):
    write_table(tmp_path / "summary.csv", summarize(scored({"liver": 0.5}), LABELS, unseen=["spleen"]))
    text = format_summary(tmp_path / "summary.csv")
    assert text.splitlines() == [
        "class            DSC     NSD  cases",
        "-----------------------------------",
        "liver         0.5000  0.5000      1",
        "spleen             -       -      0  not seen in training",
        "organs, mean  0.5000  0.5000      1  mean of 1 of 2 organs",
        "tumor         1.0000  1.0000      1",
    ]


def test_a_summary_without_its_columns_is_refused_by_name(tmp_path):
    (tmp_path / "summary.csv").write_text("class,DSC\nliver,0.9\n")
    with pytest.raises(StoreError, match=r"summary\.csv: lacks columns \(kind, cases, note, DSC_mean, NSD_mean\)"):
        format_summary(tmp_path / "summary.csv")
