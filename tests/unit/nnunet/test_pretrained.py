"""Initial weights: what files are read, what is loaded of them, and a training that starts from them."""

import json
import re
from collections import OrderedDict

import numpy as np
import processes
import pytest
import torch
from places import RECIPE
from safetensors.torch import load_file, save_file
from trainings import MODEL, command

from flare23_lib.config import Config
from flare23_lib.errors import BundleError, ConfigError
from flare23_lib.io.atomic import read_json
from flare23_lib.networks.stunet import STUNet
from flare23_lib.nnunet.pretrained import match, read_weights


def network(classes=5, **changes):
    torch.manual_seed(classes)
    return STUNet(1, classes, **{"depth": [1, 1, 1], "widths": [4, 8, 8], **changes})


def release(path, weights):
    """Write a file as nnU-Net 1 did, in which the STU-Nets were released."""
    torch.save(
        {
            "epoch": 4000,
            "state_dict": OrderedDict(weights),
            "optimizer_state_dict": {"state": {}, "param_groups": [{"lr": 0.01, "params": [0]}]},
            "lr_scheduler_state_dict": None,
            "plot_stuff": ([np.float64(-0.5)], [-0.4], [], [np.float64(0.8)]),
            "best_stuff": (np.float64(0.8), None, None),
            "amp_grad_scaler": {"scale": 65536.0},
        },
        path,
    )


def checkpoint(path, weights):
    torch.save({"network_weights": weights, "trainer_name": "STUNetTrainer_base_ep2k", "logging": {}}, path)


@pytest.mark.parametrize(
    ("name", "write", "prefix"),
    [
        *(("base_ep4k.model", release, prefix) for prefix in ("", "module.", "_orig_mod.")),
        *(("checkpoint_final.pth", checkpoint, prefix) for prefix in ("", "module.", "_orig_mod.")),
        ("model.safetensors", lambda path, weights: save_file(weights, path), ""),
    ],
)
def test_weights_of_all_three_kinds_of_file_are_read(tmp_path, name, write, prefix):
    weights = network().state_dict()
    write(tmp_path / name, {prefix + key: weight for key, weight in weights.items()})
    read = read_weights(tmp_path / name)
    assert list(read) == list(weights) or name == "model.safetensors"
    assert all(torch.equal(read[key], weight) for key, weight in weights.items())


def test_a_file_beside_it_that_describes_other_weights_is_no_bundle(tmp_path):
    path, weights = tmp_path / "model.safetensors", network().state_dict()
    save_file(weights, path)
    for other in ([], {"weights": "x"}, {"weights": {"name": "x"}}, {"weights": {"file": "other.safetensors"}}):
        (tmp_path / "model.json").write_text(json.dumps(other))
        assert read_weights(path).keys() == weights.keys()
    (tmp_path / "model.json").write_text('{"weights": {"file": "model.safetensors"}}')
    with pytest.raises(BundleError, match="SHA-256 differs"):
        read_weights(path)


@pytest.mark.parametrize("content", [None, b"", b"not safetensors at all"])
def test_a_safetensors_file_that_is_missing_or_broken_is_refused_by_name(tmp_path, content):
    path = tmp_path / "model.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BundleError, match=r"model\.safetensors: cannot be read"):
        read_weights(path)


def test_heads_for_other_classes_start_fresh_and_all_else_is_loaded():
    here, there = network(5), network(105)
    weights, others = match(here, there.state_dict())
    heads = {f"seg_outputs.{stage}.{kind}" for stage in range(2) for kind in ("weight", "bias")}
    assert {reason: set(names) for reason, names in others.items()} == {"shape differs": heads}
    assert set(weights) == set(here.state_dict()) - heads
    assert all(torch.equal(weight, there.state_dict()[name]) for name, weight in weights.items())


def test_parameters_of_one_side_only_are_named():
    deeper, flatter = network(depth=[2, 1, 1]), network()
    of_deeper = deeper.state_dict().keys() - flatter.state_dict().keys()
    for here, there, reason in ((deeper, flatter, "not in the file"), (flatter, deeper, "not in the network")):
        weights, others = match(here, there.state_dict())
        assert weights.keys() == flatter.state_dict().keys()
        assert {why: set(names) for why, names in others.items()} == {reason: of_deeper}


def test_weights_in_half_precision_are_loaded_in_the_networks():
    half = {name: weight.half() for name, weight in network().state_dict().items()}
    assert all(weight.dtype == torch.float32 for weight in match(network(), half)[0].values())


# ---------------------------------------------------------------------- a training


def train(results, source, **training):
    arguments = [*command(results, epochs=1, learning_rate=1e-9, **training), "--pretrained", str(source)]
    return processes.run(arguments)


def test_a_training_starts_from_the_weights_and_says_what_it_loaded(prepared, tmp_path):
    start = network(105).state_dict()
    release(tmp_path / "one.model", start)
    done = train(prepared, tmp_path / "one.model")
    assert done.returncode == 0, done.stderr
    record = read_json(prepared.training(MODEL))
    made = load_file(prepared.root / record["weights"])
    fresh = re.search(r"shape differs: (.*)", done.stderr + done.stdout)[1].split(", ")
    assert len(fresh) == 4
    for name in start:
        same = made[name].shape == start[name].shape and torch.allclose(made[name], start[name], atol=1e-4)
        assert same != (name in fresh), name

    # Its own checkpoint is a file to start from, too.
    again = read_weights(prepared.root / record["checkpoint"])
    assert all(torch.equal(again[name], weight) for name, weight in made.items())

    # The file's content is part of the training, its path is not.
    (tmp_path / "one.model").rename(tmp_path / "moved.model")
    done = train(prepared, tmp_path / "moved.model")
    assert done.returncode == 0 and "is trained already" in done.stderr + done.stdout
    release(tmp_path / "other.model", network(7).state_dict())
    done = train(prepared, tmp_path / "other.model")
    assert done.returncode == 0 and "is trained already" not in done.stderr + done.stdout
    assert read_json(prepared.training(MODEL))["fingerprint"] != record["fingerprint"]


def test_weights_of_which_none_fits_are_refused_in_one_line(prepared, tmp_path):
    checkpoint(tmp_path / "wide.pth", network(widths=[3, 5, 7]).state_dict())
    done = train(prepared, tmp_path / "wide.pth", seed=5)
    assert done.returncode == 1
    assert "wide.pth: no kernel fits the network" in done.stderr + done.stdout
    assert "Traceback" not in done.stderr


# ---------------------------------------------------------------------- the configuration


def load(**overrides):
    return Config.load([RECIPE], overrides)


def test_a_model_follows_the_one_that_it_starts_from():
    config = load(models={"organ_teacher": {"pretrained": {"model": "tumor_teacher"}}, "tumor_teacher": {
        "train_on": {"manual_labels": ["all_organs"], "label_completions": []}}})  # fmt: skip
    order = config.order()
    assert order.index(("models", "tumor_teacher")) < order.index(("models", "organ_teacher"))
    assert str(config.pretrained_file("organ_teacher")) == "results/models/tumor_teacher/model.safetensors"


def test_a_file_or_a_bundles_folder_may_be_named(tmp_path):
    assert load(models={"student": {"pretrained": "x.model"}}).pretrained_file("student").name == "x.model"
    folder = load(models={"student": {"pretrained": str(tmp_path)}}).pretrained_file("student")
    assert folder == tmp_path / "model.safetensors"
    assert load().pretrained_file("student") is None


@pytest.mark.parametrize(
    ("models", "words"),
    [
        ({"organ_teacher": {"pretrained": {"model": "tumor_teacher"}}}, "circle"),
        ({"student": {"pretrained": {"model": "student"}}}, "circle"),
        ({"student": {"pretrained": {"model": "nobody"}}}, "models.student.pretrained: there is no model"),
        ({"student": {"pretrained": {"model": "tumor_teacher"}}}, "models.student.pretrained: tumor_teacher has ano"),
        ({"student": {"pretrained": {"path": "x"}}}, "models.student.pretrained"),
        ({"student": {"pretrained": "nowhere.model"}}, "models.student.pretrained: there is no file nowhere.model"),
    ],
)
def test_initial_weights_that_cannot_be_are_refused_before_any_job(models, words):
    with pytest.raises(ConfigError) as caught:
        load(models=models).check_given_files()
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
