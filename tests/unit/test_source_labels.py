"""What later stages make of a source: its labels in our values, and what was looked for in it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import blosc2
import numpy as np
import pytest
from cohorts import write
from places import RECIPE

from flare23_lib.cache.results import Results
from flare23_lib.config import Config
from flare23_lib.config.cohort_models import Source
from flare23_lib.config.settings import LabelSets
from flare23_lib.dataset.cases import Case
from flare23_lib.dataset.sources import SourceLabels
from flare23_lib.evaluation.cases import Pair, Scoring, score_cases
from flare23_lib.io.atomic import write_json
from flare23_lib.io.label_maps import LabelFiles, ValueTable
from flare23_lib.labels import LabelMap
from flare23_lib.preprocessing.preprocess import TrainingGrid, preprocess_labels
from flare23_lib.preprocessing.preprocess_cases import TrainingCase, annotated_in
from flare23_lib.pseudo_labels.complete import completed_entry, completion_folder
from flare23_lib.pseudo_labels.pseudo_label import annotated_labels

CONFIG = Config.load([RECIPE])
LABELS = CONFIG.label_map
TABLE = ValueTable({"6": 1, "1": 3, "9": 255}).text
SHAPE = (6, 8, 10)
BOX, OTHER, THIRD = np.s_[1:4, 2:6, 1:5], np.s_[1:4, 2:6, 6:9], np.s_[4:6, 1:3, 1:3]


def volume(**boxes):
    array = np.zeros(SHAPE, np.uint8)
    for value, box in boxes.items():
        array[box] = int(value.removeprefix("v"))
    return array


def case(annotated=None, **options):
    return Case("lits_1", "i.nii.gz", "l.nii.gz", "training", {1: 5, 3: 2}, label_id="id", image_id="image",
                spacing=(5.0, 2.0, 2.0), annotated=annotated, **options)  # fmt: skip


def test_a_label_in_other_numbers_is_preprocessed_as_one_in_ours(tmp_path):
    write(tmp_path / "theirs.nii.gz", volume(v6=BOX, v1=OTHER))
    write(tmp_path / "ours.nii.gz", volume(v1=BOX, v3=OTHER))
    made = []
    for name, label in (("a", LabelFiles(tmp_path / "theirs.nii.gz", TABLE)), ("b", tmp_path / "ours.nii.gz")):
        files = [tmp_path / f"{name}{suffix}" for suffix in (".b2nd", ".pkl")]
        grid = TrainingGrid((5, 2, 2), "canonical", (4, 8, 8))
        present = preprocess_labels(label, files[0], grid, LABELS.values)
        made.append((present, blosc2.open(str(files[0]), mode="r")[:].tolist(), files[1].read_bytes()))
    assert made[0] == made[1]
    assert made[0][0] == [1, 3]


def test_a_class_that_was_not_looked_for_is_not_scored(tmp_path):
    write(tmp_path / "reference.nii.gz", volume(v6=BOX))
    write(tmp_path / "prediction.nii.gz", volume(v1=BOX, v4=OTHER))
    reference = LabelFiles(tmp_path / "reference.nii.gz", TABLE)
    pairs = [Pair("c", reference, tmp_path / "prediction.nii.gz", annotated) for annotated in ((1, 3), (1, 4), None)]
    one, two, every = score_cases(pairs, Scoring(LABELS, mode="plain"))
    assert [one.scores[name]["DSC"] for name in ("liver", "spleen")] == [1, 1]
    assert math.isnan(one.scores["pancreas"]["DSC"])
    assert two.scores["pancreas"]["DSC"] == every.scores["pancreas"]["DSC"] == 0
    assert math.isnan(two.scores["spleen"]["DSC"])


def test_ignored_voxels_do_not_count_in_scores(tmp_path):
    write(tmp_path / "reference.nii.gz", volume(v6=BOX, v9=OTHER))
    write(tmp_path / "prediction.nii.gz", volume(v1=BOX, v3=OTHER))
    pair = Pair("c", LabelFiles(tmp_path / "reference.nii.gz", TABLE), tmp_path / "prediction.nii.gz")
    scores = score_cases([pair], Scoring(LABELS, mode="plain"))[0]
    assert scores.status == "ok"
    assert (scores.scores["liver"]["DSC"], scores.scores["spleen"]["DSC"]) == (1, 1)


def test_completions_do_not_extend_what_was_looked_for():
    assert annotated_labels("present", case(), {}) == [1, 3]
    assert annotated_labels("present", case((1, 3, 14)), {}) == [1, 3, 14]
    assert annotated_labels([4], case((1, 3, 14)), {}) == [4]
    bases = {"lits_1": {"labels_present": "1 3 4"}}
    assert annotated_labels("present", case((1, 3, 14)), bases) == [1, 3, 4, 14]
    assert annotated_labels("present", case(), bases) == [1, 3, 4]


def test_what_was_looked_for_is_part_of_a_completed_labels_identity():
    folder = completion_folder(Results(Path("results")), CONFIG.completion_settings("tumor"))
    names = {completed_entry(folder, case(annotated), "store/p", {}).name for annotated in (None, (1, 3), (1, 3, 14))}
    assert len(names) == 3


@pytest.mark.parametrize(("stated", "known"), [((1, 3, 14), [1, 3, 14]), (None, [1, 3]), ((), [])])
def test_training_learns_from_what_was_looked_for(stated, known, tmp_path):
    sets = LabelSets(label_completions={"lits": ("teacher",)})
    item = TrainingCase(case(stated), Path("l.nii.gz"), "id", present=(1, 3))
    settings = CONFIG.preprocessing_settings("student")
    assert annotated_in(Results(tmp_path), settings, sets, item) == known
    labels = [{"name": label.name, "value": label.value} for label in LABELS.labels[:4]]
    write_json(tmp_path / "models/teacher/model.json", {"labels": labels, "unseen": ["spleen"]})
    completed = replace(item, completion="lits", present=(1, 4))
    assert annotated_in(Results(tmp_path), settings, sets, completed) == sorted({1, 2, 4, *known})
    for overrule, original in (("only_present", {1, 3}), ((9,), {9})):
        other = LabelSets(label_completions=sets.label_completions, stated={"lits": overrule})
        assert annotated_in(Results(tmp_path), settings, other, completed) == sorted({1, 2, 4, *original})


def test_a_model_whose_labels_ignore_voxels_has_nnunets_ignore_label():
    values = {str(value): name for name, value in zip(LABELS.names, LABELS.values, strict=True)}
    for target, expected in (("tumor", False), ("ignore", True)):
        source = {"values": {**values, "15": target}}
        config = Config.load([RECIPE], {"sources": {"flare23": source}})
        assert config.training_settings("organ_teacher").ignore_label == expected
    given = {str(value): name for value, name in enumerate([*LABELS.names, "ignore"], start=1)}
    patterns = {"validation_images": "more/{case}.nii.gz", "validation_labels": "more/{case}_seg.nii.gz"}
    validation = Config.load([RECIPE], {"sources": {"more": {**patterns, "values": given}}})
    rows = [{"name": "more", "sources": ["more"]}, *(one.to_json() for one in CONFIG.categories)]
    own = {"images": "more/{case}.nii.gz", "labels": "more/{case}_seg.nii.gz", "values": given}
    apart = Config.load([RECIPE], {"sources": {"more": own}, "categories": [
        {**row, "sources": row.get("sources", ["flare23"])} for row in rows]})  # fmt: skip
    for name in CONFIG.models:
        assert validation.training_settings(name) == apart.training_settings(name) == CONFIG.training_settings(name)


@pytest.mark.parametrize(
    ("masks", "known"),
    [
        ({"left_lobe", "right_lobe", "tumor_1"}, (1, 14)),
        ({"left_lobe", "tumor_2"}, (14,)),
        ({"right_lobe", "left_lobe"}, (1,)),
    ],
)
def test_an_organ_of_several_masks_needs_all_and_a_tumor_any(masks, known):
    values = {"left_lobe": "liver", "right_lobe": "liver", "tumor_1": "tumor", "tumor_2": "tumor"}
    source = Source(images=("{case}/ct.nii.gz",), masks=("{case}/{mask}.nii.gz",), values=values)
    assert SourceLabels.of(source, LABELS).annotated_in((), masks) == known


def test_what_was_looked_for_is_sorted_in_whatever_order_labels_are_listed():
    labels = LabelMap(tuple(reversed(LABELS.labels)))
    values = {"a": "liver", "b": "tumor", "c": "spleen"}
    source = Source(images=("{case}/ct.nii.gz",), masks=("{case}/{mask}.nii.gz",), values=values)
    assert SourceLabels.of(source, labels).annotated_in((), {"a", "b", "c"}) == (1, 3, 14)
