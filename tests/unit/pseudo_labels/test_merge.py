import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from flare23_lib.errors import MergeError
from flare23_lib.labels import IGNORE_VALUE, pack_soft
from flare23_lib.pseudo_labels.components import Votes
from flare23_lib.pseudo_labels.merge import OUTCOMES, MergeRules, merge, merge_soft

TUMOR = 5
VALUES = [0, 1, 2, 3, 4, TUMOR]
ORIGINALS = [*VALUES, IGNORE_VALUE]


def row(*values):
    return np.array(values, dtype=np.uint8).reshape(1, 1, -1)


def merged(original, predicted, annotated, votes=None, **rules):
    votes = None if votes is None else Votes(votes, 8)
    result = merge(original, predicted, annotated, MergeRules(tumors=(TUMOR,), **rules), votes)
    assert result.background + sum(sum(rows.values()) for rows in result.counts.values()) == original.size
    return result.labels.ravel().tolist()


def test_a_voxel_with_an_original_label_keeps_it():
    assert merged(row(1, 2), row(2, 0), [1, 2]) == [1, 2]


def test_an_annotated_class_is_not_extended():
    assert merged(row(1, 0, 0), row(1, 1, 2), [1]) == [1, 0, 2]


def test_everything_else_takes_the_prediction():
    assert merged(row(0, 0, 0), row(3, 0, TUMOR), []) == [3, 0, TUMOR]


def test_a_class_that_was_looked_for_and_is_absent_stays_absent():
    assert merged(row(1, 0), row(1, 4), [1, 4]) == [1, 0]


def test_a_dropped_voxel_can_be_ignored():
    assert merged(row(1, 0), row(1, 1), [1], conflict_policy="ignore") == [1, IGNORE_VALUE]


@pytest.mark.parametrize(("option", "result"), [("keep_organ", 1), ("ignore", IGNORE_VALUE), ("tumor", TUMOR)])
def test_a_tumor_predicted_inside_an_annotated_organ_becomes_what_is_configured(option, result):
    assert merged(row(1), row(TUMOR), [1], tumor_inside_organs=option) == [result]


@pytest.mark.parametrize("option", ["keep_organ", "ignore", "tumor", "if_sure"])
def test_a_tumor_predicted_where_a_first_look_said_ignore_stays_ignored(option):
    votes = np.full((1, 1, 1), 8, np.uint8)
    assert merged(row(IGNORE_VALUE), row(TUMOR), [1], votes=votes, tumor_inside_organs=option) == [IGNORE_VALUE]


def test_a_tumor_that_touches_a_marked_one_of_another_class_is_marked():
    rules = MergeRules(tumors=(4, TUMOR), unmarked_tumors="tumor")
    touching = merge(row(4, 0, 0, 0), row(4, TUMOR, 0, 0), [4, TUMOR], rules)
    assert touching.labels.ravel().tolist() == [4, 0, 0, 0]
    listed = merge(row(4, 0, 0, 0), row(4, TUMOR, 0, 0), [TUMOR], rules)  # annotated need not list the other
    assert listed.labels.ravel().tolist() == [4, 0, 0, 0]
    apart = merge(row(4, 0, 0, TUMOR), row(4, 0, TUMOR, TUMOR), [4, TUMOR], rules)
    assert apart.labels.ravel().tolist() == [4, 0, 0, TUMOR]
    alone = merge(row(4, 0, 0, 0), row(4, 0, 0, TUMOR), [4, TUMOR], rules)
    assert alone.labels.ravel().tolist() == [4, 0, 0, TUMOR]


def test_where_tumors_are_annotated_none_is_added_inside_organs():
    assert merged(row(1, TUMOR), row(TUMOR, TUMOR), [1, TUMOR], tumor_inside_organs="tumor") == [1, TUMOR]


def test_the_outcomes_are_counted_by_class():
    result = merge(row(1, 1, 1, 0, 0, 0), row(1, 2, TUMOR, 1, 3, 0), [1], MergeRules(tumors=(TUMOR,)))
    assert result.counts == {
        "agreed": {1: 1},
        "kept": {1: 1},
        "dropped": {1: 1},
        "taken": {3: 1},
        "tumor_inside": {1: 1},
        "unmarked_tumor": {},
        "unsure": {},
    }
    assert result.background == 1
    assert result.pairs == {(0, 0): 1, (0, 1): 1, (0, 3): 1, (1, 1): 1, (1, 2): 1, (1, TUMOR): 1}


@pytest.mark.parametrize(("votes", "result"), [(8, TUMOR), (6, IGNORE_VALUE)])
def test_a_tumor_inside_an_annotated_organ_is_taken_if_the_passes_are_sure_of_it(votes, result):
    count = np.full((1, 1, 3), votes, np.uint8)
    merging = {"tumor_inside_organs": "if_sure", "min_tumor_agreement": 0.9, "votes": count}
    assert merged(row(1, 1, 1), row(1, TUMOR, TUMOR), [1], **merging) == [1, result, result]


def test_a_tumor_is_judged_by_the_mean_of_its_voxels_also_outside_the_organ():
    merging = {"tumor_inside_organs": "if_sure", "min_tumor_agreement": 0.5, "votes": row(8, 1, 8)}
    assert merged(row(1, 1, 0), row(1, TUMOR, TUMOR), [1], **merging) == [1, TUMOR, TUMOR]
    assert merged(row(1, 1, 0), row(1, TUMOR, 2), [1], **merging) == [1, IGNORE_VALUE, 2]


@pytest.mark.parametrize(
    ("rule", "unmarked"),
    [("keep_original", [1, 0]), ("ignore", [IGNORE_VALUE] * 2), ("tumor", [TUMOR] * 2), ("if_sure", [TUMOR] * 2)],
)
def test_a_tumor_apart_from_the_marked_ones_becomes_what_is_configured(rule, unmarked):
    original, predicted = row(TUMOR, 1, 1, 1, 0), row(TUMOR, TUMOR, 0, TUMOR, TUMOR)
    result = merged(original, predicted, [1, TUMOR], unmarked_tumors=rule, votes=row(0, 0, 0, 7, 8))
    assert result == [TUMOR, 1, 1, *unmarked], "what touches a marked tumor is that tumor's border, drawn by a person"


def test_an_unmarked_tumor_that_the_passes_are_not_sure_of_is_ignored():
    original, predicted = row(TUMOR, 0, 0, 1, 0), row(0, 0, TUMOR, TUMOR, 0)
    result = merged(original, predicted, [1, TUMOR], unmarked_tumors="if_sure", votes=row(8, 8, 7, 6, 8))
    assert result == [TUMOR, 0, IGNORE_VALUE, IGNORE_VALUE, 0]


@pytest.mark.parametrize(
    ("sealed", "labels"), [(None, [IGNORE_VALUE] * 2), (row(1, 0, 0, 0) == 1, [IGNORE_VALUE, TUMOR])]
)
def test_what_an_annotation_passes_over_becomes_no_unmarked_tumor(sealed, labels):
    rules = MergeRules(tumors=(TUMOR,), unmarked_tumors="tumor")
    original, predicted = row(IGNORE_VALUE, IGNORE_VALUE, 1, 2), row(TUMOR, TUMOR, TUMOR, 0)
    result = merge(original, predicted, [1, TUMOR], rules, sealed=sealed)
    assert result.labels.ravel().tolist() == [*labels, TUMOR, 2]


@pytest.mark.parametrize(
    ("rules", "annotated", "expected"),
    [
        ({}, [1, 2], [2, 2, 1, 4, 1]),
        ({"tumor_inside_organs": "tumor"}, [1, 2], [2, 2, 4, 4, 1]),
        ({"tumor_inside_organs": "if_sure"}, [1, 2], [2, 2, 4, 4, 1]),
        ({"tumor_inside_organs": "ignore"}, [1, 2], [2, 2, IGNORE_VALUE, 4, 1]),
        ({"unmarked_tumors": "tumor"}, [1, 2, 4, TUMOR], [2, 2, 4, 4, 1]),
        ({"unmarked_tumors": "if_sure"}, [1, 2, 4, TUMOR], [2, 2, 4, 4, 1]),
        ({"unmarked_tumors": "ignore"}, [1, 2, 4, TUMOR], [2, 2, IGNORE_VALUE, IGNORE_VALUE, 1]),
    ],
)
def test_a_tumor_of_one_organ_is_put_into_no_other(rules, annotated, expected):
    """Labels are liver, kidney, a tumor of the liver (4), and one of the kidney."""
    original, predicted = row(2, 2, 1, 0, 1), row(2, 4, 4, 4, TUMOR)
    rules = MergeRules(tumors=(4, TUMOR), hidden_in={"4": (1,), str(TUMOR): (2,)}, **rules)
    made = merge(original, predicted, annotated, rules, votes=Votes(np.full_like(original, 8), 8))
    assert made.labels.ravel().tolist() == expected


def test_without_annotated_tumors_no_tumor_is_unmarked():
    assert merged(row(1, 0), row(TUMOR, TUMOR), [1], unmarked_tumors="ignore") == [1, TUMOR]


def test_unannotated_voxels_on_which_the_passes_disagree_are_ignored():
    original, predicted = row(1, 0, 0, 0, 0), row(2, 2, 2, 0, 1)
    result = merged(original, predicted, [1], min_agreement=0.75, votes=row(1, 6, 5, 5, 1))
    assert result == [1, 2, IGNORE_VALUE, IGNORE_VALUE, 0], "original and dropped voxels are known"


def test_rules_that_ask_for_votes_are_refused_without():
    with pytest.raises(MergeError, match="votes"):
        merge(row(1), row(1), [1], MergeRules(tumors=(TUMOR,), min_agreement=0.5))


@pytest.mark.parametrize("rule", ["conflict_policy", "tumor_inside_organs", "unmarked_tumors"])
def test_a_rule_that_is_none_is_refused(rule):
    with pytest.raises(ValueError, match=rule):
        MergeRules(**{rule: "sometimes"})


def test_other_shapes_are_refused():
    with pytest.raises(MergeError, match="prediction"):
        merge(row(1, 2), row(1), [1], MergeRules())


volumes = arrays(np.uint8, (3, 4, 5), elements=st.sampled_from(VALUES))
originals = arrays(np.uint8, (3, 4, 5), elements=st.sampled_from(ORIGINALS))
counts = arrays(np.uint8, (3, 4, 5), elements=st.integers(1, 8))
subsets = st.sets(st.sampled_from(VALUES[1:]))
rules = st.builds(
    MergeRules,
    tumors=st.just((TUMOR,)),
    conflict_policy=st.sampled_from(["background", "ignore"]),
    tumor_inside_organs=st.sampled_from(["keep_organ", "ignore", "tumor", "if_sure"]),
    unmarked_tumors=st.sampled_from(["keep_original", "ignore", "tumor", "if_sure"]),
    min_tumor_agreement=st.sampled_from([0.3, 0.6, 0.9]),
    min_agreement=st.sampled_from([0, 0.3, 0.75, 1]),
    hidden_in=st.sampled_from([{}, {str(TUMOR): (1, 3)}]),
)


def run(original, predicted, extra, chosen, count=None):
    """Merge, with the classes present annotated, and others too."""
    annotated = extra | set(np.unique(original).tolist()) - {0, IGNORE_VALUE}
    votes = Votes(np.full_like(original, 8) if count is None else count, 8)
    return annotated, merge(original, predicted, annotated, chosen, votes)


def by_hand(original, predicted, annotated, chosen, count):
    """The rules of docs/method.md, voxel by voxel, with tumors found by spreading from voxel to voxel."""
    labels = np.zeros_like(original)
    certainty, marked = {}, {}
    marks = (original == TUMOR) & (TUMOR in annotated)
    tumors = {tuple(place) for place in np.argwhere((predicted == TUMOR) | marks)}
    while tumors:
        front = [tumors.pop()]
        whole = []
        while front:
            place = front.pop()
            whole.append(place)
            near = {other for other in tumors if max(abs(a - b) for a, b in zip(place, other, strict=True)) == 1}
            tumors -= near
            front += near
        votes = [count[place] / 8 for place in whole]
        for place in whole:
            certainty[place] = np.mean(votes)
            marked[place] = any(original[other] == TUMOR for other in whole)

    def tumor_or_ignored(place, rule):
        sure = rule == "tumor" or (rule == "if_sure" and certainty[place] >= chosen.min_tumor_agreement)
        return TUMOR if sure else IGNORE_VALUE

    for place in np.ndindex(original.shape):
        known, guess = original[place], predicted[place]
        is_barred = bool(chosen.hidden_in) and known in (2, 4)
        if (
            known != IGNORE_VALUE and guess == TUMOR and TUMOR in annotated and not is_barred
            and not marked[place] and chosen.unmarked_tumors != "keep_original"
        ):  # fmt: skip
            labels[place] = tumor_or_ignored(place, chosen.unmarked_tumors)
        elif (
            known not in (0, IGNORE_VALUE) and guess == TUMOR and TUMOR not in annotated and not is_barred
            and chosen.tumor_inside_organs != "keep_organ"
        ):  # fmt: skip
            labels[place] = tumor_or_ignored(place, chosen.tumor_inside_organs)
        elif known:
            labels[place] = known
        elif guess and guess in annotated:
            labels[place] = {"background": 0, "ignore": IGNORE_VALUE}[chosen.conflict_policy]
        else:
            labels[place] = IGNORE_VALUE if count[place] / 8 < chosen.min_agreement else guess
    return labels


@given(originals, volumes, subsets, rules, counts)
def test_every_voxel_becomes_what_the_rules_say(original, predicted, extra, chosen, count):
    annotated, result = run(original, predicted, extra, chosen, count)
    assert np.array_equal(result.labels, by_hand(original, predicted, annotated, chosen, count))


@given(originals, volumes, subsets, rules, counts)
def test_no_original_voxel_changes_unless_a_tumor_was_asked_for(original, predicted, extra, chosen, count):
    _, result = run(original, predicted, extra, chosen, count)
    changed = (original != 0) & (result.labels != original)
    if (chosen.tumor_inside_organs, chosen.unmarked_tumors) == ("keep_organ", "keep_original"):
        assert not changed.any()
    assert (predicted[changed] == TUMOR).all()


@given(originals, volumes, subsets, rules, counts)
def test_no_annotated_class_grows(original, predicted, extra, chosen, count):
    annotated, result = run(original, predicted, extra, chosen, count)
    grown = {value for value in annotated if ((result.labels == value) & (original != value)).any()}
    assert grown <= ({TUMOR} if chosen.unmarked_tumors in ("tumor", "if_sure") else set())


@given(originals, volumes, subsets, rules, counts)
def test_the_counts_add_up_to_the_volume(original, predicted, extra, chosen, count):
    _, result = run(original, predicted, extra, chosen, count)
    assert list(result.counts) == list(OUTCOMES)
    assert min([0, *(number for rows in result.counts.values() for number in rows.values())]) == 0
    assert result.background + sum(sum(rows.values()) for rows in result.counts.values()) == original.size
    assert sum(result.pairs.values()) == original.size


@given(originals, volumes, subsets)
def test_merging_again_changes_nothing(original, predicted, extra):
    annotated, once = run(original, predicted, extra, MergeRules(tumors=(TUMOR,)))
    twice = merge(once.labels, predicted, annotated, MergeRules(tumors=(TUMOR,)))
    assert np.array_equal(once.labels, twice.labels)


def test_tumors_of_two_classes_are_judged_each_by_its_own_rule():
    other = 6
    rules = MergeRules(
        tumors=(TUMOR, other),
        tumor_inside_organs="if_sure",
        unmarked_tumors="if_sure",
        min_agreement=0.9,
        min_tumor_agreement=0.9,
    )
    # A marked tumor, the other class inside an organ, an unmarked tumor, a new one of the other class.
    original = row(TUMOR, 0, 1, 1, 0, 0, 0, 0, 0)
    predicted = row(TUMOR, 0, other, 1, 0, TUMOR, 0, other, 0)
    for certain, inside, unmarked, new in ((8, other, TUMOR, other), (4, IGNORE_VALUE, IGNORE_VALUE, IGNORE_VALUE)):
        votes = Votes(np.where((predicted == other) | (predicted == TUMOR), certain, 8).astype(np.uint8), 8)
        result = merge(original, predicted, [1, TUMOR], rules, votes=votes)
        assert result.labels.ravel().tolist() == [TUMOR, 0, inside, 1, 0, unmarked, 0, new, 0]
        assert min(count for counts in result.counts.values() for count in counts.values()) > 0
        assert result.background + sum(sum(counts.values()) for counts in result.counts.values()) == original.size


def softly_merged(original, predicted, annotated, pairs, **rules):
    """Voxels that stay soft: pairs of classes with a share of 200 for the first, or None for a sure teacher."""
    soft = [0 if pair is None else int(pack_soft(*np.array([*pair, 200], np.uint8))) for pair in pairs]
    soft = np.array(soft, np.int32).reshape(1, 1, -1)
    votes = Votes(np.full(original.shape, 2, np.uint8), 8)
    labels = merge(original, predicted, annotated, MergeRules(tumors=(TUMOR,), **rules), votes).labels
    result = merge_soft(soft, original, predicted, labels, annotated)
    assert (result[result != 0] == soft[result != 0]).all()
    return (result.ravel() != 0).tolist()


def test_labels_are_soft_where_the_teacher_hesitates_and_nothing_is_known():
    pairs = [(1, 2), None, (0, 3), (2, 0)]
    assert softly_merged(row(0, 0, 0, 0), row(1, 1, 0, 2), [], pairs) == [True, False, True, True]


def test_an_original_label_is_never_soft():
    assert softly_merged(row(1, 2, IGNORE_VALUE), row(1, 3, 1), [1, 2], [(1, 3), (3, 4), (1, 3)]) == [False] * 3


def test_labels_are_not_soft_where_one_of_the_classes_is_known_to_be_absent():
    assert softly_merged(row(0, 0, 0), row(2, 1, 2), [1], [(2, 1), (1, 2), (2, 0)]) == [False, False, True]


def test_a_voxel_that_the_merge_ignores_is_not_soft():
    assert softly_merged(row(0), row(2), [], [(2, 3)], min_agreement=0.5) == [False]
    assert softly_merged(row(0), row(1), [1], [(2, 3)], conflict_policy="ignore") == [False]


def test_votes_of_another_shape_are_refused():
    with pytest.raises(MergeError, match="the original is"):
        merge(row(1, 2), row(1, 0), [1], MergeRules(), Votes(row(1), 8))


def test_a_tumor_that_the_merge_added_is_certain():
    pairs = [None, None, (1, 2)]
    soft = softly_merged(row(TUMOR, 0, 0), row(0, 0, TUMOR), [TUMOR], pairs, unmarked_tumors="tumor")
    assert soft == [False] * 3


@pytest.mark.parametrize(("rule", "value"), [("ignore", IGNORE_VALUE), ("tumor", TUMOR)])
def test_unmarked_tumors_are_counted_by_what_they_became(rule, value):
    result = merge(row(TUMOR, 0, 0), row(0, 0, TUMOR), [TUMOR], MergeRules(tumors=(TUMOR,), unmarked_tumors=rule))
    assert result.counts["unmarked_tumor"] == {value: 1}


@pytest.mark.parametrize("rule", ["tumor", "ignore", "if_sure"])
def test_a_marked_tumor_is_no_organ_that_another_tumor_is_in(rule):
    rules = MergeRules(tumors=(4, TUMOR), tumor_inside_organs=rule)
    assert merge(row(4), row(TUMOR), [4], rules, votes=Votes(row(8), 8)).labels.ravel().tolist() == [4]


def test_an_agreement_that_just_reaches_the_limit_is_enough():
    rules = MergeRules(tumors=(TUMOR,), tumor_inside_organs="if_sure", min_tumor_agreement=0.75)
    assert merge(row(1), row(TUMOR), [1], rules, votes=Votes(row(6), 8)).labels.item() == TUMOR


@pytest.mark.parametrize(("votes", "label"), [(2, IGNORE_VALUE), (3, 2)])
def test_a_share_of_the_passes_is_not_rounded_down(votes, label):
    made = merge(row(0), row(2), [], MergeRules(min_agreement=0.3), votes=Votes(row(votes), 8))
    assert made.labels.item() == label
