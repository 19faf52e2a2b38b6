import pytest
from places import BASE_CONFIG, RECIPE

from flare23_lib import cli
from flare23_lib.config import Config
from flare23_lib.errors import EvaluationError, StoreError
from flare23_lib.evaluation.ranking import format_ranking, rank_folders
from flare23_lib.evaluation.tables import write_table
from flare23_lib.io.tables import read_csv, write_csv
from flare23_lib.labels import Label, LabelMap

LABELS = LabelMap((Label("liver", 1), Label("spleen", 3), Label("tumor", 14, kind="tumor")))
COLUMNS = [f"{name}_{measure}" for name in LABELS.names for measure in ("DSC", "NSD")]


def team(folder, scores, times=None, memory=None):
    """A result folder: one score for all classes by case, and seconds and (peak, area) by case."""
    rows = [{"Name": case, **dict.fromkeys(COLUMNS, score)} for case, score in scores.items()]
    write_csv(folder / "metrics.csv", ["Name", *COLUMNS], rows)
    if times is not None:
        memory = memory or dict.fromkeys(times, (None, None))
        rows = [
            {
                "Name": f"{case}_0000.nii.gz",
                "Time": seconds,
                "MaxGPU_Mem": memory[case][0],
                "AUC_GPU_Time": memory[case][1],
            }
            for case, seconds in times.items()
        ]
        write_csv(folder / "efficiency.csv", ["Name", "Time", "MaxGPU_Mem", "AUC_GPU_Time"], rows)
    return folder


def by_team(ranking):
    return {row["folder"].rsplit("/", 1)[-1]: row for row in ranking.table.to_dict("records")}


def ranks(ranking):
    return {name: (row["rank"], row["mean_rank"]) for name, row in by_team(ranking).items()}


def test_every_metric_of_every_case_is_ranked_and_ranks_are_averaged(tmp_path):
    """a is best in two cases of three, but its mean score is the lowest: ranks count, not means."""
    a = team(tmp_path / "a", {"x": 0.9, "y": 0.9, "z": 0.1})
    b = team(tmp_path / "b", {"x": 0.8, "y": 0.8, "z": 0.9})
    c = team(tmp_path / "c", {"x": 0.7, "y": 0.7, "z": 0.8})
    ranking = rank_folders([b, c, a], LABELS)
    assert ranking.metrics == ["organ_DSC", "organ_NSD", "tumor_DSC", "tumor_NSD"]
    assert ranks(ranking) == {"a": (1, 1.6667), "b": (1, 1.6667), "c": (3, 2.6667)}
    assert ranking.notes == [f"time and GPU memory do not count: {b} has no efficiency.csv"]


def test_a_metric_of_few_cases_counts_as_much_as_one_of_all(tmp_path):
    """a is better in the organs of four cases, b in the time of one: two metrics each way would be a tie."""
    scores = dict.fromkeys("wxyz", 0.9)
    a = team(tmp_path / "a", scores, {"w": 90.0})
    b = team(tmp_path / "b", dict.fromkeys("wxyz", 0.8), {"w": 20.0})
    table = by_team(rank_folders([a, b], LABELS))
    assert table["a"]["time_rank"] == 2
    assert table["a"]["mean_rank"] == round((4 * 1 + 2) / 5, 4)
    assert table["b"]["mean_rank"] == round((4 * 2 + 1) / 5, 4)


def test_two_rows_of_a_case_are_refused(tmp_path):
    a = team(tmp_path / "a", {"scan": 0.9, "scan_0000": 0.8})
    with pytest.raises(EvaluationError, match="two rows are of the case scan"):
        rank_folders([a, team(tmp_path / "b", {"scan": 0.9})], LABELS)


def test_equal_values_share_the_best_of_their_ranks(tmp_path):
    teams = [team(tmp_path / name, {"x": score}) for name, score in (("a", 0.8), ("b", 0.8), ("c", 0.5))]
    assert ranks(rank_folders(teams, LABELS)) == {"a": (1, 1.0), "b": (1, 1.0), "c": (3, 3.0)}


def test_time_and_memory_within_the_tolerances_are_equally_good(tmp_path):
    scores = {"x": 0.8}
    a = team(tmp_path / "a", scores, {"x": 2.0}, {"x": (1000, 500)})
    b = team(tmp_path / "b", scores, {"x": 14.9}, {"x": (4096, 90_000)})
    c = team(tmp_path / "c", scores, {"x": 15.1}, {"x": (4097, 100)})
    ranking = rank_folders([a, b, c], LABELS)
    table = by_team(ranking)
    assert [table[name]["time_rank"] for name in "abc"] == [1, 1, 3]
    assert [table[name]["gpu_area_rank"] for name in "abc"] == [1, 1, 3]
    assert (table["b"]["time"], table["c"]["time"]) == (15, 15.1)
    assert (table["a"]["rank"], table["b"]["rank"], table["c"]["rank"]) == (1, 1, 3)


def test_memory_counts_only_if_every_folder_measured_it(tmp_path):
    a = team(tmp_path / "a", {"x": 0.8}, {"x": 20.0}, {"x": (1000, 500)})
    b = team(tmp_path / "b", {"x": 0.8}, {"x": 30.0})
    ranking = rank_folders([a, b], LABELS)
    assert ranking.metrics[-1] == "time"
    assert ranking.notes == [f"GPU memory does not count: {b / 'efficiency.csv'} has none for some cases"]
    assert ranks(ranking) == {"a": (1, 1.0), "b": (2, 1.2)}


def test_a_measurement_of_no_case_does_not_switch_memory_off(tmp_path):
    a, b = (team(tmp_path / name, {"x": 0.8}, {"x": 20.0}, {"x": (5000, 500)}) for name in "ab")
    with (a / "efficiency.csv").open("a") as file:
        file.write("warmup,1,,\n")
    ranking = rank_folders([a, b], LABELS)
    assert ranking.metrics[-2:] == ["time", "gpu_area"]
    assert ranking.notes == []


def test_what_nobody_measured_for_a_case_is_not_ranked(tmp_path):
    a = team(tmp_path / "a", {"x": 0.8, "y": 0.8}, {"x": 40.0})
    b = team(tmp_path / "b", {"x": 0.8, "y": 0.8}, {"x": 20.0})
    assert ranks(rank_folders([a, b], LABELS)) == {"b": (1, 1.0), "a": (2, 1.2)}


def test_a_missing_case_counts_as_worst_and_is_named(tmp_path):
    a = team(tmp_path / "a", {"x": 0.9})
    b = team(tmp_path / "b", {"x": 0.1, "y": 0.0})
    ranking = rank_folders([a, b], LABELS)
    assert ranks(ranking) == {"a": (1, 1.5), "b": (1, 1.5)}
    assert f"{a}: 1 cases are missing and count as worst: y" in ranking.notes


def test_classes_that_a_model_never_saw_do_not_enter_its_mean(tmp_path):
    a = team(tmp_path / "a", {"x": 0.5})
    row = {"Name": "x", **dict.fromkeys(COLUMNS, 0.6), "spleen_DSC": None, "tumor_DSC": None}
    write_csv(tmp_path / "b" / "metrics.csv", ["Name", *COLUMNS], [row])
    table = by_team(rank_folders([a, tmp_path / "b"], LABELS))
    assert table["b"]["organ_DSC"] == 0.6
    assert (table["b"]["tumor_DSC_rank"], table["a"]["tumor_DSC_rank"]) == (2, 1)


def test_a_model_without_the_hard_classes_ranks_no_better_for_it(tmp_path):
    row = {"Name": "x", **dict.fromkeys(COLUMNS, 0.9), "spleen_DSC": 0.5, "spleen_NSD": 0.5}
    for name, known in (("a", row), ("b", row | {"spleen_DSC": None, "spleen_NSD": None})):
        write_csv(tmp_path / name / "metrics.csv", ["Name", *COLUMNS], [known])
    ranking = rank_folders([tmp_path / "a", tmp_path / "b"], LABELS)
    assert ranks(ranking) == {"a": (1, 1.0), "b": (1, 1.0)}
    said = "in 1 cases scores are means of the classes that all folders have there"
    assert any(note.startswith(said) for note in ranking.notes)


def test_what_a_folder_alone_lacks_counts_as_worst_and_is_said(tmp_path):
    a = team(tmp_path / "a", {"x": 0.9, "y": 0.9}, {"x": 20})
    b = team(tmp_path / "b", {"x": 0.8, "y": 0.8}, {"x": 30, "y": 30})
    notes = rank_folders([a, b], LABELS).notes
    assert f"{a}: 1 cases have no time, which counts as worst: y" in notes
    assert not [note for note in notes if note.startswith(f"{b}:")]


def test_times_of_other_names_are_no_times_and_that_is_said(tmp_path):
    a = team(tmp_path / "a", {"x": 0.9}, {"sleep": 20})
    b = team(tmp_path / "b", {"x": 0.8}, {"x.nii": 30})
    ranking = rank_folders([a, b], LABELS)
    assert f"{a / 'efficiency.csv'}: none of its 1 rows is named as a case of metrics.csv" in ranking.notes


def test_a_ranking_is_written_and_shown(tmp_path):
    teams = [team(tmp_path / name, {"x": score}) for name, score in (("a", 0.8), ("b", 0.9))]
    ranking = rank_folders(teams, LABELS)
    write_table(tmp_path / "ranking.csv", ranking.table)
    rows = read_csv(tmp_path / "ranking.csv")
    assert [(row["rank"], row["folder"][-1], row["organ_DSC"]) for row in rows] == [
        ("1", "b", "0.9"),
        ("2", "a", "0.8"),
    ]
    assert "mean ranks over 1 cases and 4 metrics" in format_ranking(ranking)


def test_tied_folders_stand_in_the_order_given(tmp_path):
    teams = [team(tmp_path / name, {"x": 0.8, "y": 0.3}) for name in "cab"]
    assert list(by_team(rank_folders(teams, LABELS))) == ["c", "a", "b"]


def test_a_folder_without_cases_is_ranked_last_and_folders_without_any_are_refused(tmp_path):
    teams = [team(tmp_path / "a", {"x": 0.8}), team(tmp_path / "b", {})]
    assert list(by_team(rank_folders(teams, LABELS))) == ["a", "b"]
    with pytest.raises(EvaluationError, match="holds no cases"):
        rank_folders([team(tmp_path / name, {}) for name in "ab"], LABELS)


def test_folders_in_which_nothing_was_scored_are_refused(tmp_path):
    teams = [team(tmp_path / name, {"x": None, "y": None}) for name in "ab"]
    with pytest.raises(EvaluationError, match="no folder has a score of any case"):
        rank_folders(teams, LABELS)


def test_bad_folders_are_refused_by_name(tmp_path):
    a, b = (team(tmp_path / name, {"x": 0.5}) for name in "ab")
    with pytest.raises(EvaluationError, match="at least two"):
        rank_folders([a], LABELS)
    with pytest.raises(EvaluationError, match="given twice"):
        rank_folders([a, b, a], LABELS)
    with pytest.raises(StoreError, match=r"nowhere/metrics\.csv is missing"):
        rank_folders([a, tmp_path / "nowhere"], LABELS)
    (b / "metrics.csv").write_text("Name,Liver_DSC\nx,1\n")
    with pytest.raises(EvaluationError, match=r"b/metrics\.csv: has no column liver_DSC; metrics need"):
        rank_folders([a, b], LABELS)


def test_the_labels_are_no_hint_where_a_column_of_efficiency_is_missing(tmp_path):
    a, b = (team(tmp_path / name, {"x": 0.5}, {"x": 20.0}) for name in "ab")
    (b / "efficiency.csv").write_text("Name,Seconds\nx,1\n")
    with pytest.raises(EvaluationError, match=r"b/efficiency\.csv: has no column Time$"):
        rank_folders([a, b], LABELS)


@pytest.mark.parametrize("cell", ["fast", "inf", "-inf", "1e999"])
@pytest.mark.parametrize("name", ["metrics.csv", "efficiency.csv"])
def test_a_score_or_time_that_is_no_number_is_refused(tmp_path, name, cell):
    a, b = (team(tmp_path / name, {"x": 0.5}, {"x": 0.5}) for name in "ab")
    (b / name).write_text((b / name).read_text().replace("0.5", cell, 1))
    with pytest.raises(EvaluationError, match=rf"b/{name}: x: (liver_DSC|Time) is '({cell}|inf)', not a number"):
        rank_folders([a, b], LABELS)


def test_the_command_writes_the_ranking_and_says_what_was_left_out(tmp_path, capsys):
    labels = Config.load([RECIPE]).label_map
    columns = [f"{name}_{measure}" for name in labels.names for measure in ("DSC", "NSD")]
    for name, score in (("a", 0.8), ("b", 0.9)):
        write_csv(
            tmp_path / name / "metrics.csv", ["Name", *columns], [{"Name": "x", **dict.fromkeys(columns, score)}]
        )
    command = ["rank", "--output", str(tmp_path / "ranking.csv"), str(tmp_path / "a"), str(tmp_path / "b")]
    assert cli.main([*command, *BASE_CONFIG]) == 0
    assert "time and GPU memory do not count" in capsys.readouterr().out
    assert read_csv(tmp_path / "ranking.csv")[0]["folder"] == str(tmp_path / "b")


def test_of_two_measurements_of_a_case_the_last_counts(tmp_path):
    a, b = (team(tmp_path / name, {"x": 0.5}, {"x": 20.0}) for name in "ab")
    with (a / "efficiency.csv").open("a") as file:
        file.write("x.nii.gz,40,,\n")
    assert by_team(rank_folders([a, b], LABELS))["a"]["time"] == 40


@pytest.mark.parametrize(("row", "words"), [("x,,1,1\n", "x has no Time"), ("", "has no rows")])
def test_a_case_without_a_time_and_a_table_without_rows_are_refused(tmp_path, row, words):
    a, b = (team(tmp_path / name, {"x": 0.5}, {"x": 20.0}) for name in "ab")
    (b / "efficiency.csv").write_text("Name,Time,MaxGPU_Mem,AUC_GPU_Time\n" + row)
    with pytest.raises(EvaluationError, match=words):
        rank_folders([a, b], LABELS)
