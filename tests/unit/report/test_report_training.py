import itertools
import re

import pandas as pd
from reports import drawn, svg_texts

from flare23_lib.report.training import draw_training


def rows(epochs, **dice):
    return pd.DataFrame([
        {"epoch": str(epoch), "train_loss": "0.5", "validation_loss": "0.4", "pseudo_dice": "0.3",
         **{f"pseudo_dice_{name}": value for name, value in dice.items()}}
        for epoch in range(1, epochs + 1)
    ])  # fmt: skip


def test_the_figure_names_the_model_and_every_class_that_was_seen(tmp_path):
    draw_training(tmp_path / "a.svg", "organ_teacher", rows(5, liver="0.9", left_kidney="0.2", tumor=""))
    texts = [text.text for text in svg_texts(tmp_path / "a.svg")]
    assert {"organ teacher: loss", "left kidney"} <= set(texts)
    assert "tumor" not in texts


def test_classes_are_named_in_the_order_of_their_last_values(tmp_path):
    names = ["spleen", "aorta", "liver", "mean"]
    draw_training(tmp_path / "a.svg", "m", rows(2, liver="0.2", spleen="0.9", aorta="0.5"))
    texts = [text.text for text in svg_texts(tmp_path / "a.svg")]
    assert [text for text in texts if text in names] == names


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
