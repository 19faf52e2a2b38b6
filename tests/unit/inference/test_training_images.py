"""A model knows what its training images were like, and names what makes another image unlike them."""

import numpy as np
import pytest
from bundles import a_model, some_weights
from engines import a_bundle, volume_of

from flare23_lib import Predictor
from flare23_lib.cli import main
from flare23_lib.dataset.image_info import ImageInfo
from flare23_lib.inference.bundle import load_bundle, write_bundle
from flare23_lib.inference.segmentations import model_digest
from flare23_lib.inference.training_images import TrainingImages, summarize, unlike_training
from flare23_lib.io.nifti import write_volume

LPS, LAS = np.diag([-1.0, -1.0, 2.0, 1.0]), np.diag([-1.0, 1.0, 2.0, 1.0])
TRAINED = TrainingImages({"LPS": 3}, (-2000.0, -1000.0), (1500.0, 3000.0))


def an_image(low, high, affine=LPS, at_limit=1):
    array = np.random.default_rng(0).integers(low + 1, high - 1, (8, 20, 20)).astype(np.int16)
    array.flat[0], array.flat[1 : 1 + at_limit] = low, high
    return volume_of(array, affine)


@pytest.mark.parametrize(
    ("image", "orientation", "expected"),
    [
        (an_image(-1024, 2000), "stored", []),
        (an_image(-950, 1450), "stored", []),
        (an_image(-1024, 2000, LAS), "canonical", []),
        (an_image(-1024, 2000, LAS), "stored", ["its axes are LAS; the model takes axes as stored"]),
        (an_image(-1024, 900), "stored", ["its values go from -1024 to 900 HU; in every training image"]),
        (
            an_image(-160, 240, at_limit=100),
            "stored",
            ["3.1% of its voxels have the highest value, 240", "its values"],
        ),
    ],
)
def test_an_image_is_compared_with_those_of_the_training(image, orientation, expected):
    found = unlike_training(TRAINED, orientation, image)
    assert len(found) == len(expected)
    assert all(line.startswith(start) for line, start in zip(found, expected, strict=True))


def test_a_model_that_does_not_say_only_doubts_windowed_values():
    assert unlike_training(None, "stored", an_image(-1024, 900, LAS)) == ()
    assert len(unlike_training(None, "stored", an_image(0, 255, at_limit=200))) == 1


def test_training_images_are_summed_up():
    images = [
        ImageInfo(shape=(8, 20, 20), spacing=(2.0, 1.0, 1.0), affine=tuple(affine.ravel()), low=low, high=high)
        for affine, low, high in ((LPS, -1024, 1500), (LPS, -2000, 3000), (LAS, None, None))
    ]
    made = summarize(images)
    assert made == TrainingImages({"LAS": 1, "LPS": 2}, (-2000, -1024), (1500, 3000))
    assert TrainingImages.from_json(made.to_json()) == made
    assert summarize([]) is None
    assert summarize(images[2:]) == TrainingImages({"LAS": 1})


@pytest.mark.parametrize(
    ("affine", "codes"),
    [
        ([[0, -1, 0, 0], [0, 0, -1, 0], [2, 0, 0, 0], [0, 0, 0, 1]], "SLP"),  # KiTS19's: the slices first
        ([[0, 0, -1, 0], [0, 1, 0, 0], [2, 0, 0, 0], [0, 0, 0, 1]], "SAL"),
        (np.diag([-1.0, -1.0, -2.0, 1.0]), "LPI"),  # upside down
        (np.diag([1.0, 1.0, 2.0, 1.0]), "RAS"),
        (LPS, None),
    ],
)
@pytest.mark.parametrize("orientation", ["stored", "canonical"])
def test_who_segments_axes_that_a_stored_model_never_saw_is_warned(tmp_path, affine, codes, orientation, caplog):
    bundle = a_bundle(orientation=orientation, training_images=TRAINED)
    write_bundle(tmp_path / "model", bundle.model, bundle.state_dict)
    volume = an_image(-1024, 2000, np.array(affine, float))
    write_volume(tmp_path / "ct.nii.gz", volume.array, volume.header)
    line = f"its axes are {codes}; the model takes axes as stored, and its training images have LPS"
    expected = [line] if codes and orientation == "stored" else []
    predicted = Predictor(tmp_path / "model", "cpu", precision="float32")(tmp_path / "ct.nii.gz")
    assert [warning for warning in predicted.warnings if "axes" in warning] == expected
    options = ["--model", tmp_path / "model", "--input", tmp_path / "ct.nii.gz", "--output", tmp_path / "labels"]
    assert main(["predict", *map(str, options), "--device", "cpu", "--precision", "float32"]) == 0
    told = [text.partition("ct.nii.gz: ")[2] for text in caplog.messages if "axes as stored" in text]
    assert told == expected


def test_a_bundle_keeps_them_without_becoming_another_model(tmp_path):
    plain, told = a_model(), a_model(training_images=TRAINED)
    write_bundle(tmp_path, told, some_weights())
    assert load_bundle(tmp_path).model.training_images == TRAINED
    assert "training_images" not in plain.to_json()
    assert model_digest(plain.to_json()) == model_digest(told.to_json())
