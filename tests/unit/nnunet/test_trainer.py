"""The trainer: what the protocol says is what it does, and an interrupted training ends as one that was not."""

import copy
import re

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from machines import needs_bfloat16
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from trainings import NAMES

from flare23_lib import versions
from flare23_lib.config.checks import forced_patches
from flare23_lib.nnunet import checkpoints, history, loop, trainer
from flare23_lib.nnunet.sampling import BalancedDataLoader
from flare23_lib.runtime import progress
from flare23_lib.runtime.signals import StoppedError


def spatial(one):
    """The spatial and the mirroring transforms of a trainer's augmentation."""
    transforms = [getattr(part, "transform", part) for part in one._transforms()[0].transforms]
    mirrors = [part for part in transforms if hasattr(part, "allowed_axes")]
    return next(part for part in transforms if isinstance(part, SpatialTransform)), mirrors


def test_mirroring_is_along_the_configured_axes(made):
    one = made(mirror_axes=[1])
    assert [list(part.allowed_axes) for part in spatial(one)[1]] == [[1]]
    assert one.inference_allowed_mirroring_axes == (1,)
    none = made(mirror_axes=[])
    assert spatial(none)[1] == []
    assert none.inference_allowed_mirroring_axes is None, "nnU-Net's predictor fails on ()"


@pytest.mark.parametrize(("elastic", "share"), [(False, 0), (True, 0.2)])
def test_patches_are_deformed_if_the_protocol_says_so(made, elastic, share):
    assert spatial(made(elastic_deformation=elastic))[0].p_elastic_deform == share


@pytest.mark.parametrize(("shape", "along", "most"), [((40, 64, 64), [0, 1, 2], 7), ((24, 80, 80), [1, 2], 9)])
def test_an_elastic_deformation_moves_voxels_smoothly_by_up_to_some(made, monkeypatch, shape, along, most):
    monkeypatch.setattr("flare23_lib.nnunet.augmentation.ELASTIC_PROBABILITY", 1)
    one = made(elastic_deformation=True)
    augmentation = one.get_training_transforms(
        np.array(shape), (0, 0), None, (), do_dummy_2d_data_aug=len(along) == 2, use_mask_for_norm=[False]
    )
    place = [type(part) for part in augmentation.transforms].index(SpatialTransform)
    deformation = augmentation.transforms[place]
    deformation.p_rotation = deformation.p_scaling = deformation.center_deformation = 0
    in_plane = place > 0  # between a conversion to two dimensions and one back to three
    deforming = augmentation.transforms[: place + 1 + in_plane]
    places = torch.stack(torch.meshgrid(*(torch.arange(float(size)) for size in shape), indexing="ij"))
    inner = (slice(None), *(slice(10, -10) if axis in along else slice(None) for axis in range(3)))
    np.random.seed(0)
    torch.manual_seed(0)
    moved = []
    for _ in range(20):
        made_of = {"image": places.clone()}
        for part in deforming:
            made_of = part(**made_of)
        moved.append(made_of["image"][inner] - places[inner])
    largest = torch.stack([one.abs().amax(dim=(1, 2, 3)) for one in moved])
    still = [axis for axis in range(3) if axis not in along]
    assert (largest[:, still] < 1e-4).all()
    assert most - 2 < largest[:, along].max() <= most + 0.01
    assert most / 4 < largest[:, along].mean() < 3 * most / 4
    assert max(one.diff(dim=axis).abs().max() for one in moved for axis in (1, 2, 3)) < 1.5, (
        "neighbors stay neighbors"
    )


@pytest.mark.parametrize(("sampling", "kind"), [("class_balanced", BalancedDataLoader), ("nnunet", nnUNetDataLoader)])
@pytest.mark.parametrize(("share", "forced"), [(0, 0), (0.25, 0), (0.33, 1), (0.7, 1), (0.75, 2), (1, 2)])
def test_sampling_and_oversampling_are_the_configured_ones(made, monkeypatch, sampling, kind, share, forced):
    loader = made(sampling=sampling, oversample_foreground=share).get_dataloaders()[0].data_loader
    assert type(loader) is kind
    asked, get_bbox = [], nnUNetDataLoader.get_bbox

    def note(self, data_shape, force_fg, *args, **kwargs):
        asked.append(force_fg)
        return get_bbox(self, data_shape, force_fg, *args, **kwargs)

    monkeypatch.setattr(nnUNetDataLoader, "get_bbox", note)
    for _ in range(4):
        loader.generate_train_batch()
    assert (len(asked), sum(asked)) == (8, 4 * forced)
    assert forced_patches(2, share) == forced


def test_the_optimizer_is_the_configured_one(made):
    group = made(optimizer="sgd", learning_rate=0.02, weight_decay=0.001, momentum=0.8).optimizer.param_groups[0]
    assert (group["lr"], group["weight_decay"], group["momentum"], group["nesterov"]) == (0.02, 0.001, 0.8, True)
    adam = made(optimizer="adamw", learning_rate=0.03, weight_decay=0.004).optimizer
    assert (adam.param_groups[0]["lr"], adam.param_groups[0]["weight_decay"]) == (0.03, 0.004)
    assert isinstance(adam, torch.optim.AdamW)


@pytest.mark.parametrize(
    ("precision", "kind"),
    [pytest.param("bfloat16", torch.bfloat16, marks=needs_bfloat16), ("float32", torch.float32)],
)
def test_the_network_computes_in_the_configured_precision(made, precision, kind):
    one = made(precision=precision)
    with one.autocast():
        assert one.network(torch.zeros(1, 1, 8, 16, 16))[0].dtype == kind


@pytest.mark.parametrize(("precision", "tf32"), [("float32", False), ("mixed", True), ("bfloat16", True)])
def test_float32_does_not_become_tf32_on_a_gpu(precision, tf32):
    with torch.backends.cudnn.flags(enabled=True):
        trainer.set_up_cudnn(precision)
        assert torch.backends.cudnn.allow_tf32 is tf32
        assert torch.backends.cudnn.benchmark


@needs_bfloat16
def test_patches_are_looked_at_in_the_configured_precision(made):
    one = made(precision="bfloat16")
    kinds, loss = [], one._loss
    one._loss = lambda output, target: (kinds.append(output[0].dtype), loss(output, target))[1]
    one.validation_step(next(one.get_dataloaders()[1]))
    one.train_step(next(one.get_dataloaders()[0]))
    assert kinds == [torch.bfloat16, torch.bfloat16]


def test_a_step_clips_the_gradient_at_nnunets_norm(made):
    one = made()
    one.loss = lambda output, target: 1e6 * output[0].square().mean()
    one.train_step(next(one.get_dataloaders()[0]))
    gradients = [parameter.grad for parameter in one.network.parameters() if parameter.grad is not None]
    norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
    assert float(norm) == pytest.approx(12, rel=1e-3)


def test_steps_are_those_of_nnunets_trainer(made):
    one = made(precision="float32", optimizer="sgd", learning_rate=0.01, momentum=0.99, weight_decay=3e-5)
    plans = copy.deepcopy(one.plans_manager.plans) | {"continue_training": False}
    stock = nnUNetTrainer(plans, one.configuration_name, "all", one.dataset_json, torch.device("cpu"))
    stock.initialize()
    before = copy.deepcopy(one.network.state_dict())
    stock.network.load_state_dict(before)
    batch = next(one.get_dataloaders()[0])
    for _ in range(3):
        assert float(one.train_step(batch)) == pytest.approx(float(stock.train_step(batch)["loss"]), abs=1e-6)
    ours, theirs = one.network.state_dict(), stock.network.state_dict()
    assert max((ours[name] - before[name]).abs().max() for name in ours) > 0.01
    assert max((ours[name] - theirs[name]).abs().max() for name in ours) < 1e-6


def test_the_dice_of_the_loss_is_taken_over_the_batch(made):
    assert made().configuration_manager.batch_dice is True


def test_every_forced_patch_holds_its_target_and_each_class_is_one_as_often(made):
    one = made(oversample_foreground=1)
    loader = one.get_dataloaders()[0].data_loader
    rare = 0
    for _ in range(9):  # 18 patches; rounds have three classes, and the first has begun
        cases = loader.get_indices()
        targets = list(loader._targets)
        assert all("case0" in case for case, target in zip(cases, targets, strict=True) if target == 3)
        rare += targets.count(3)
        loader._targets = list(targets)
        for case, target in zip(cases, targets, strict=True):
            data, labels, _, properties = loader._data.load_case(case)
            low, high = loader.get_bbox(data.shape[1:], False, properties["class_locations"])
            box = tuple(slice(max(0, a), b) for a, b in zip(low, high, strict=True))
            assert (np.asarray(labels[(0, *box)]) == target).any()
    assert 5 <= rare <= 7


def test_processes_share_the_batch_and_draw_other_numbers(made, monkeypatch):
    drawn, sizes = [], []
    for rank in range(2):
        one = made(batch_size=3)
        one.is_ddp, one.local_rank = True, rank
        one.was_initialized = False
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
        monkeypatch.setattr(trainer, "DistributedDataParallel", lambda network, device_ids: network)
        one.initialize()
        sizes.append(one.batch_size)
        drawn.append(float(np.random.random()))
    assert sorted(sizes) == [1, 2]
    assert drawn[0] != drawn[1]


def stop_after(one, iterations):
    """Let a trainer be asked to stop after some iterations."""
    step, taken = one.train_step, []

    def counted(batch):
        taken.append(1)
        return step(batch)

    one.train_step = counted
    one._must_stop = lambda signals: 15 if len(taken) >= iterations else None
    with pytest.raises(StoppedError):
        one.run_training()


@pytest.mark.parametrize("iterations", [1, 2, 5, 6, 7])
def test_an_interrupted_training_ends_with_the_weights_of_one_that_was_not(made, tmp_path, iterations):
    protocol = {"epochs": 2, "iterations_per_epoch": 4, "optimizer": "sgd", "momentum": 0.9, "sampling": "nnunet"}
    whole = made(**protocol)
    whole.run_training()
    expected = copy.deepcopy(whole.bare_network.state_dict())
    for path in tmp_path.rglob("*.pth"):
        path.unlink()
    stop_after(made(**protocol), iterations)
    again = made(**protocol)
    assert again.resume()
    assert len(again.epoch.losses) == iterations % 4
    again.run_training()
    state = again.bare_network.state_dict()
    assert all(torch.equal(state[name], expected[name]) for name in expected)


def test_a_few_iterations_give_the_losses_that_this_version_gives(made, monkeypatch):
    """A golden result, as those of test_versions.py; processors round differently, and a few steps magnify it."""
    monkeypatch.setattr("flare23_lib.nnunet.augmentation.ELASTIC_PROBABILITY", 1)
    protocol = {"optimizer": "sgd", "momentum": 0.9, "elastic_deformation": True, "precision": "float32"}
    one = made(epochs=1, iterations_per_epoch=6, **protocol)
    losses, note = [], one._note_loss
    one._note_loss = lambda loss: (note(loss), losses.append(float(loss)) if loss is not None else None)
    one.run_training()
    assert versions.TRAINING == 2
    assert losses == pytest.approx(GOLDEN_LOSSES, abs=0.01)


GOLDEN_LOSSES = [2.3758, 1.5908, 1.1054, 0.9557, 0.8963, 0.81]


def test_a_checkpoint_restores_optimizer_and_random_numbers(made):
    protocol = {"epochs": 2, "iterations_per_epoch": 4, "optimizer": "sgd", "momentum": 0.9}
    first = made(**protocol)
    stop_after(first, 2)
    random = checkpoints.random_state(first.device)
    again = made(**protocol)
    assert again.resume()
    momenta = [
        [state["momentum_buffer"] for state in one.optimizer.state_dict()["state"].values()] for one in (first, again)
    ]
    assert len(momenta[0]) > 0
    assert all(torch.equal(*pair) for pair in zip(*momenta, strict=True))
    again.on_train_start()
    assert np.array_equal(checkpoints.random_state(again.device)["numpy"][1], random["numpy"][1])


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_training_of_another_device_resumes_with_this_ones_optimizer(made, optimizer):
    first = made(epochs=2, iterations_per_epoch=4, optimizer=optimizer)
    stop_after(first, 2)
    again = made(epochs=2, iterations_per_epoch=4, optimizer=optimizer)
    again.optimizer = type(again.optimizer)(again.network.parameters(), 0.1, fused=True)  # as on a GPU
    assert again.resume()
    assert all(group["fused"] for group in again.optimizer.param_groups)
    again.optimizer.grad_scale, again.optimizer.found_inf = None, torch.tensor(0.0)  # as GradScaler sets them
    for parameter, state in again.optimizer.state.items():
        if None not in state.values():  # the head of a scale that is not learned from has no momentum
            parameter.grad = torch.ones_like(parameter)
    again.optimizer.step()


def test_a_network_is_compiled_on_a_gpu_with_a_compiler_alone(made, monkeypatch, caplog, tmp_path):
    one = made()
    assert not one._do_i_compile()
    one.device = torch.device("cuda")
    monkeypatch.delenv("nnUNet_compile", raising=False)
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    monkeypatch.setattr("shutil.which", lambda name: name == "gcc" or None)
    one.was_initialized = False
    assert not one._do_i_compile()
    assert "Python.h" in caplog.text
    (tmp_path / "Python.h").touch()
    assert one._do_i_compile()
    monkeypatch.setenv("CC", "missing -O2")
    assert not one._do_i_compile()


def test_a_checkpoint_is_written_in_time_while_patches_are_looked_at_too(made, monkeypatch):
    one = made(epochs=2, iterations_per_epoch=1, validation_iterations=5)
    saved, save, look = [], one._save, one.validation_step
    monkeypatch.setattr(one, "_save", lambda: (saved.append(len(looked)), save()))
    looked = []
    monkeypatch.setattr(one, "validation_step", lambda batch: (looked.append(1), look(batch))[1])
    one.checkpoint_seconds = 0
    one.run_training()
    assert set(range(1, 11)) <= set(saved)


def test_within_an_epoch_lines_tell_how_far_it_is_and_what_is_left_of_the_training(made, monkeypatch, caplog):
    monkeypatch.setattr(progress, "LOG_SECONDS", 0)
    one = made(epochs=2, iterations_per_epoch=3, validation_iterations=2)
    one.on_epoch_written = lambda row: None
    with caplog.at_level("INFO"):
        one.run_training()
    lines = [re.sub(r"loss \d+\.\d+", "loss x", line) for line in caplog.messages if line.startswith("epoch")]
    assert [re.sub(r"about [^,;]+ left", "about n left", line) for line in lines] == [
        line
        for epoch in (1, 2)
        for line in (
            f"epoch {epoch} of 2: 1 of 3 iterations, about n left; about n left in all",
            f"epoch {epoch} of 2: 2 of 3 iterations, about n left; loss x, about n left in all",
            f"epoch {epoch} of 2, validation: 1 of 2 iterations, about n left",
        )
    ]


def test_the_time_left_follows_from_the_last_epochs_and_in_the_first_one_from_its_iterations(made):
    one = made(epochs=10, iterations_per_epoch=8, validation_iterations=2)
    one.epoch.losses, one.epoch.seconds = [0.5, 0.3], 30.0  # and a third iteration whose loss is not read yet
    assert one._epoch_seconds() == 100
    assert one._state() == "loss 0.4000, about 16 min left in all"
    one.history = [{"seconds": 500.0}] + [{"seconds": 60.0}] * loop.RECENT_EPOCHS
    one.current_epoch = 7
    assert one._state() == "loss 0.4000, about 2 min left in all"


def test_an_epochs_losses_are_means_of_those_that_are_finite(made, caplog):
    nan = float("nan")
    row = history.row(1, 0.01, history.Epoch([0.5, nan, 0.3], 3.0), [nan, float("inf")], [0.5, nan])
    assert (row["train_loss"], row["validation_loss"], row["pseudo_dice"]) == (0.4, None, 0.5)
    caplog.set_level("INFO")
    made().on_epoch_written(row | {"classes": [0.5] * len(NAMES)})
    assert "loss 0.4, validation loss None, 3.0 s" in caplog.text


def test_no_checkpoint_is_written_while_the_loss_is_nan(made, tmp_path):
    one = made()
    one._nan_in_a_row = 1
    one._save()
    assert not list(tmp_path.rglob("*.pth"))
    one._nan_in_a_row = 0
    one._save()
    assert list(tmp_path.rglob("*.pth"))
