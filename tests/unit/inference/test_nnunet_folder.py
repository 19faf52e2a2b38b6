"""A training's folder is a model folder of nnU-Net: its own predictor can be made from it."""

import json

import numpy as np
import processes
import pytest
import torch
from nnunetv2.inference import predict_from_raw_data
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.find_class_by_name import recursive_find_python_class
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from places import RECIPE, REPOSITORY
from trainings import MODEL, NAMES, command, prepare

from flare23_lib.cli import main
from flare23_lib.config import Config
from flare23_lib.config.training_models import InferenceSettings
from flare23_lib.errors import BundleError, StoreError
from flare23_lib.inference.bundle import load_bundle
from flare23_lib.io.atomic import read_json
from flare23_lib.io.tables import write_csv
from flare23_lib.labels import Label
from flare23_lib.networks.stunet import STUNet
from flare23_lib.nnunet.train import export
from flare23_lib.nnunet.trainer import FlareTrainer

PATCH = (8, 16, 16)
LABELS_OF_MODEL = [Label(name, value) for value, name in enumerate(NAMES, 1)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    results = prepare(tmp_path_factory.mktemp("folder"))
    done = processes.run(command(results, epochs=1))
    assert done.returncode == 0, done.stderr
    inference = InferenceSettings(windows="all", precision="float32")

    export(results, MODEL, inference, LABELS_OF_MODEL, results.bundle(MODEL))
    return results, results.training(MODEL).with_name("nnunet")


def export_again(results, output):
    export(results, MODEL, InferenceSettings(windows="all", precision="float32"), LABELS_OF_MODEL, output)


def test_weights_with_a_flipped_bit_make_no_bundle(trained, tmp_path):
    results, _ = trained
    weights = results.file(read_json(results.training(MODEL))["weights"])
    whole = weights.read_bytes()
    try:
        for place in (3, 100, len(whole) // 2, len(whole) - 20):
            weights.write_bytes(whole[:place] + bytes([whole[place] ^ 2]) + whole[place + 1 :])
            with pytest.raises((StoreError, BundleError), match=weights.name):
                export_again(results, tmp_path / "bundle")
            assert not (tmp_path / "bundle").exists()
    finally:
        weights.write_bytes(whole)


def test_a_folder_where_the_link_belongs_is_reported_and_the_bundle_is_written(trained, tmp_path, caplog):
    results, link = trained
    target = link.readlink()
    link.unlink()
    link.mkdir()
    try:
        export_again(results, tmp_path / "bundle")
        assert "is a folder where a link belongs: were the results copied with links followed?" in caplog.text
        load_bundle(tmp_path / "bundle")
    finally:
        link.rmdir()
        link.symlink_to(target)


def external_trainer(name):
    """Look a trainer up as nnU-Net does in nnUNet_extTrainer; its own trainers first would import torchvision."""
    folder = str(REPOSITORY / "flare23_lib" / "nnunet")
    return recursive_find_python_class(folder, name, None, base_folder=folder, cleanup_imports_from_base_folder=True)


def predictor():
    return nnUNetPredictor(use_gaussian=False, use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)


def assert_predicts_as_the_bundle(made, bundle):
    patch = torch.from_numpy(np.random.default_rng(0).normal(size=(1, *PATCH)).astype(np.float32))
    logits = made.predict_logits_from_preprocessed_data(patch)
    with torch.no_grad():
        expected = load_bundle(bundle).build_network()(patch[None])[0]
    assert logits.shape == (len(NAMES) + 1, *PATCH)
    assert torch.allclose(logits.float(), expected, atol=0.02, rtol=0.01)  # nnU-Net keeps sums in float16


def test_nnunets_predictor_initializes_from_the_folder_by_the_trainers_name(trained, monkeypatch):
    results, folder = trained
    monkeypatch.setattr(predict_from_raw_data, "recursive_find_trainer_class_by_name", external_trainer)
    made = predictor()
    made.initialize_from_trained_model_folder(str(folder), ("all",))
    assert made.trainer_name == "FlareTrainer"
    assert made.allowed_mirroring_axes == (0, 1, 2)
    assert_predicts_as_the_bundle(made, results.bundle(MODEL))


def test_nnunets_predictor_initializes_from_what_the_folders_files_say(trained):
    results, folder = trained
    plans, dataset = (read_json(folder / name) for name in ("plans.json", "dataset.json"))
    checkpoint = torch.load(folder / "fold_all" / "checkpoint_final.pth", weights_only=False)
    manager = PlansManager(plans)
    configuration = manager.get_configuration(checkpoint["init_args"]["configuration"])
    network = FlareTrainer.build_network_architecture(
        manager, configuration, 1, len(NAMES) + 1, enable_deep_supervision=False
    )
    assert isinstance(network, STUNet)
    network.load_state_dict(checkpoint["network_weights"])
    made = predictor()
    made.manual_initialization(
        network, manager, configuration, [checkpoint["network_weights"]], dataset, checkpoint["trainer_name"], None
    )
    assert_predicts_as_the_bundle(made, results.bundle(MODEL))


def test_the_folder_says_what_nnunet_needs_to_prepare_a_case(trained):
    _, folder = trained
    plans = read_json(folder / "plans.json")
    manager = PlansManager(plans)
    assert manager.image_reader_writer_class.__name__ == "SimpleITKIO"
    assert manager.get_label_manager(read_json(folder / "dataset.json")).foreground_labels == [1, 2, 3, 4]
    assert manager.foreground_intensity_properties_per_channel["0"]["percentile_99_5"] == 279
    configuration = manager.get_configuration("3d_fullres")
    image = np.zeros((1, 6, 8, 8), np.float32)
    assert configuration.resampling_fn_data(image, [3, 4, 4], [3, 2, 2], [6, 4, 4]).shape == (1, 3, 4, 4)


def test_options_that_the_folder_would_not_have_are_refused(tmp_path, capsys):
    command = ["export", "--to", "nnunet", "--model", "lost", "--output", str(tmp_path / "nnunet")]
    options = ["--step", "0.8", "--windows", "all", "--tta", "--name", "mine", "--orientation", "stored"]
    assert main([*command, *options]) == 2
    assert "--to nnunet takes no --name, --orientation, --step, --windows, --tta;" in capsys.readouterr().err
    command = ["export", "--checkpoint", "lost.pth", "--model", "mine", "--output", str(tmp_path / "bundle")]
    assert main(command) == 2
    assert "--model belongs to --to nnunet; the model's name is --name" in capsys.readouterr().err


def test_a_bundle_becomes_a_folder_that_nnunets_own_trainer_opens(trained, tmp_path, monkeypatch):
    results, _ = trained
    output = tmp_path / "nnunet"
    assert main(["export", "--to", "nnunet", "--model", str(results.bundle(MODEL)), "--output", str(output)]) == 0
    trainers = {"nnUNetTrainer": nnUNetTrainer}
    monkeypatch.setattr(predict_from_raw_data, "recursive_find_trainer_class_by_name", trainers.get)
    made = predictor()
    made.initialize_from_trained_model_folder(str(output), ("all",))
    assert made.trainer_name == "nnUNetTrainer"
    assert made.allowed_mirroring_axes == (0, 1, 2)
    assert_predicts_as_the_bundle(made, results.bundle(MODEL))
    checkpoint = output / "fold_all" / "checkpoint_final.pth"
    assert main(["export", "--to", "nnunet", "--model", str(results.bundle(MODEL)), "--output", str(output)]) == 1
    back = ["export", "--checkpoint", str(checkpoint), "--output", str(tmp_path / "back"), "--name", MODEL]
    assert main(back) == 0
    model, again = (load_bundle(folder).model for folder in (results.bundle(MODEL), tmp_path / "back"))
    for field in ("network", "patch_size", "spacing", "intensity", "orientation", "values", "unseen", "weights"):
        assert getattr(again, field) == getattr(model, field), field


def test_a_model_card_says_what_is_known(trained, tmp_path):
    results, _ = trained
    about = Config.load([RECIPE], {"model_card": {"license": "CC-BY-4.0"}}).model_card
    write_csv(results.summary(MODEL), ["class", "cases", "DSC_mean"], [{"class": "one", "cases": 3, "DSC_mean": 0.5}])

    def write(evaluated):
        settings = json.dumps({"about": about.to_json(), "evaluated": evaluated})
        options = {"results": results.root, "model": MODEL, "settings": settings, "output": tmp_path / "README.md"}
        assert main(["stage", "model-card", *(f"--{name}={value}" for name, value in options.items())]) == 0

    write([])
    text = (tmp_path / "README.md").read_text()
    assert "| license | CC-BY-4.0 |" in text
    assert "This is not a medical device." in text
    assert "| 4 | absent | organ | never seen in training |" in text
    assert "The model was not evaluated." in text  # those are scores of an earlier run
    write([MODEL])
    assert "| one | 3 | 0.5 |" in (tmp_path / "README.md").read_text()
