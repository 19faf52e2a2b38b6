import errno
import json
import os
import pickle
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from bundles import a_checkpoint, a_model, some_weights
from cohorts import changed
from faults import flip
from places import RECIPE

from flare23_lib.config import Config
from flare23_lib.errors import BundleError
from flare23_lib.inference.bundle import load_bundle, write_bundle
from flare23_lib.inference.checkpoint import checkpoint_weights, read_checkpoint
from flare23_lib.inference.export import export_checkpoint
from flare23_lib.inference.model import Model
from flare23_lib.networks.stunet import STUNet
from flare23_lib.nnunet import plans as nnunet_plans
from flare23_lib.nnunet.pretrained import read_weights
from flare23_lib.nnunet.train import describe


@pytest.fixture
def folder(tmp_path):
    write_bundle(tmp_path / "student", a_model(), some_weights())
    return tmp_path / "student"


def change(folder, **changes):
    path = folder / "model.json"
    content = json.loads(path.read_text())
    del content["checksum"]
    path.write_text(json.dumps(content | changes))


def test_a_description_without_the_precision_means_auto():
    content = a_model().to_json()
    del content["inference"]["precision"]
    assert Model.from_json(content).inference.precision == "auto"


def test_a_bundle_gives_back_what_was_written(folder):
    bundle = load_bundle(folder)
    assert replace(bundle.model, weights=None) == a_model()
    network = bundle.build_network()
    assert not network.training
    for name, weight in some_weights().items():
        assert torch.equal(network.state_dict()[name], weight)


def test_a_bundle_holds_two_files_and_json_says_everything(folder):
    assert sorted(path.name for path in folder.iterdir()) == ["model.json", "model.safetensors"]
    content = json.loads((folder / "model.json").read_text())
    assert content["format"] == 1
    assert content["axes"] == "zyx"
    assert content["network"]["strides"] == [[1, 1, 1], [1, 2, 2]]
    assert content["labels"][1] == {"name": "liver", "value": 3}
    assert content["weights"]["file"] == "model.safetensors"


def test_the_same_model_gives_the_same_bytes(folder, tmp_path):
    turned = dict(reversed(some_weights().items()))
    write_bundle(tmp_path / "again", a_model(), turned)
    for name in ("model.json", "model.safetensors"):
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_weights_stored_in_half_precision_run_in_float32(tmp_path):
    write_bundle(tmp_path, a_model(), {name: weight.half() for name, weight in some_weights().items()})
    network = load_bundle(tmp_path).build_network()
    assert all(parameter.dtype == torch.float32 for parameter in network.parameters())


def test_a_folder_that_is_no_bundle_is_refused(tmp_path):
    with pytest.raises(BundleError, match=r"model\.json: is missing"):
        load_bundle(tmp_path / "nothing")


def test_missing_weights_are_named(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(BundleError, match=r"model\.safetensors: is missing"):
        load_bundle(folder)


def test_a_description_that_changed_is_refused_and_one_without_checksum_is_read(folder):
    path = folder / "model.json"
    before = load_bundle(folder).model
    path.write_text(path.read_text().replace('"liver"', '"lives"'))
    with pytest.raises(BundleError, match="changed since it was written; if the change is yours, delete its key"):
        load_bundle(folder)
    change(folder, labels=[label.to_json() for label in before.labels])
    assert load_bundle(folder).model == before


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
def test_weights_that_are_lost_while_they_are_read_are_named_in_one_line(folder, monkeypatch, number):
    """PyTorch maps the file into memory and raises a RuntimeError of several lines."""

    def lost(*arguments, **options):
        raise RuntimeError(f"unable to mmap 64 bytes from file: {os.strerror(number)} ({number})\nmore")

    monkeypatch.setattr(torch.UntypedStorage, "from_file", lost)
    path = folder / "model.safetensors"
    for read in (lambda: load_bundle(folder), lambda: read_weights(path)):
        with pytest.raises(BundleError) as caught:
            read()
        assert str(caught.value).startswith(f"{path}: cannot be read (")
        assert os.strerror(number) in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
def test_a_file_that_may_not_be_read_is_named_once(folder, monkeypatch, name):
    opened = Path.open

    def denied(path, *arguments, **options):
        if path.name == name:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return opened(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(BundleError) as caught:
        load_bundle(folder)
    assert str(caught.value) == f"{folder / name}: cannot be read (Permission denied)"


def test_weights_with_a_flipped_bit_are_neither_loaded_nor_started_from(folder):
    path = folder / "model.safetensors"
    assert read_weights(path).keys() == some_weights().keys()
    flip(path, -1)
    for read in (lambda: read_weights(path), lambda: load_bundle(folder)):
        with pytest.raises(BundleError, match=r"model\.safetensors: .*SHA-256 differs"):
            read()


@pytest.mark.parametrize("kept", [0, 7, 8, 100, -1])
def test_weights_that_are_cut_off_are_named_in_one_line(folder, kept):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(BundleError, match="cannot be read"):
        read_weights(path)
    with pytest.raises(BundleError, match="SHA-256 differs"):
        load_bundle(folder)


def test_broken_json_is_refused(folder):
    (folder / "model.json").write_text("{")
    with pytest.raises(BundleError, match=r"model\.json: cannot be read"):
        load_bundle(folder)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": 2}, "has format 2"),
        ({"orientation": "sideways"}, "orientation"),
        ({"axes": "xyz"}, "axes"),
        ({"patch_size": [4, 7, 8]}, "multiple"),
        ({"patch_size": [4, 8]}, "patch_size"),
        ({"spacing": [2.5, 0, 1]}, "spacing"),
        ({"labels": [{"name": "liver", "value": 1}, {"name": "spleen", "value": 2}]}, "labels"),
        ({"labels": [{"name": "background", "value": 0}, {"name": "liver", "value": 255}]}, "labels"),
        ({"unseen": ["gallbladder"]}, "unseen"),
        ({"mirror_axes": [3]}, "mirror_axes"),
        ({"weights": {"file": "../model.safetensors", "sha256": ""}}, r"weights\.file"),
        ({"weights": None}, "no weights"),
        ({"network": {"depth": [1], "widths": [4, 8]}}, "depth"),
        ({"network": {"blocks": 1}}, "cannot be used"),
        ({"network": []}, r"network: \[\] must be a table"),
        ({"patch_size": [1, 2, 2]}, r"patch_size \(1, 2, 2\): the strides leave one voxel"),
        ({"intensity": {"low": -970, "high": 279, "mean": 80, "std": 0}}, "intensity"),
        ({"intensity": {"low": 279, "high": 279, "mean": 80, "std": 140}}, "intensity"),
        ({"training_images": 5}, "training_images: 5 must be a table"),
        ({"training_images": {"axes": 5}}, "training_images: .* must be a table"),
        ({"labels": [{"name": "background", "value": 0}, {"name": 5, "value": 1}]}, "labels"),
        ({"inference": {"step": 2.0}}, r"inference\.step"),
        ({"inference": {"precision": "int8"}}, r"inference\.precision"),
    ],
)
def test_a_description_that_cannot_be_is_refused_in_one_line(folder, changes, words):
    change(folder, **changes)
    with pytest.raises(BundleError, match=words) as caught:
        load_bundle(folder)
    assert str(caught.value).startswith(str(folder / "model.json"))
    assert "\n" not in str(caught.value)


def test_a_key_that_is_missing_is_named(folder):
    path = folder / "model.json"
    content = json.loads(path.read_text())
    del content["spacing"], content["checksum"]
    path.write_text(json.dumps(content))
    with pytest.raises(BundleError, match="has no 'spacing'"):
        load_bundle(folder)


def test_weights_of_another_network_are_refused(folder, tmp_path):
    change(folder, network={"depth": [2, 1], "widths": [4, 8], "strides": [[1, 1, 1], [1, 2, 2]]})
    with pytest.raises(BundleError, match=r"conv_blocks_context\.0\.1\.conv1\.weight is missing"):
        load_bundle(folder)
    weights = some_weights()
    with pytest.raises(BundleError, match="has no layer extra"):
        write_bundle(tmp_path / "other", a_model(), weights | {"extra": torch.zeros(1)})
    fewer = a_model(labels=a_model().labels[:2], unseen=())
    with pytest.raises(BundleError, match=r"seg_outputs\.0\.weight is \(3,"):
        write_bundle(tmp_path / "other", fewer, weights)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_make_no_bundle(tmp_path, value):
    path = a_checkpoint(tmp_path / "x.pth")
    content = torch.load(path, weights_only=False)
    content["network_weights"]["seg_outputs.0.bias"][1] = value
    torch.save(content, path)
    with pytest.raises(BundleError, match=r"bundle: the layer seg_outputs\.0\.bias holds values that are not finite"):
        export_checkpoint(path, tmp_path / "bundle", "student")
    assert not (tmp_path / "bundle").exists()


class Harmful:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_that_would_run_code_is_refused_and_runs_nothing(tmp_path):
    target = tmp_path / "made"
    checkpoint = tmp_path / "checkpoint_final.pth"
    torch.save({"network_weights": some_weights(), "plans": Harmful(target)}, checkpoint)
    with pytest.raises(BundleError, match=r"refused, and nothing in it was run: it needs .*mkdir") as caught:
        read_checkpoint(checkpoint)
    assert "\n" not in str(caught.value)
    assert not target.exists()
    plain = tmp_path / "plain.model"
    plain.write_bytes(pickle.dumps({"state_dict": Harmful(target)}, protocol=2))
    with pytest.raises(BundleError, match=r"plain\.model"):
        read_checkpoint(plain)
    assert not target.exists()


def test_what_nnunet_writes_into_a_checkpoint_is_read(tmp_path):
    path = tmp_path / "checkpoint_final.pth"
    weights = some_weights()
    torch.save(
        {
            "network_weights": weights,
            "optimizer_state": {"state": {}, "param_groups": [{"lr": np.float64(0.01)}]},
            "grad_scaler_state": None,
            "logging": {
                "mean_fg_dice": [np.float64(0.5), np.float32(0.25)],
                "dice_per_class_or_region": [[np.float32(0.5), np.int64(2)]],
            },
            "_best_ema": np.float64(0.5),
            "current_epoch": 2000,
            "init_args": {"device": torch.device("cuda"), "fold": "all", "plans": {"spacing": np.ones(3)}},
            "inference_allowed_mirroring_axes": (0, 1, 2),
        },
        path,
    )
    checkpoint = read_checkpoint(path)
    assert checkpoint["logging"]["mean_fg_dice"] == [0.5, 0.25]
    assert checkpoint["init_args"]["plans"]["spacing"].tolist() == [1, 1, 1]
    assert checkpoint["inference_allowed_mirroring_axes"] == (0, 1, 2)
    write_bundle(tmp_path / "bundle", a_model(), checkpoint_weights(checkpoint, path))
    read = load_bundle(tmp_path / "bundle").state_dict
    assert all(torch.equal(read[name], weight) for name, weight in weights.items())


def test_numbers_pickled_by_numpy_1_are_read(tmp_path):
    path = tmp_path / "old.model"
    # In protocol 2 the module's name is plain text; the archive has to be repacked around the shorter one.
    buffer = pickle.dumps({"state_dict": {}, "best": np.float64(0.5)}, protocol=2)
    assert b"numpy._core.multiarray" in buffer
    _write_torch_archive(path, buffer.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert read_checkpoint(path)["best"] == 0.5


def _write_torch_archive(path, pickled):
    import zipfile

    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/version", "3\n")


def test_weights_are_found_in_checkpoints_of_nnunet_1_and_2():
    weight = torch.zeros(1)
    assert checkpoint_weights({"network_weights": {"a": weight}}, "x") == {"a": weight}
    assert checkpoint_weights({"state_dict": OrderedDict(a=weight)}, "x") == {"a": weight}
    assert list(checkpoint_weights({"network_weights": {"_orig_mod.module.a": weight}}, "x")) == ["a"]


@pytest.mark.parametrize("checkpoint", [{}, {"state_dict": 3}, {"network_weights": {"a": "b"}}])
def test_a_checkpoint_without_weights_is_refused(checkpoint):
    with pytest.raises(BundleError, match="some file"):
        checkpoint_weights(checkpoint, "some file")


def test_a_checkpoint_becomes_a_bundle(tmp_path, caplog):
    export_checkpoint(a_checkpoint(tmp_path / "x.pth"), tmp_path / "bundle", "student")
    model = load_bundle(tmp_path / "bundle").model
    assert (model.network, model.names, model.spacing) == (a_model().network, a_model().names, (3, 2, 2))
    assert caplog.records == []
    assert model.unseen == ()
    assert model.inference.precision == "auto"
    export_checkpoint(a_checkpoint(tmp_path / "y.pth", unseen=["tumor"]), tmp_path / "other", "student")
    assert load_bundle(tmp_path / "other").model.unseen == ("tumor",)


@pytest.mark.parametrize("stages", [5, 7])
def test_plans_of_official_stunets_are_cut_or_filled_up_to_the_six_stages_of_the_network(tmp_path, stages):
    strides = [[1, 1, 1], [2, 2, 2], [1, 2, 2], *[[1, 1, 2]] * (stages - 3)]
    path = a_checkpoint(tmp_path / "x.pth", pool_op_kernel_sizes=strides, patch_size=[8, 8, 32])
    content = torch.load(path, weights_only=False)
    network = STUNet(1, 3, [1] * 6, [4, 4, 4, 4, 4, 4])
    content |= {"network_weights": network.state_dict(), "trainer_name": "STUNetTrainer_base_ep4k"}
    torch.save(content, path)
    model = export_checkpoint(path, tmp_path / "bundle", "student")
    assert [list(stride) for stride in model.network.strides] == [*strides, [1, 1, 1]][:6]
    torch.save(content | {"trainer_name": "nnUNetTrainer"}, path)
    with pytest.raises(BundleError, match=f"strides has {stages} entries; 6 stages need as many"):
        export_checkpoint(path, tmp_path / "other", "student")


def without_plans(content):
    content["state_dict"] = content.pop("network_weights")
    del content["init_args"]


def with_regions(content):
    content["init_args"]["dataset_json"]["labels"] = {"background": 0, "kidney_and_tumor": [1, 2], "tumor": 2}


def with_two_channels(content):
    name = "conv_blocks_context.0.0.conv1.weight"
    content["network_weights"][name] = content["network_weights"][name].repeat(1, 2, 1, 1, 1)


def with_plans(**changes):
    return lambda content: content["init_args"]["plans"]["configurations"]["3d"].update(changes)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (with_plans(architecture=None), "its plans do not describe the network"),
        (with_plans(resampling_fn_data_kwargs=None), "its plans do not describe the network"),
        (with_plans(inherits_from="3d"), "its plans do not describe the network"),
        (lambda content: content["init_args"]["dataset_json"].update(labels=["liver"]),
         "its plans do not describe the network"),
        (lambda content: content.update(init_args=None), "its plans do not describe the network"),
        (without_plans, r"is a checkpoint without plans, as of nnU-Net 1; `models.NAME.pretrained` takes"),
        (with_regions, r"its labels are regions \(kidney_and_tumor\); bundles know one class per voxel"),
        (lambda content: content["init_args"].update(configuration="3d_cascade_fullres"),
         r"its plans have no configuration 3d_cascade_fullres, only base, 3d"),
        (with_two_channels, "the network takes 2 channels, bundles 1"),
    ],
)  # fmt: skip
def test_what_cannot_be_exported_is_refused_with_the_cause(tmp_path, change, words):
    path = a_checkpoint(tmp_path / "x.pth")
    content = torch.load(path, weights_only=False)
    change(content)
    torch.save(content, path)
    with pytest.raises(BundleError, match=words) as caught:
        export_checkpoint(path, tmp_path / "bundle", "student")
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_checkpoint_that_was_normalized_otherwise_is_refused(tmp_path):
    checkpoint = a_checkpoint(tmp_path / "x.pth", normalization_schemes=["ZScoreNormalization"])
    with pytest.raises(BundleError, match="normalize by ZScoreNormalization"):
        export_checkpoint(checkpoint, tmp_path / "bundle", "student")
    assert not (tmp_path / "bundle").exists()


def test_a_checkpoint_that_was_resampled_otherwise_is_exported_with_a_warning(tmp_path, caplog):
    default = {"resampling_fn_data": "resample_data_or_seg_to_shape", "resampling_fn_data_kwargs": {}}
    export_checkpoint(a_checkpoint(tmp_path / "x.pth", **default), tmp_path / "bundle", "student")
    assert len(caplog.records) == 1
    assert "resample data by resample_data_or_seg_to_shape" in caplog.text


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path):
    path = tmp_path / "x.pth"
    with pytest.raises(BundleError, match=r"x\.pth"):
        read_checkpoint(path)
    for content in (b"", b"no checkpoint at all", b"PK\x03\x04 cut"):
        path.write_bytes(content)
        with pytest.raises(BundleError, match=r"x\.pth") as caught:
            read_checkpoint(path)
        assert "\n" not in str(caught.value)
    torch.save([1, 2], path)
    with pytest.raises(BundleError, match="holds a list"):
        read_checkpoint(path)


def test_a_trained_model_is_described_as_its_settings_say():
    config = Config.load([RECIPE], {"models": {"student": {"inference": {"tile_step_size": 0.7}}}})
    settings, inference = config.training_settings("student"), config.inference_settings("student")
    for orientation in ("stored", "canonical"):
        chosen = changed(settings, orientation=orientation)
        made = describe("student", chosen, inference, config.label_map.labels, "0" * 64)
        assert made.orientation == nnunet_plans.plans(chosen)["orientation"] == orientation
    assert made.inference.step == 0.7
    assert (made.inference.tta, made.inference.windows) == (inference.tta, inference.windows)
    assert made.inference.precision == inference.precision
    assert made.spacing == settings.spacing
    assert made.mirror_axes == settings.training.mirror_axes
    assert [label.value for label in made.labels] == [0, *config.label_map.values]
