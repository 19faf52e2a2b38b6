import itertools
import re

import pandas as pd
from reports import drawn

from flare23_lib.report.training import draw_training


def rows(epochs, **dice):
    return pd.DataFrame([
        {"epoch": str(epoch), "train_loss": "0.5", "validation_loss": "0.4", "pseudo_dice": "0.3",
         **{f"pseudo_dice_{name}": value for name, value in dice.items()}}
        for epoch in range(1, epochs + 1)
    ])  # fmt: skip


def test_the_figure_names_the_model_and_every_class_that_was_seen(tmp_path):
    draw_training(tmp_path / "a.svg", "organ_teacher", rows(5, liver="0.9", left_kidney="0.2", tumor=""))
    text = re.sub(r"<[^>]*>", "", (tmp_path / "a.svg").read_text())
    assert "organ teacher: loss" in text
    assert "left kidney" in text
    assert "tumor" not in text


def test_the_same_rows_give_the_same_bytes(tmp_path):
    for name in ("a.svg", "b.svg"):
        draw_training(tmp_path / name, "m", rows(1, liver="0.9"))
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_classes_are_named_in_the_order_of_their_last_values(tmp_path):
    draw_training(tmp_path / "a.svg", "m", rows(2, liver="0.2", spleen="0.9", aorta="0.5"))
    texts = re.findall(r"<text[^>]*>(liver|spleen|aorta|mean)<", (tmp_path / "a.svg").read_text())
    assert texts == ["spleen", "aorta", "liver", "mean"]


def test_a_loss_that_is_no_number_is_left_out(tmp_path, monkeypatch):
    history, figures = rows(3, liver="0.9"), drawn(monkeypatch)
    history.loc[1, "train_loss"] = "nan"
    draw_training(tmp_path / "a.svg", "m", history)
    assert list(figures[0].axes[0].lines[0].get_xdata()) == [1, 3]


def test_many_classes_are_named_within_the_figure(tmp_path):
    names = [f"class_{number}" for number in range(40)]
    draw_training(tmp_path / "a.svg", "m", rows(5, **dict.fromkeys(names, "0.9")))
    picture = (tmp_path / "a.svg").read_text()
    height = float(re.search(r'viewBox="0 0 [0-9.]+ ([0-9.]+)"', picture).group(1))
    words = re.findall(r"<text[^>]* y=\"([0-9.-]+)\"[^>]*>class \d+<", picture)
    assert len(words) == 40
    places = sorted(map(float, words))
    assert places[0] > 0
    assert places[-1] < height
    assert min(after - before for before, after in itertools.pairwise(places)) > 8
