import pandas as pd
from reports import svg_texts

from flare23_lib.report.conflicts import conflict_matrix, draw_conflicts

NAMES = ["liver", "right_kidney", "tumor"]


def row(original, predicted, voxels):
    return {"original": original, "predicted": predicted, "voxels": str(voxels)}


ROWS = pd.DataFrame(
    [
        row("background", "background", 5_000_000),
        row("background", "tumor", 1),
        row("tumor", "liver", 250),
        row("tumor", "tumor", 750),
    ]
)


def test_the_matrix_has_the_classes_that_occur_in_the_order_of_the_label_map():
    counts = conflict_matrix(ROWS, NAMES)
    assert list(counts.index) == ["background", "tumor"]
    assert list(counts.columns) == ["background", "liver", "tumor"]
    assert counts.to_numpy().tolist() == [[5_000_000, 0, 1], [0, 250, 750]]


def test_the_figure_names_classes_counts_and_shares(tmp_path):
    path = tmp_path / "conflicts.svg"
    draw_conflicts(path, "completion tumor", ROWS, NAMES)
    texts = [element.text for element in svg_texts(path)]
    for words in (
        "background  5 M",
        "tumor  1 k",
        "25",
        "75",
        "100",
        "<0.1",
        "completion tumor: percent of each row",
    ):
        assert words in texts
    assert "right kidney" not in " ".join(text or "" for text in texts)


def test_a_completion_without_cases_is_drawn_too(tmp_path):
    draw_conflicts(tmp_path / "empty.svg", "completion none", ROWS[:0], NAMES)
    assert "completion none: no cases" in (tmp_path / "empty.svg").read_text()
