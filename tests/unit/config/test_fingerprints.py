"""The fingerprints of the store are those of version 0.1: results that a user has already are found again.

`fingerprints.json` was recorded with the code of that version. Values of the recipe that may change are pinned here.
"""

import json
from pathlib import Path

import pytest
from places import REPOSITORY

from flare23_lib.cache.entries import fingerprint
from flare23_lib.cache.results import Results
from flare23_lib.config import Config
from flare23_lib.dataset.cases import Case
from flare23_lib.inference.segmentations import segmentation_folder
from flare23_lib.nnunet.training_job import TrainingJob
from flare23_lib.preprocessing import preprocess_cases
from flare23_lib.preprocessing.preprocess_cases import TrainingCase
from flare23_lib.pseudo_labels.complete import completion_folder

RESULTS = Results(Path("results"))
RECORDED = json.loads((REPOSITORY / "tests/fingerprints.json").read_text())
FILES = {
    "recipe": [],
    "released": ["presets/released.yaml"],
    "rounds": ["presets/rounds.yaml"],
    "second_look": ["presets/second_look.yaml"],
    "every_key": ["tests/every_key.yaml"],
}
PINNED = {"model_defaults": {"training": {"precision": "mixed"}, "inference": {"precision": "bfloat16"}}}
CASE = Case(
    case="a", image="a.nii.gz", label="b.nii.gz", split="training", voxels={1: 2}, shape=(3, 4, 5),
    spacing=(2.5, 1.0, 1.0), image_id="image", label_id="label",
)  # fmt: skip
ROWS = [{"case": "a", "image": "store/x", "label": "store/y"}]


def fingerprints(config: Config) -> dict[str, str]:
    """Return the fingerprints of settings, of folders of the store, and of a case's files in them.

    Those of the scan are not among them: it has no folder of its own, and keeps what it read by file.
    """
    found = {}
    for model in config.models:
        settings = config.preprocessing_settings(model)
        images = preprocess_cases.image_entry(RESULTS, settings, CASE)
        labels = preprocess_cases.label_entry(RESULTS, settings, TrainingCase(CASE, Path("b"), "label"))
        found |= {
            f"{model}: intensity settings": fingerprint(config.intensity_settings(model).to_json()),
            f"{model}: preprocessing settings": fingerprint(settings.to_json()),
            f"{model}: preprocessed images": f"{images.folder.fingerprint} {images.name}",
            f"{model}: preprocessed labels": f"{labels.folder.fingerprint} {labels.name}",
            f"{model}: training": TrainingJob(
                RESULTS, model, config.training_settings(model), [], ROWS
            ).folder.fingerprint,
            f"{model}: segmentations": segmentation_folder(
                RESULTS, "digest", config.inference_settings(model)
            ).fingerprint,
        }
    for completion in config.completions:
        settings = config.completion_settings(completion)
        found |= {
            f"{completion}: completion settings": fingerprint(settings.to_json()),
            f"{completion}: completed labels": completion_folder(RESULTS, settings).fingerprint,
        }
    return found


@pytest.mark.parametrize("name", FILES)
def test_fingerprints_are_those_that_were_recorded(name):
    config = Config.load([REPOSITORY / file for file in ["config.yaml", *FILES[name]]], PINNED)
    assert fingerprints(config) == RECORDED[name]
