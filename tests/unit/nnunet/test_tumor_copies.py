"""Tumors that are copied into patches of cases without any."""

from pathlib import Path

import numpy as np
import pytest
import torch
from places import RECIPE
from scipy import ndimage
from trainings import MODEL, settings, trainer_of

from flare23_lib.cache.results import Results, read_shards
from flare23_lib.config import Config
from flare23_lib.config.training_models import TumorCopies
from flare23_lib.errors import ConfigError, TrainingError
from flare23_lib.nnunet.training_job import TrainingJob
from flare23_lib.nnunet.tumor_copies import BORDER, MARGIN, Copied, CopyTumors, NamedCases, Tumor, opacity, paste

TUMOR, HOST, OTHER = 3, 1, 2
SHAPE = (14, 20, 22)


class InMemory:
    """Cases without files, as nnU-Net's dataset loads them."""

    def __init__(self, cases):
        self.cases = cases
        self.identifiers = sorted(cases)
        self.loaded = ""

    def load_case(self, case):
        self.loaded = case
        return *(array[None] for array in self.cases[case]), None, {}


def a_case(*boxes, seed=0):
    """An image of noise, an organ in its middle, another below, and tumors in boxes, 10 brighter."""
    labels = np.zeros(SHAPE, np.int8)
    labels[2:12, 3:17, 3:19] = HOST
    labels[12:] = OTHER
    for box in boxes:
        labels[box] = TUMOR
    noise = np.random.default_rng(seed).normal(0, 0.1, SHAPE)
    return (noise + 10 * (labels == TUMOR)).astype(np.float32), labels


BOX = np.s_[5:8, 6:10, 7:12]
EDGE = np.s_[0:2, 0:3, 19:22]


def copier(*boxes, probability=1.0, size=(0.5, 1.0), recipients=("without",)):
    made = object.__new__(CopyTumors)
    made.options = TumorCopies(label="3", probability=probability, size=size)
    made.copied = Copied(TUMOR, [HOST], ["with"], frozenset(recipients))
    made.dataset = InMemory({"with": a_case(*boxes or (BOX,)), "without": a_case(seed=1), "unknown": a_case(seed=2)})
    made.patch_size = (8, 12, 12)
    made._donors = InMemory({"with": made.dataset.cases["with"]})
    made._boxes = {}
    return made


def patch_of(made, case):
    """A case's patch after the transform, and as it was."""
    image, labels = made.dataset.load_case(case)[:2]
    before = {"image": torch.from_numpy(image).clone(), "segmentation": torch.from_numpy(labels.astype(np.int16))}
    after = made(image=before["image"].clone(), segmentation=before["segmentation"].clone())
    return [tuple(one[name][0].numpy() for name in ("image", "segmentation")) for one in (after, before)]


def test_opacity_falls_with_the_distance_to_the_surface_and_is_over_a_half_in_the_mask_alone():
    mask = np.zeros((9, 9, 15), bool)
    mask[2:7, 2:7, 4:11] = True
    alpha = opacity(mask)
    assert ((alpha > 0.5) == mask).all()
    line = alpha[4, 4]
    assert (np.diff(line[:8]) >= 0).all()
    assert (np.diff(line[7:]) <= 0).all()
    assert len(set(line[(line > 0) & (line < 1)])) == BORDER - 1
    assert (line.max(), line.min()) == (1, 0)
    assert np.allclose(np.diff(line[2:6]), [1 / 3, 1 / 3, 1 / 3])


@pytest.mark.parametrize("seed", range(8))
def test_image_and_labels_change_in_the_copy_and_its_border_alone(seed):
    np.random.seed(seed)
    (image, labels), (image_before, labels_before) = patch_of(copier(), "without")
    mask = labels == TUMOR
    assert mask.any()
    assert (labels[~mask] == labels_before[~mask]).all()
    changed = image != image_before
    assert changed[mask].all()
    assert ndimage.distance_transform_edt(~mask)[changed].max() < 0.5 + BORDER / 2
    assert image[mask].max() > 5


@pytest.mark.parametrize("case", ["with", "unknown"])
def test_no_copy_gets_into_a_case_that_has_tumors_or_in_which_they_were_not_annotated(case):
    made = copier()
    for seed in range(5):
        np.random.seed(seed)
        after, before = patch_of(made, case)
        for one, other in zip(after, before, strict=True):
            np.testing.assert_array_equal(one, other)


def test_copies_are_as_often_as_configured():
    made, count = copier(probability=0.3), 0
    np.random.seed(0)
    for _ in range(200):
        (_, labels), _ = patch_of(made, "without")
        count += TUMOR in labels
    assert 40 < count < 80


def test_the_same_seed_gives_the_same_copy_and_another_one_another():
    def drawn(seed):
        np.random.seed(seed)
        return patch_of(copier(BOX, EDGE), "without")[0]

    for one, other in zip(drawn(3), drawn(3), strict=True):
        np.testing.assert_array_equal(one, other)
    assert (drawn(3)[1] != drawn(4)[1]).any()


def test_a_copy_follows_from_the_random_state_alone_as_after_a_checkpoint():
    continued = copier(BOX, EDGE)
    np.random.seed(3)
    patch_of(continued, "without")
    state = np.random.get_state()
    expected = patch_of(continued, "without")[0]
    np.random.set_state(state)
    for one, other in zip(patch_of(copier(BOX, EDGE), "without")[0], expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_each_component_is_found_and_read_alone_with_its_margin():
    near = np.s_[5:8, 6:10, 13:14]  # within the margin of the first one
    made = copier(BOX, near)
    boxes = made.boxes("with")
    assert [tuple(map(lambda part: (part.start, part.stop), box)) for box in boxes] == [
        ((5, 8), (6, 10), (7, 12)), ((5, 8), (6, 10), (13, 14))
    ]  # fmt: skip
    tumor = made.read("with", boxes[0], 1.0)
    assert tumor.mask.shape == (3 + 2 * MARGIN, 4 + 2 * MARGIN, 5 + 2 * MARGIN)
    assert (tumor.mask.sum(), tumor.host) == (60, HOST)
    np.testing.assert_array_equal(tumor.image, made.dataset.cases["with"][0][2:11, 3:13, 4:15])


def test_a_tumor_at_the_edge_of_its_volume_has_a_margin_that_repeats_the_edge():
    made = copier(EDGE)
    tumor = made.read("with", made.boxes("with")[0], 1.0)
    assert tumor.mask.shape == (2 + 2 * MARGIN, 3 + 2 * MARGIN, 3 + 2 * MARGIN)
    assert tumor.mask[MARGIN:-MARGIN, MARGIN:-MARGIN, MARGIN:-MARGIN].all()
    assert tumor.mask.sum() == 2 * 3 * 3
    np.testing.assert_array_equal(tumor.image[0], tumor.image[MARGIN])


@pytest.mark.parametrize("size", [0.5, 0.75, 1.0])
def test_a_copy_is_a_share_of_its_originals_size(size):
    made = copier(np.s_[3:11, 4:16, 5:17])
    tumor = made.read("with", made.boxes("with")[0], size)
    extents = [np.ptp(places) + 1 for places in np.nonzero(tumor.mask)]
    np.testing.assert_allclose(extents, [8 * size, 12 * size, 12 * size], atol=1)
    assert all(place.min() >= 2 for place in np.nonzero(tumor.mask)), "room for the border"


def test_a_tumor_that_nothing_is_left_of_is_not_copied():
    np.random.seed(0)
    after, before = patch_of(copier(np.s_[6:7, 8:9, 9:10], size=(0.3, 0.3)), "without")
    np.testing.assert_array_equal(after[0], before[0])


def test_something_is_left_of_a_small_tumor():
    np.random.seed(0)
    made = copier(np.s_[6:7, 8:9, 9:10], size=(0.5, 1.0))
    assert all(made._draw().mask.any() for _ in range(50))


def test_copies_lie_in_their_hosts_in_the_center_of_the_patch_else_in_unlabeled_tissue_of_their_surroundings():
    made = copier()
    image, labels = made.dataset.cases["without"]
    tumor = made.read("with", made.boxes("with")[0], 1.0)
    inner = (slice(3, 11), slice(4, 16), slice(5, 17))
    marked = np.zeros(SHAPE, bool)
    marked[inner] = labels[inner] == HOST
    np.testing.assert_array_equal(made._seats(image, labels, tumor), np.argwhere(marked))
    np.testing.assert_array_equal(
        made._seats(image, labels, Tumor(tumor.image, tumor.mask, host=OTHER)), np.argwhere(marked)
    )
    nothing, dark = np.zeros_like(labels), image - 50
    dark[6:9, 8:10, 8:10] = np.median(tumor.image[~tumor.mask])
    seats = made._seats(dark, nothing, tumor)
    np.testing.assert_array_equal(seats, np.argwhere(dark > -10))
    assert not len(made._seats(image - 50, nothing, tumor))
    assert not len(made._seats(dark, nothing - 1, tumor)), "padding is no tissue"


@pytest.mark.parametrize("seat", [(0, 0, 0), (5, 9, 10), (13, 19, 21)])
def test_what_lies_beyond_the_patch_or_in_its_padding_is_left_out(seat):
    image, labels = np.zeros(SHAPE, np.float32), np.zeros(SHAPE, np.int16)
    labels[:, :, :3] = -1
    made = copier()
    paste(image, labels, made.read("with", made.boxes("with")[0], 1.0), seat, TUMOR)
    assert (labels[:, :, :3] == -1).all()
    assert not image[:, :, :3].any()
    assert (labels == TUMOR).any() or seat == (0, 0, 0)


# ------------------------------------------------------------------ in a training

RARE = {"copy_tumors": {"label": "rare", "probability": 1.0, "size": [1.0, 1.0]}}
BY_VALUE = {"copy_tumors": {**RARE["copy_tumors"], "label": "3"}}


PREPARED_FOR = RARE


def make(results, folder, annotated="1 2 3", **training):
    """Make a trainer of the prepared cases, in all of which the same was annotated."""
    rows = [row | {"annotated": annotated} for row in read_shards(results, "preprocessed", MODEL, 1)]
    return trainer_of(results, folder, settings(**training), rows)


@pytest.mark.parametrize("loss", ["nnunet", "label_sets"])
@pytest.mark.parametrize("sampling", ["nnunet", "class_balanced"])
def test_a_training_has_copies_in_its_patches_and_none_in_those_that_are_looked_at(
    prepared, tmp_path, loss, sampling
):
    trainer = make(
        prepared, tmp_path, loss=loss, sampling=sampling, oversample_foreground=0, batch_size=4, **BY_VALUE
    )
    trainer.on_train_start()
    copies = 0
    for _ in range(6):
        for loader in (trainer.dataloader_train, trainer.dataloader_val):
            batch = next(loader)
            for key, labels in zip(batch["keys"], batch["target"][0], strict=True):
                if key != "case0":
                    copies += bool((labels == 3).any())
                    assert loader is trainer.dataloader_train or not (labels == 3).any()
    assert copies > 3
    assert torch.isfinite(trainer.train_step(next(trainer.dataloader_train)))
    assert trainer.used()["augmentation"][0] == "CopyTumors"


def test_the_patches_of_a_seed_are_the_same(prepared, tmp_path):
    def batches(folder):
        trainer = make(prepared, folder, **BY_VALUE)
        trainer.on_train_start()
        return [next(trainer.dataloader_train) for _ in range(3)]

    for one, other in zip(batches(tmp_path / "1"), batches(tmp_path / "2"), strict=True):
        assert one["keys"] == other["keys"]
        assert torch.equal(one["data"], other["data"])
        assert torch.equal(one["target"][0], other["target"][0])


def test_the_case_of_a_patch_is_known(prepared, tmp_path):
    trainer = make(prepared, tmp_path, **BY_VALUE)
    cases = NamedCases(trainer.preprocessed_dataset_folder, ["case0", "case1"])
    assert [cases.load_case(case) and cases.loaded for case in ("case1", "case0")] == ["case1", "case0"]


@pytest.mark.parametrize(
    ("annotated", "label", "message"),
    [("1 2", "3", "no case is known to be without rare"), ("1 2 3 4", "4", "no case has absent")],
)
def test_a_training_without_anything_to_copy_or_any_place_for_it_is_refused(
    prepared, tmp_path, annotated, label, message
):
    trainer = make(prepared, tmp_path, annotated, copy_tumors={"label": label})
    with pytest.raises(TrainingError, match=message):
        trainer.on_train_start()


# ------------------------------------------------------------------ in the configuration


def config(loss="nnunet", **training):
    return Config.load(
        [RECIPE],
        {"models": {"organ_teacher": {"training": {"loss": loss, "copy_tumors": {"label": "tumor"}, **training}}}},
    )


def test_a_copied_label_is_part_of_the_training_by_its_value_and_of_nothing_preprocessed():
    chosen, plain = config(), Config.load([RECIPE])
    mine, others = (one.training_settings("organ_teacher") for one in (chosen, plain))
    assert mine.training.to_json()["copy_tumors"] == {"label": "14", "probability": 0.3, "size": [0.5, 1.0]}
    assert "14" in mine.hidden_in
    assert "copy_tumors" not in others.training.to_json()
    assert chosen.training_settings("student") == plain.training_settings("student")
    one, other = (made.preprocessing_settings("organ_teacher") for made in (chosen, plain))
    assert one.label_sets == config("label_sets").preprocessing_settings("organ_teacher").label_sets is not None
    assert one.model_copy(update={"label_sets": None}) == other


def test_what_was_annotated_is_part_of_a_training_with_copies():
    row = {"case": "a", "image": "i.b2nd", "label": "l.b2nd", "annotated": "1"}

    def folder(config, annotated):
        rows = [row | {"annotated": annotated}]
        return TrainingJob(
            Results(Path("r")), "x", config.training_settings("organ_teacher"), [], rows
        ).folder.fingerprint

    assert folder(config(), "1") != folder(config(), "1 14")
    assert folder(Config.load([RECIPE]), "1") == folder(Config.load([RECIPE]), "1 14")


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"copy_tumors": {"label": "lesion"}}, r"organ_teacher\.training\.copy_tumors\.label: there is no label"),
        ({"copy_tumors": {"label": "tumor", "size": [1, 0.5]}}, r"copy_tumors\.size: the smallest, 1, is above 0\.5"),
        ({"copy_tumors": {"label": "tumor", "size": [0.5, 2]}}, r"copy_tumors\.size"),
        ({"copy_tumors": {"label": "tumor", "probability": 0}}, r"copy_tumors\.probability"),
        ({"targets": "area"}, r"copy_tumors: cannot be combined with targets area"),
        ({"targets": "native"}, r"copy_tumors: cannot be combined with targets native"),
    ],
)
def test_what_does_not_work_with_copies_is_refused_in_one_line(training, message):
    with pytest.raises(ConfigError, match=message) as error:
        config(**training)
    assert "\n" not in str(error.value)


def test_soft_labels_are_refused():
    changes = {
        "completions": {"unlabeled": {"soft": True}},
        "models": {"student": {"training": {"copy_tumors": {"label": "tumor"}}}},
    }
    with pytest.raises(ConfigError, match="copy_tumors: cannot be combined with soft labels, those of 'unlabeled'"):
        Config.load([RECIPE], changes)
