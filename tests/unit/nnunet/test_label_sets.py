"""What was annotated in a case, from the configuration to the loss."""

import json
from dataclasses import replace
from pathlib import Path

import processes
import pytest
import torch
from cohorts import changed
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from places import RECIPE
from trainings import CHANGES, MODEL, command, prepare, settings, trainer_of

from flare23_lib import versions
from flare23_lib.cache.entries import Shard
from flare23_lib.cache.results import Results
from flare23_lib.cli import main
from flare23_lib.config import Config
from flare23_lib.config.load import merge
from flare23_lib.dataset.cases import Case, write_cases
from flare23_lib.errors import ConfigError
from flare23_lib.io.atomic import read_json, write_json
from flare23_lib.nnunet.losses import LabelSetLoss
from flare23_lib.nnunet.training_job import TrainingJob
from flare23_lib.preprocessing import preprocess_cases as preprocessing
from flare23_lib.preprocessing.preprocess_cases import TrainingCase

CASE = Case("a", "a.nii.gz", "l.nii.gz", "training", {1: 5}, "tumor", (4, 5, 6), (5.0, 2.0, 2.0), "ok", "i", "l")
ORIGINAL = TrainingCase(CASE, Path("l.nii.gz"), "l")
COMPLETED = TrainingCase(CASE, Path("c.nii.gz"), "store/completed_labels/x/a.nii.gz")

PARTIAL = {"train_on": {"manual_labels": ["tumor", "five_organs"], "label_completions": ["all_organs"]}}
LOSS = {"training": {"loss": "label_sets"}}


def folder_of(results, settings, rows):
    return TrainingJob(results, "student", settings, [], rows).folder


def config(**changes):
    """The recipe with a student that learns from label sets."""
    return Config.load([RECIPE], {"models": {"student": {**PARTIAL, **LOSS}}, **changes})


PREPARED_FOR = {"loss": "label_sets"}


def make(results, folder, rows=None, **training):
    chosen = changed(settings(**training), hidden_in={"3": [1]}) if training else settings()
    return trainer_of(results, folder, chosen, rows)


def test_categories_with_different_labels_can_be_learned_from_by_their_sets():
    assert config().models["student"].training.loss == "label_sets"
    with pytest.raises(ConfigError, match=r"set training\.loss to label_sets"):
        Config.load([RECIPE], {"models": {"student": PARTIAL}})


def test_labels_are_hidden_in_other_labels(tmp_path, monkeypatch):
    labels = [dict(label) for label in config().labels]
    labels[-1] |= {"hidden_in": ["liver", "spleen"]}
    one = config(labels=labels)
    settings = one.training_settings("student")
    assert settings.hidden_in == {"14": (1, 3)}
    others = [
        changed(settings, training={**settings.training.to_json(), "hidden_weight": weight}) for weight in (0, 1)
    ]
    folders = [folder_of(Results(tmp_path), other, []) for other in (settings, *others)]
    assert len({folder.path for folder in folders}) == 3
    before = folder_of(Results(tmp_path), settings, []).path
    ordinary = Config.load([RECIPE], {"model_defaults": {"training": {"hidden_weight": 1}}})
    assert ordinary.training_settings("student") == Config.load([RECIPE]).training_settings("student")
    monkeypatch.setattr(versions, "HIDDEN_LABELS", 99)
    assert folder_of(Results(tmp_path), settings, []).path != before
    assert one.training_settings("organ_teacher") == Config.load([RECIPE]).training_settings("organ_teacher")
    assert (one.cohort_settings(), one.evaluation_settings()) == (
        config().cohort_settings(), config().evaluation_settings()
    )  # fmt: skip
    for names, message in ((["heart"], "there is no label"), (["tumor"], "cannot be hidden in itself")):
        labels[-1]["hidden_in"] = names
        with pytest.raises(ConfigError, match=message):
            config(labels=labels)


@pytest.mark.parametrize(("annotated", "expected"), [(None, "1"), ((3, 14), "3 14"), ((), "")])
def test_the_annotated_labels_of_a_manual_label_are_those_of_its_case(annotated, expected):
    original = replace(ORIGINAL, case=replace(ORIGINAL.case, annotated=annotated))
    row = preprocessing.record_row(Results(Path("results")), config().preprocessing_settings("student"), original)
    assert row["annotated"] == expected


def test_the_annotated_labels_of_a_completed_case_are_those_that_its_teacher_knows(tmp_path):
    results = Results(tmp_path)
    labels = [{"name": label.name, "value": label.value} for label in config().labels]
    write_json(results.model_file("tumor_teacher"), {"labels": labels, "unseen": ["liver", "tumor", "spleen"]})
    case = replace(COMPLETED, case=replace(COMPLETED.case, voxels={}), completion="all_organs", present=(2, 14))
    row = preprocessing.record_row(results, config().preprocessing_settings("student"), case)
    assert row["annotated"] == "2 4 5 6 7 8 9 10 11 12 13 14"


def test_other_annotated_labels_are_another_training_but_not_another_preprocessed_label():
    results, chosen = Results(Path("results")), config()
    row = {"case": "a", "image": "i.b2nd", "label": "l.b2nd", "annotated": "1"}
    partial = chosen.training_settings("student")
    assert folder_of(results, partial, [row]) != folder_of(results, partial, [row | {"annotated": "2"}])
    plain = Config.load([RECIPE])
    ordinary = plain.training_settings("student")
    assert folder_of(results, ordinary, [row]) == folder_of(results, ordinary, [row | {"annotated": "2"}])
    items = [preprocessing.label_entry(results, one.preprocessing_settings("student"), ORIGINAL).metadata_path
             for one in (chosen, plain)]  # fmt: skip
    assert items[0] == items[1]
    assert "label_sets" not in json.dumps(plain.preprocessing_settings("student").to_json())


def test_a_training_knows_what_was_annotated_in_each_case(prepared, tmp_path):
    trainer = make(prepared, tmp_path, loss="label_sets")
    sets = {case: [set(row.nonzero().flatten().tolist()) for row in rows] for case, rows in trainer.sets.items()}
    everything = [{0}, {1}, {2}, {3}, {4}, {0, 1, 2, 3, 4}]  # the absent one is annotated nowhere: it is nowhere
    assert sets == {"case0": everything, "case1": [{0, 3}, {1, 3}, *everything[2:]],
                    "case2": [{0, 3}, {1, 3}, *everything[2:]]}  # fmt: skip
    assert isinstance(trainer.loss.loss, LabelSetLoss)
    assert trainer.loss.weight_factors == make(prepared, tmp_path / "other").loss.weight_factors


def test_the_ordinary_loss_stays_nnunets(prepared, tmp_path):
    trainer = make(prepared, tmp_path)
    assert trainer.sets is None
    assert isinstance(trainer.loss.loss, DC_and_CE_loss)


def test_a_batch_is_learned_from_by_the_sets_of_its_cases(prepared, tmp_path):
    options = {"oversample_foreground": 1, "batch_size": 4, "hidden_weight": 1}
    trainer = make(prepared, tmp_path, loss="label_sets", **options)
    trainer.on_train_start()
    partial, whole = trainer.sets, dict.fromkeys(trainer.sets, trainer.sets["case0"])
    for _ in range(6):
        batch = next(trainer.dataloader_train)
        losses, counts = [], []
        for trainer.sets in (partial, whole):
            losses.append(float(trainer._forward(batch)[0].detach()))
            counts.append(trainer.validation_step(batch)[1])
        only_whole = set(batch["keys"]) == {"case0"}
        assert (losses[0] == losses[1]) == only_whole
        assert losses[0] <= losses[1] or only_whole
        assert counts[0].shape == (3, 4)
        assert (counts[0].sum(0) <= counts[1].sum(0)).all(), "nothing is known of rare ones in partial cases"
        trainer.sets = partial
        assert torch.isfinite(trainer.train_step(batch))


def test_hidden_labels_count_less(prepared, tmp_path):
    trainer = make(prepared, tmp_path, loss="label_sets")
    hidden, whole = trainer._sets_of({"keys": ["case1", "case0"]})
    assert hidden[1].tolist() == pytest.approx([0, 1, 0, 0.01, 0])
    assert hidden[0].tolist() == [1, 0, 0, 1, 0], "what is unlabeled can be anything that was not annotated"
    assert torch.equal(whole[:5], torch.eye(5))


def test_the_targets_of_rare_labels_lie_in_cases_in_which_they_are_annotated(prepared, tmp_path):
    trainer = make(prepared, tmp_path, loss="label_sets", oversample_foreground=1, batch_size=3)
    loader = trainer.get_dataloaders()[0].data_loader
    for _ in range(5):  # a round has three targets: the labels that have voxels
        keys = loader.get_indices()
        rare = loader._targets.index(3)
        assert keys[rare] == "case0"


@pytest.mark.slow  # two processes import nnU-Net
@pytest.mark.parametrize("targets", ["hard", "native"])
def test_two_processes_share_batches_of_label_sets(tmp_path, targets):
    protocol = {"loss": "label_sets", "targets": targets, "epochs": 2}
    results = prepare(tmp_path, **protocol)
    done = processes.run(command(results, gpus=2, **protocol))
    assert done.returncode == 0, done.stderr
    record = read_json(results.training(MODEL))
    assert (record["gpus"], record["epochs"]) == (2, 2)
    assert record["labels_unseen"] == ["absent"]


def test_the_preset_of_partial_labels_has_one_teacher_of_all_labels():
    chosen = Config.load([RECIPE, RECIPE.parent / "presets/partial_labels.yaml"])
    assert [name for kind, name in chosen.order() if kind == "models"] == ["teacher", "student", "student_2200"]
    stated = {category.name: category.annotated for category in chosen.cohort_settings().categories}
    organs = chosen.label_map.names[:13]
    assert stated.pop("all_organs") == tuple(organs)
    assert stated == {"tumor": "present", "five_organs": (*organs[:4], organs[12]), "unlabeled": None}
    assert set(chosen.training_settings("teacher").hidden_in) == {"14"}
    recipe = Config.load([RECIPE])
    epochs = [recipe.training_settings(name).training.epochs for name in ("organ_teacher", "tumor_teacher")]
    assert chosen.training_settings("teacher").training.epochs == sum(epochs)
    assert all(completion.soft for completion in chosen.completions.values())
    assert chosen.training_settings("student") == changed(recipe.training_settings("student"), soft=True)


@pytest.mark.parametrize(
    ("loss", "rows", "message"),
    [
        ("label_sets", [((1, 2), (1,)), ((1,), (1, 3))], "student: two: labeled in cases, but annotated in"),
        ("label_sets", [((1, 2), (1,)), ((1, 2), None)], None),
        ("nnunet", [((1, 2), (1,)), ((1,), (1,))], None),
        ("label_sets", [], "student: no case to train on"),
        ("nnunet", [], "student: no case to train on"),
    ],
)
def test_what_cannot_be_learned_is_refused_before_a_case_is_preprocessed(tmp_path, capsys, loss, rows, message):
    values = merge(CHANGES, {"model_defaults": {"training": {"loss": loss}}})
    chosen, results = Config.load([RECIPE], values), Results(tmp_path)
    whole = [
        replace(CASE, case=f"case{number}", voxels=dict.fromkeys(present, 5), category="all", annotated=annotated)
        for number, (present, annotated) in enumerate(rows)
    ]
    write_cases(results.cases, whole)
    parts = {
        "settings": chosen.preprocessing_settings(MODEL).to_json(), "patch_size": [8, 16, 16],
        "organs": chosen.background_organs(MODEL), "label_names": chosen.label_map.names,
    }  # fmt: skip
    output = results.shard("preprocessed", MODEL, Shard(0, 1))
    job = ["--results", str(tmp_path), "--model", MODEL, "--settings", json.dumps(parts), "--output", str(output)]
    assert main(["stage", "preprocess", *job, "--shard", "0-of-1"]) == 1, "there are no images either"
    said = capsys.readouterr().err
    assert message in said if message else "cases failed" in said
    assert any(tmp_path.glob("store/preprocessed_*")) == (message is None)
