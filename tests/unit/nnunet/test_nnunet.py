"""The bridge to nnU-Net: preprocessed cases, sampling, plans."""

import pickle

import blosc2
import numpy as np
import pytest
import torch
from nnunetv2.preprocessing.resampling.resample_torch import resample_torch_fornnunet
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from places import RECIPE

from flare23_lib.config import Config
from flare23_lib.errors import ImageError
from flare23_lib.io import nifti
from flare23_lib.nnunet.plans import CONFIGURATION, dataset_json, plans
from flare23_lib.preprocessing.intensity import Intensity
from flare23_lib.preprocessing.preprocess import (
    TrainingGrid,
    class_locations,
    link_dataset,
    preprocess_image,
    preprocess_labels,
)

INTENSITY = Intensity(low=-100, high=200, mean=50, std=75)
AFFINE = np.diag([2.0, 2.0, 5.0, 1.0])
PATCH = (16, 16, 16)


@pytest.fixture
def case(tmp_path):
    rng = np.random.default_rng(0)
    image = rng.integers(-1000, 1000, (10, 24, 30)).astype(np.int16)
    labels = np.zeros(image.shape, np.uint8)
    labels[2:8, 4:14, 5:20] = 3
    labels[2:8, 14:20, 5:20] = 20
    labels[0, 0, 0:8] = 255
    for name, array in (("image", image), ("labels", labels)):
        nifti.write_volume(tmp_path / f"{name}.nii.gz", array, nifti.header_for(array.shape, AFFINE, array.dtype))
    return tmp_path, image, labels


def load(path):
    return blosc2.open(str(path), mode="r")[:]


def test_an_image_is_normalized_then_resampled_as_nnunet_does_with_torch(case):
    folder, image, _ = case
    target = folder / "image.b2nd"
    facts = preprocess_image(folder / "image.nii.gz", target, TrainingGrid((5, 3, 3), "stored", PATCH), INTENSITY)
    normalized = (np.clip(image.astype(np.float32), -100, 200) - 50) / 75
    expected = resample_torch_fornnunet(
        normalized[None], [10, 16, 20], (5, 2, 2), (5, 3, 3), is_seg=False, force_separate_z=False
    )
    assert facts == {"shape": [10, 24, 30], "spacing": [5.0, 2.0, 2.0]}
    assert load(target).shape == (1, 10, 16, 20)
    assert np.abs(load(target) - expected).max() < 1e-5


def test_labels_become_indices_with_the_places_of_each_class(case):
    folder, _, labels = case
    seen = preprocess_labels(
        folder / "labels.nii.gz", folder / "l.b2nd", TrainingGrid((5, 2, 2), "stored", PATCH), [3, 7, 20]
    )
    assert seen == [1, 3, 4]  # the last stands for voxels to ignore
    result = load(folder / "l.b2nd")[0]
    assert np.array_equal(result == 1, labels == 3)
    assert np.array_equal(result == 3, labels == 20)
    assert np.array_equal(result == 4, labels == 255)
    places = pickle.loads((folder / "l.pkl").read_bytes())["class_locations"]
    assert all(result[tuple(place[1:])] == 3 for place in places[3])
    assert len(places[2]) == 0
    annotated = places[(-1, 0, 1, 2, 3)]
    assert not any(result[tuple(place[1:])] == 4 for place in annotated)


def test_labels_get_their_images_shape_even_if_their_own_spacing_is_a_little_off(case):
    folder, _, labels = case
    affine = np.diag([2.0007, 2.0007, 5.0, 1.0])  # within the tolerance; 24 rows of it would round to one more
    nifti.write_volume(folder / "off.nii.gz", labels, nifti.header_for(labels.shape, affine, labels.dtype))
    grid = TrainingGrid((5, 48 / 29.499, 2), "stored", PATCH)
    preprocess_image(folder / "image.nii.gz", folder / "i.b2nd", grid, INTENSITY)
    preprocess_labels(folder / "off.nii.gz", folder / "l.b2nd", grid, [3, 20], (5, 2, 2))
    assert load(folder / "l.b2nd").shape == load(folder / "i.b2nd").shape == (1, 10, 29, 30)


def test_locations_are_as_many_as_nnunets_and_drawn_from_the_whole_class():
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor

    rng = np.random.default_rng(0)
    labels = (rng.random((40, 60, 70)) < 0.3).astype(np.uint8)
    labels[3:5, 4:9, 5:6] = 2
    labels[30:] = 4
    made = class_locations(labels, [1, 2, 3])
    theirs = DefaultPreprocessor._sample_foreground_locations(labels[None], [1, 2, 3, [-1, 0, 1, 2, 3]])
    assert list(made) == list(theirs)
    assert [len(made[value]) for value in (1, 2, 3)] == [len(theirs[value]) for value in (1, 2, 3)] == [10_000, 10, 0]
    assert len(made[(-1, 0, 1, 2, 3)]) == 10_000
    for key, values in ((1, {1}), (2, {2}), ((-1, 0, 1, 2, 3), {0, 1, 2})):
        places = made[key]
        assert set(labels[tuple(places.T[1:])]) == values
        assert not places[:, 0].any()
        assert len(np.unique(places, axis=0)) == len(places)
    first_slice = (labels[0] == 1).sum() / (labels == 1).sum() * 10_000
    assert abs((made[1][:, 1] == 0).sum() - first_slice) < 60


def test_at_least_one_percent_of_a_large_class_is_kept():
    labels = np.ones((11, 320, 320), np.uint8)
    assert len(class_locations(labels, [1])[1]) == int(np.ceil(0.01 * labels.size))


def test_a_value_outside_the_map_is_refused(case):
    folder, _, _ = case
    with pytest.raises(ImageError, match="not in the label map"):
        preprocess_labels(folder / "labels.nii.gz", folder / "l.b2nd", TrainingGrid((5, 2, 2), "stored", PATCH), [3])


def test_canonical_cases_do_not_depend_on_how_they_are_stored(case):
    folder, image, _ = case
    flipped = AFFINE.copy()
    flipped[0, 0] *= -1
    flipped[0, 3] = 2.0 * (image.shape[2] - 1)
    nifti.write_volume(
        folder / "flipped.nii.gz", image[:, :, ::-1].copy(), nifti.header_for(image.shape, flipped, image.dtype)
    )
    grid = TrainingGrid((5, 3, 3), "canonical", PATCH)
    for name in ("image", "flipped"):
        preprocess_image(folder / f"{name}.nii.gz", folder / f"{name}.b2nd", grid, INTENSITY)
    assert np.array_equal(load(folder / "image.b2nd"), load(folder / "flipped.b2nd"))


def test_links_follow_the_training_set(tmp_path):
    for name in ("a", "b"):
        for suffix in (".b2nd", ".pkl"):
            (tmp_path / f"{name}{suffix}").write_text(name)
    folder = tmp_path / "deep" / "nnunet"
    rows = [{"case": name, "image": f"{name}.b2nd", "label": f"{name}.b2nd"} for name in ("a", "b")]
    link_dataset(folder, tmp_path, rows)
    link_dataset(folder, tmp_path, rows[1:])
    assert sorted(path.name for path in folder.iterdir()) == ["b.b2nd", "b.pkl", "b_seg.b2nd"]
    assert (folder / "b_seg.b2nd").read_text() == "b"


def test_names_that_nnunet_takes_for_labels_are_links_of_their_own(tmp_path):
    names = ["a", "a_seg", "a_seg_", "_seg", "b"]
    rows = [{"case": name, "image": f"{name}.image.b2nd", "label": f"{name}.label.b2nd"} for name in names]
    folder = tmp_path / "links"
    link_dataset(folder, tmp_path, rows)
    found = nnUNetDatasetBlosc2.get_identifiers(str(folder))
    assert {(folder / f"{name}.b2nd").readlink().name for name in found} == {row["image"] for row in rows}
    for name in found:
        links = [(folder / (name + end)).readlink().name.split(".")[0] for end in (".b2nd", "_seg.b2nd", ".pkl")]
        assert len(set(links)) == 1


def test_the_plans_are_nnunets_and_hold_what_was_configured():

    config = Config.load([RECIPE])
    settings = config.training_settings("student")
    manager = PlansManager(plans(settings))
    configuration = manager.get_configuration(CONFIGURATION)
    assert configuration.patch_size == [48, 128, 160]
    assert configuration.spacing == [2.5, 1.5, 1.5]
    assert configuration.pool_op_kernel_sizes[1] == [1, 2, 2]
    assert manager.foreground_intensity_properties_per_channel["0"]["percentile_00_5"] == -970
    labels = manager.get_label_manager(dataset_json(config.label_map.names, True, []))
    assert labels.foreground_labels == list(range(1, 15))
    assert labels.ignore_label == 15
    image = torch.zeros((1, 4, 8, 8))
    assert configuration.resampling_fn_data(image, [4, 4, 4], (2, 2, 2), (2, 4, 4)).shape == (1, 4, 4, 4)
