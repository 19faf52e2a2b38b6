import math
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from places import RECIPE

from flare23_lib.config import Config
from flare23_lib.errors import ConfigError
from flare23_lib.evaluation.cases import Scoring
from flare23_lib.evaluation.paper_tables import (
    PUBLISHED,
    PUBLISHED_ORGANS,
    Evaluated,
    PaperTable,
    make_tables,
    table_names,
)
from flare23_lib.evaluation.tables import summarize, write_table
from flare23_lib.io.tables import read_csv
from flare23_lib.labels import Label, LabelMap

FLARE = LabelMap(
    (*(Label(name, value) for value, name in enumerate(PUBLISHED_ORGANS, start=1)), Label("tumor", 14, kind="tumor"))
)
LOADS = ["MaxGPU_Mem", "AUC_GPU_Time", "GPU_Area", "RAM_Area", "CPU_Area", "GPU"]
OTHER = LabelMap((Label("heart", 1), Label("lung", 2)))


def tables_of(models, labels, pairs=(), shapes=None, **rules):
    """Tables of scores by the rules of the published figures unless others are given."""
    scoring = Scoring(labels, **{"min_dsc_for_nsd": 0.1, **rules})
    return make_tables(models, scoring, pairs, shapes or {})


def evaluated(name, score, labels, folder, efficiency=(), cases=4, unseen=(), rare=None):
    """A model: its DSC is the score plus a hundredth per case, its NSD a tenth more; rare labels have few cases."""
    rows = []
    for case in range(cases):
        row = {"Name": f"case_{case}", "status": "ok"}
        for label in labels.names:
            is_empty = label in unseen or case >= (rare or {}).get(label, cases)
            value = None if is_empty else score + case / 100
            row |= {f"{label}_DSC": value, f"{label}_NSD": None if value is None else value + 0.1}
        rows.append(row)
    table = pd.DataFrame(rows)
    write_table(folder / name / "metrics.csv", table.round(4))
    write_table(folder / name / "summary.csv", summarize(table, labels, unseen))
    if efficiency:
        write_table(folder / name / "efficiency.csv", pd.DataFrame(efficiency))
    return Evaluated.read(folder / name, measured=bool(efficiency))


def taken(name, seconds, gpu=None):
    """A row of efficiency.csv."""
    row = dict.fromkeys(LOADS, "") | {"Name": name, "Time": str(seconds), "MaxRAM": "900.5", "Cores": "2"}
    if gpu:
        row |= {"MaxGPU_Mem": "2900", "AUC_GPU_Time": "15000", "GPU_Area": "15500", "GPU": gpu}
    return row


def record_of(table, **wanted):
    return next(row for row in records(table) if wanted.items() <= row.items())


def records(table):
    """The rows of a table's values, None for an empty cell."""
    return table.values.astype(object).where(table.values.notna(), None).to_dict("records")


def test_table_6_has_ours_in_percent_and_the_paper_s_only_where_it_names_them(tmp_path):
    table = tables_of([evaluated("student", 0.8, FLARE, tmp_path)], FLARE)["table6"]
    liver, organs, tumor = (record_of(table, **{"class": name}) for name in ("liver", "organs", "tumor"))
    assert (liver["student_DSC_mean"], liver["student_NSD_mean"]) == (81.5, 91.5)
    assert liver["student_DSC_low"] < 81.5 < liver["student_DSC_high"]
    assert liver["paper_test_DSC"] is None
    assert (organs["paper_test_DSC"], organs["paper_online_validation_NSD"]) == (89.98, 96.46)
    assert (tumor["paper_test_DSC"], tumor["paper_online_validation_NSD"]) == (62.61, 39.17)
    assert table.shown["class"].tolist()[-2:] == ["organs, mean", "tumor"]
    assert table.shown.iloc[0, 1].startswith("81.50 ± 1.12 [")


def test_classes_that_a_model_never_saw_are_noted_and_not_zero(tmp_path):
    teacher = evaluated("teacher", 0.8, FLARE, tmp_path, unseen=["tumor"])
    table = tables_of([teacher], FLARE)["table6"]
    assert record_of(table, **{"class": "tumor"})["teacher_DSC_mean"] is None
    assert table.shown.iloc[-1, 1] == "-"
    assert "teacher: 4 validation cases; tumor: not seen in training." in table.notes


def test_organs_that_no_case_has_and_classes_of_few_cases_are_noted(tmp_path):
    student = evaluated("student", 0.8, FLARE, tmp_path, unseen=["duodenum"], rare={"tumor": 1})
    summary = student.summary.assign(note=student.summary["note"].replace("not seen in training", ""))
    other = replace(student, name="other")
    tables = tables_of([replace(student, summary=summary), other], FLARE, [["student", "other"]])
    assert tables["table6"].shown["student cases"].tolist()[-3:] == ["4", "4", "1"]
    assert tables["table9"].values["cases"][0] == "our 4 validation cases (tumor 1)"
    for name in ("table7", "table9"):
        assert "student: organs, mean: mean of 12 of 13 organs." in tables[name].notes
    assert "Means of organs are of those that both models have." in tables["table7"].notes


def test_table_7_is_the_paired_difference_of_a_pair(tmp_path):
    models = [evaluated("student", 0.8, FLARE, tmp_path), evaluated("student_2200", 0.75, FLARE, tmp_path)]
    table = tables_of(models, FLARE, [["student", "student_2200"]])["table7"]
    organs = record_of(table, **{"class": "organs"})
    assert (organs["first"], organs["second"], organs["cases"]) == ("student", "student_2200", 4)
    assert (organs["DSC_first"], organs["DSC_second"], organs["DSC_difference"]) == (81.5, 76.5, 5.0)
    assert (organs["DSC_low"], organs["DSC_high"]) == (5.0, 5.0)
    assert table.shown.iloc[0, 4] == "+5.00 [+5.00, +5.00]"
    assert "student_2200 DSC" in table.shown


def test_table_8_has_a_row_per_case_with_empty_cells_without_a_gpu(tmp_path):
    model = evaluated("student", 0.8, FLARE, tmp_path, [taken("case_0", 5.5), taken("case_1", 7.5, "RTX")])
    table = tables_of([model], FLARE, shapes={"case_0": "512x512x90"})["table8"]
    first, second = records(table)
    assert (first["size"], first["Time"], first["MaxGPU_Mem"], first["GPU"]) == ("512x512x90", 5.5, None, "")
    assert (second["MaxGPU_Mem"], second["AUC_GPU_Time"], second["GPU"]) == (2900, 15000, "RTX")
    assert table.shown.iloc[0, 4] == "-"
    assert table.shown.iloc[-1, 3:6].tolist() == ["13 to 29", "2,836 to 3,394", "14,975 to 23,825"]


def test_table_9_sets_ours_beside_the_published_results(tmp_path):
    model = evaluated("student", 0.8, FLARE, tmp_path, [taken("case_0", 5.5), taken("case_1", 7.5, "RTX")])
    table = tables_of([model], FLARE)["table9"]
    ours = table.values.iloc[0]
    assert (ours["system"], ours["organ DSC"], ours["tumor NSD"], ours["time, s"]) == (
        "ours: student",
        81.5,
        91.5,
        6.5,
    )
    assert math.isnan(ours["GPU area, official sum, MB s"])  # not every case has one
    assert len(table.values) == 1 + len(PUBLISHED["results"])


def test_other_cohorts_have_their_tables_without_the_paper_s_figures(tmp_path):
    model = evaluated("ours", 0.5, OTHER, tmp_path, [taken("case_0", 5.5)])
    tables = tables_of([model], OTHER)
    assert list(tables) == ["table6", "table8"]
    assert tables["table6"].values["class"].tolist() == ["heart", "lung", "organs"]
    texts = " ".join(table.to_markdown() for table in tables.values())
    assert "paper" not in texts
    assert "tumor" not in texts


def test_a_tumor_alone_has_the_paper_s_tumor_figures_but_no_organ_ones(tmp_path):
    labels = LabelMap((Label("liver", 1), Label("tumor", 14, kind="tumor")))
    table = tables_of([evaluated("ours", 0.5, labels, tmp_path)], labels)["table6"]
    assert record_of(table, **{"class": "tumor"})["paper_test_DSC"] == 62.61
    assert record_of(table, **{"class": "organs"})["paper_test_DSC"] is None


@pytest.mark.parametrize(
    ("labels", "pairs", "measured", "names"),
    [
        (FLARE, [["a", "b"]], True, ["table6", "table7", "table8", "table9"]),
        (FLARE, [], False, ["table6", "table9"]),
        (OTHER, [], False, ["table6"]),
    ],
)
def test_which_tables_there_are_follows_from_the_configuration(labels, pairs, measured, names):
    assert table_names(labels, pairs, measured) == names


def test_other_rules_than_the_challenges_are_noted_where_published_figures_stand_beside_ours(tmp_path):
    models = [evaluated("ours", 0.5, FLARE, tmp_path)]
    same = Config.load([RECIPE]).label_map
    assert not [note for note in tables_of(models, same)["table6"].notes if "challenge" in note]
    for name in ("table6", "table9"):
        notes = tables_of(models, same, partial_references=True)[name].notes
        assert (
            "Ours are scored in a case only for classes that occur in its reference or are annotated in its source."
            in notes
        )
        notes = tables_of(models, same, min_dsc_for_nsd=0.2)[name].notes
        assert [note for note in notes if note.startswith("Our NSD is 0 below a DSC of 0.2, that of FLARE23's")]
    other = LabelMap(tuple(replace(label, tolerance_mm=50 if label.name == "liver" else label.tolerance_mm)
                           for label in same.labels))  # fmt: skip
    for name in ("table6", "table9"):
        notes = " ".join(tables_of(models, other, mode="plain", min_dsc_for_nsd=0.2)[name].notes)
        assert "Our NSD is 0" not in notes
        assert "mode plain" in notes
        assert "liver (50 mm, not 5)" in notes


def test_the_published_classes_are_those_of_the_recipe():
    labels = Config.load([RECIPE]).label_map
    assert {label.name: label.tolerance_mm for label in labels.labels} == PUBLISHED["tolerances_mm"]
    assert "table9" in table_names(labels, [], measured=False)
    assert [label.name for label in labels.tumors] == ["tumor"]


def test_a_table_is_written_in_three_formats(tmp_path):
    values = pd.DataFrame([{"a": 1, "b": None}])
    table = PaperTable("A & B", values, pd.DataFrame([["x|y^~", "1 ± 2"]], columns=["a_1", "b %"]), ["A note."])
    table.write(tmp_path / "t")
    assert read_csv(tmp_path / "t.csv") == [{"a": "1", "b": ""}]
    assert table.to_markdown().splitlines()[2:5] == ["| a_1 | b % |", "| --- | ---: |", "| x\\|y^~ | 1 ± 2 |"]
    latex = Path(tmp_path / "t.tex").read_text()
    assert latex == table.to_latex()
    assert r"a\_1 & b \% \\" in latex
    assert r"x|y\^{}\~{} & 1 $\pm$ 2 \\" in latex
    assert r"\caption{A \& B. A note.}" in latex


def test_a_comparison_with_a_model_that_is_not_evaluated_is_refused_by_its_key():
    for pair in (["student", "organ_teacher"], ["student", "nobody"]):
        with pytest.raises(ConfigError, match=r"^evaluation\.compare\[0\]: there is no evaluated model"):
            Config.load([RECIPE], {"evaluation": {"compare": [pair]}})
    with pytest.raises(ConfigError, match=r"evaluation\.compare\[0\]"):
        Config.load([RECIPE], {"evaluation": {"compare": [["student", "student"]]}})
