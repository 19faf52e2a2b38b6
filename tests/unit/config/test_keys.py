"""What is kept under which key: another input, setting or label is another file, and nothing else is.

A key that lacks something gives an old result for a new question, without a word.
"""

from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
from cohorts import changed
from engines import a_bundle
from places import RECIPE

from flare23_lib.cache.results import Results
from flare23_lib.config import Config
from flare23_lib.config.training_models import MergePolicy
from flare23_lib.dataset.cases import Case
from flare23_lib.inference.image_files import NO_EXTRAS, Extras
from flare23_lib.inference.segmentations import model_digest, segmentation_entry, segmentation_folder
from flare23_lib.nnunet.training_job import TrainingJob
from flare23_lib.preprocessing import fit_intensity, preprocess_cases
from flare23_lib.preprocessing.preprocess_cases import TrainingCase
from flare23_lib.pseudo_labels.complete import completed_entry, completion_folder

RESULTS = Results(Path("results"))
CASE = Case("a", "a.nii.gz", "l.nii.gz", "training", {1: 5}, "tumor", (4, 5, 6), (5.0, 2.0, 2.0), "ok", "i", "l")
ORIGINAL = TrainingCase(CASE, Path("l.nii.gz"), "l")
COMPLETED = TrainingCase(CASE, Path("c.nii.gz"), "store/completed_labels/x/a.nii.gz")


def config(**completion):
    row = {"category": "tumor", "teacher": "organ_teacher", **completion}
    tta = {"models": {"organ_teacher": {"inference": {"tta": True}}}}
    return Config.load([RECIPE], {"completions": {"tumor": row}, **tta})


def test_a_completed_label_is_preprocessed_apart_from_the_original():
    settings = config().preprocessing_settings("student")
    paths = {preprocess_cases.label_entry(RESULTS, settings, case).metadata_path for case in (ORIGINAL, COMPLETED)}
    assert len(paths) == 2
    images = {preprocess_cases.image_entry(RESULTS, settings, case.case) for case in (ORIGINAL, COMPLETED)}
    assert len(images) == 1


OTHERS = {"spacing": [1, 1, 1], "orientation": "canonical", "intensity": {"low": -1}, "label_values": [1, 2]}


@pytest.mark.parametrize("key", OTHERS)
def test_a_setting_of_preprocessing_moves_what_it_shapes(key):
    settings = config().preprocessing_settings("student")
    other = changed(settings, **{key: OTHERS[key]})
    images, labels = (
        [function(RESULTS, chosen, case) for chosen in (settings, other)]
        for function, case in ((preprocess_cases.image_entry, CASE), (preprocess_cases.label_entry, ORIGINAL))
    )
    assert (images[0] != images[1]) == (key != "label_values")
    assert (labels[0] != labels[1]) == (key != "intensity")


@pytest.mark.parametrize("change", [{"case": "b"}, {"image": "other.b2nd"}, {"label": "other.b2nd"}])
def test_another_case_image_or_label_is_another_training(change):
    rows = [{"case": "a", "image": "i.b2nd", "label": "l.b2nd"}, {"case": "z", "image": "y.b2nd", "label": "x.b2nd"}]
    settings = config().training_settings("student")

    def folder(rows):
        return TrainingJob(RESULTS, "student", settings, [], rows).folder

    assert folder(rows[::-1]) == folder(rows)
    assert folder([{**rows[0], **change}, rows[1]]) != folder(rows)


OPTIONS = {
    "annotated": ["liver"],
    "min_component_ml": {"liver": 1},
    "soft": True,
    **{name: (0.5, *get_args(field.annotation))[-1] for name, field in MergePolicy.model_fields.items()},
}
"""Another value of each option: the last choice of a policy, or half."""


@pytest.mark.parametrize("option", OPTIONS)
def test_each_option_of_a_completion_moves_its_labels(option):
    plain, changed = config(), config(**{option: OPTIONS[option]})
    folders = {completion_folder(RESULTS, made.completion_settings("tumor")).path for made in (plain, changed)}
    assert len(folders) == 2


def test_soft_labels_move_what_is_made_from_them_and_nothing_else():
    plain, soft = config(), config(soft=True)
    assert soft.cohort_settings() == plain.cohort_settings()
    for completion in plain.completions:
        same = completion != "tumor"
        for settings in ("completion_settings", "pseudo_label_settings"):
            assert (getattr(soft, settings)(completion) == getattr(plain, settings)(completion)) == same
    for model in plain.models:
        same = "tumor" not in plain.models[model].train_on.label_completions
        for settings in ("training_settings", "preprocessing_settings"):
            assert (getattr(soft, settings)(model) == getattr(plain, settings)(model)) == same
        assert soft.inference_settings(model) == plain.inference_settings(model)
        one, other = (made.preprocessing_settings(model) for made in (soft, plain))
        for entry, case in ((preprocess_cases.image_entry, CASE), (preprocess_cases.label_entry, ORIGINAL)):
            assert entry(RESULTS, one, case) == entry(RESULTS, other, case)


def test_a_completed_label_follows_from_image_original_prediction_and_base():
    folder = completion_folder(RESULTS, config().completion_settings("tumor"))
    base = {"a": {"file": "store/completed_labels/x/a.nii.gz"}}
    other = {"a": {"file": "store/completed_labels/y/a.nii.gz"}}
    asked = [
        (CASE, "p", {}),
        (replace(CASE, image_id="other"), "p", {}),
        (replace(CASE, label_id="other"), "p", {}),
        (CASE, "other", {}),
        (CASE, "p", base),
        (CASE, "p", other),
    ]
    assert len({completed_entry(folder, *question).name for question in asked}) == len(asked)
    # Under a base the original's own file says nothing, but where it may seal voxels against unmarked tumors.
    again = completion_folder(RESULTS, config(unmarked_tumors="tumor").completion_settings("tumor"))
    for place, is_same in ((folder, True), (again, False)):
        one, other = (completed_entry(place, case, "p", base) for case in (CASE, replace(CASE, label_id="other")))
        assert (one == other) == is_same


def test_a_segmentation_follows_from_all_of_the_model_that_shapes_it():
    model = a_bundle().model.to_json()
    free = {"name": "other", "inference": {}, "provenance": {"x": 1}, "unseen": ["label_1"]}
    for key in model:
        changed = model_digest({**model, key: free.get(key, "other") if key != "labels" else model["labels"][:2]})
        assert (changed == model_digest(model)) == (key in free), key
    renamed = [{**label, "name": f"other_{label['value']}"} for label in model["labels"]]
    assert model_digest({**model, "labels": renamed}) == model_digest(model)


def test_a_segmentation_follows_from_image_use_and_extras():
    inference = config().inference_settings("student")
    folder = segmentation_folder(RESULTS, "digest", inference)
    assert segmentation_folder(RESULTS, "digest", changed(inference, tile_step_size=0.123)) != folder
    extras = [NO_EXTRAS, Extras(votes=True), Extras(soft=True), Extras(votes=True, soft=True)]
    asked = [(CASE, one) for one in extras] + [(replace(CASE, image_id="other"), NO_EXTRAS)]
    assert len({segmentation_entry(folder, *question).name for question in asked}) == len(asked)


def test_measured_intensities_follow_from_images_and_labels():
    folder = fit_intensity.intensity_folder(RESULTS)
    other = TrainingCase(replace(CASE, image_id="other"), ORIGINAL.label, ORIGINAL.label_id)
    sets = [[ORIGINAL], [COMPLETED], [other], [ORIGINAL, replace(ORIGINAL, case=replace(CASE, case="b"))]]
    assert len({fit_intensity.case_entry(folder, cases[0]).name for cases in sets[:3]}) == 3
    assert len({fit_intensity.pooled_entry(folder, cases).name for cases in sets}) == len(sets)
