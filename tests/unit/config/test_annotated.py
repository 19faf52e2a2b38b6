"""What was annotated in which category: stated in the configuration, and compared where a loss depends on it."""

import pytest
from places import RECIPE

from flare23_lib.config import Config
from flare23_lib.config.load import merge, read_yaml
from flare23_lib.errors import ConfigError

LISTS = {
    "a": {"name": "a", "folders": ["imagesTr2200"]},
    "b": {"name": "b", "subset": "0/2"},
    "c": {"name": "c", "contains_all": ["liver", "spleen"]},
    "d": {"name": "d", "contains_any": ["tumor"]},
}


def config(*names, **annotated):
    """The recipe with other categories, one model and no completion; the model learns from all categories."""
    categories = [LISTS[name] | ({"annotated": annotated[name]} if name in annotated else {}) for name in names]
    changes = {
        "categories": categories,
        "completions": dict.fromkeys(["tumor", "all_organs", "five_organs", "unlabeled"]),
        "models": dict.fromkeys(["tumor_teacher", "student", "student_2200"])
        | {"organ_teacher": {"train_on": {"manual_labels": list(names)}}},
        "evaluation": {"compare": []},
    }
    return Config.check(merge(read_yaml(RECIPE), changes))


@pytest.mark.parametrize(
    ("names", "annotated", "message"),
    [
        ("cd", {}, r"'c' \(liver, spleen\) and 'd' \(tumor\) have different"),
        ("ab", {"a": ["liver"], "b": ["liver", "spleen"]}, r"'a' \(liver\) and 'b' \(liver, spleen\)"),
        ("ab", {"a": ["liver"]}, r"'a' \(liver\) and 'b' \(not stated\)"),
        ("a", {"a": "present"}, "cases of 'a' have different labels annotated"),
        ("cd", {"c": ["liver", "tumor"]}, "have different labels annotated"),
    ],
)
def test_a_model_that_would_take_unannotated_labels_for_background_is_refused_in_one_line(names, annotated, message):
    with pytest.raises(ConfigError, match=message) as refusal:
        config(*names, **annotated)
    assert "\n" not in str(refusal.value)
    assert str(refusal.value).startswith("models.organ_teacher.train_on.manual_labels: ")


@pytest.mark.parametrize(
    ("names", "annotated"),
    [
        ("d", {}),
        ("ab", {}),
        ("ab", {"a": ["liver", "spleen"], "b": ["spleen", "liver"]}),
        ("ac", {"a": ["liver", "spleen"]}),
        ("cd", {"c": ["liver", "tumor"], "d": ["liver", "tumor"]}),
    ],
)
def test_categories_that_were_annotated_alike_can_be_learned_from_together(names, annotated):
    assert config(*names, **annotated).models["organ_teacher"].train_on.manual_labels == tuple(names)


def test_only_what_is_learned_from_is_compared():
    assert Config.check(read_yaml(RECIPE)), "five_organs and tumor are annotated differently, and are completed"


def test_what_a_source_of_validation_images_states_is_nothing_about_training_cases():
    validation = {"validation_images": "v/{case}.nii.gz", "validation_labels": "r/{case}.nii.gz"}
    source = {"sources": {"amos": {**validation, "values": {1: "spleen", 6: "liver"}}}}
    train_on = {"manual_labels": ["all_organs"], "label_completions": ["tumor", "five_organs", "unlabeled"]}
    changes = {
        "models": {"student": {"train_on": train_on}},
        "completions": {"tumor": {"annotated": "present"}},
    }
    plain, more = (Config.check(merge(merge(read_yaml(RECIPE), changes), added)) for added in ({}, source))
    assert more.completion_settings("tumor") == plain.completion_settings("tumor")


@pytest.mark.parametrize(("labels", "message"), [(["heart"], "there is no label 'heart'"), ([1], "string")])
def test_annotated_labels_are_labels(labels, message):
    with pytest.raises(ConfigError, match=message):
        config("a", a=labels)


def with_source(*categories, **source):
    """The recipe's cohort with one more source, whose labels are the liver and the spleen, and its categories."""
    lits = {"images": "l/{case}.nii.gz", "labels": "s/{case}.nii.gz", "values": {1: "liver", 2: "spleen"}}
    changes = {
        "sources": {"lits": lits | source},
        "categories": list(categories),
        "completions": dict.fromkeys(["tumor", "all_organs", "five_organs", "unlabeled"]),
        "models": dict.fromkeys(["tumor_teacher", "student", "student_2200"])
        | {"organ_teacher": {"train_on": {"manual_labels": [one["name"] for one in categories]}}},
        "evaluation": {"compare": []},
        "model_defaults": {"training": {"loss": "label_sets"}},
    }
    return Config.check(merge(read_yaml(RECIPE), changes))


OF_LITS = {"name": "a", "sources": ["lits"]}


@pytest.mark.parametrize(
    ("categories", "source", "place"),
    [
        ([OF_LITS | {"annotated": ["liver", "tumor", "aorta"]}], {}, "0"),
        ([LISTS["b"] | {"annotated": ["tumor", "aorta"]}], {}, "0"),
        ([LISTS["c"] | {"annotated": ["liver", "tumor", "aorta"]}], {}, "0"),
        ([LISTS["b"], {"name": "d", "sources": ["lits", "flare23"], "annotated": ["tumor", "aorta"]}], {}, "1"),
        ([{"name": "e", "folders": ["l"], "annotated": ["tumor", "aorta"]}], {}, "0"),
    ],
)
def test_a_category_states_nothing_that_a_source_has_no_value_for(categories, source, place):
    message = rf"^categories\[{place}\]\.annotated: sources\.lits\.values has no tumor, aorta, which would"
    with pytest.raises(ConfigError, match=message) as refusal:
        with_source(*categories, **source)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("categories", "source"),
    [
        ([OF_LITS | {"annotated": ["spleen", "liver"]}], {}),
        ([OF_LITS, {"name": "b", "contains_any": ["liver"], "annotated": ["liver", "tumor"]}], {}),
        ([LISTS["d"] | {"annotated": ["liver", "tumor"]}], {}),
        ([LISTS["a"] | {"annotated": ["liver", "tumor"]}], {}),
        ([{"name": "b", "contains_any": ["liver"], "annotated": ["liver", "tumor"]}], {"values": {}}),
        ([{"name": "b", "contains_any": ["liver"], "annotated": ["liver", "tumor"]}], {"labels": []}),
    ],
)
def test_a_source_whose_cases_are_in_no_such_category_does_not_matter(categories, source):
    assert with_source(*categories, **source)


def test_annotated_labels_alone_are_no_condition():
    with pytest.raises(ConfigError, match="has no condition"):
        Config.check(merge(read_yaml(RECIPE), {"categories": [{"name": "a", "annotated": ["liver"]}]}))
