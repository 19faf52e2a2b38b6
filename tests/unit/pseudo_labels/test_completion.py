"""From a completion's settings to the voxels of its labels: each option, on a case and a prediction made by hand."""

import sys

import numpy as np
import pytest
from places import RECIPE

from flare23_lib.cache.entries import Shard
from flare23_lib.cache.results import Results
from flare23_lib.config import Config
from flare23_lib.dataset.cases import Case, write_cases
from flare23_lib.errors import CasesFailedError, StoreError
from flare23_lib.inference.image_files import NO_EXTRAS, Extras
from flare23_lib.io.identity import file_identity
from flare23_lib.io.nifti import header_for, read_labels, read_volume, write_volume
from flare23_lib.io.tables import read_csv, write_csv
from flare23_lib.labels import IGNORE_VALUE, SOFT_LABELS, pack_soft, soft_file, unpack_soft
from flare23_lib.pseudo_labels import complete as module
from flare23_lib.pseudo_labels.complete import (
    LABELS,
    CompletionJob,
    collect_completed,
    complete,
    completed_entry,
    completion_folder,
)
from flare23_lib.pseudo_labels.pseudo_label import annotated_labels, category_shard

SHAPE, AFFINE = (8, 12, 12), np.diag([10.0, 10.0, 10.0, 1.0])  # a voxel is 1 mL
LIVER, SPLEEN, STOMACH, TUMOR = 1, 3, 11, 14
PASSES = 8
SHARD = Shard(0, 1)

MARKED, BESIDE = (slice(1, 3), slice(1, 3), slice(1, 3)), (slice(1, 3), slice(1, 3), slice(3, 5))
SURE, UNSURE = (slice(5, 7), slice(1, 3), slice(1, 3)), (slice(5, 7), slice(1, 3), slice(8, 10))
INSIDE, OUTSIDE = (slice(1, 3), slice(7, 9), slice(2, 4)), (slice(1, 3), slice(7, 9), slice(9, 11))
SPECK, DOUBTFUL = (5, 10, 10), (5, 7, 7)


def volumes():
    """The original label, the prediction and its votes."""
    original, predicted = (np.zeros(SHAPE, np.uint8) for _ in range(2))
    votes = np.full(SHAPE, PASSES, np.uint8)
    original[MARKED] = predicted[MARKED] = predicted[BESIDE] = TUMOR
    predicted[SURE] = predicted[UNSURE] = TUMOR
    votes[UNSURE] = 3
    original[1:3, 6:10, 1:6] = LIVER
    predicted[1:3, 6:10, 1:6] = LIVER
    predicted[INSIDE] = TUMOR
    predicted[OUTSIDE] = LIVER
    predicted[SPECK] = predicted[DOUBTFUL] = SPLEEN
    votes[DOUBTFUL] = 4
    return original, predicted, votes


def completed(
    folder, without_tumor=False, healthy=False, drawn_on=(SHAPE, AFFINE), ignored=None, first_look=None, **options
):
    """Run the stage on one case under a completion's options; returns its labels and its record.

    The annotation marks `ignored` to be ignored; a base that is the annotation otherwise so marks `first_look`.
    """
    row = {"category": "tumor", "teacher": "organ_teacher", **options}
    changes = {"completions": {"tumor": row}, "models": {"organ_teacher": {"inference": {"tta": True}}}}
    config = Config.load([RECIPE], changes)
    settings, results = config.completion_settings("tumor"), Results(folder / "results")
    original, predicted, votes = volumes()
    if without_tumor:
        original[original == TUMOR] = 0
    if healthy:
        original[:] = 0
    if ignored is not None:
        original[ignored] = IGNORE_VALUE
    label = folder / "label.nii.gz"
    shape, affine = drawn_on
    write_volume(label, original[:, :, : shape[2]], header_for(shape, affine, original.dtype))
    voxels = {int(value): int((original == value).sum()) for value in np.unique(original) if value}
    spacing = (10.0, 10.0, 10.0)
    case = Case("a", "a.nii.gz", str(label), "training", voxels, "tumor", SHAPE, spacing, image_id="i",
                label_id=file_identity(label))  # fmt: skip
    write_cases(results.cases, [case])
    store = results.cache("segmentations", {"made": "by hand"}).create()
    entry = store.entry("a", {"image": "image"})
    soft = np.where(votes < PASSES, pack_soft(predicted, np.zeros_like(predicted), 25 * votes), 0)
    parts = {LABELS: predicted, ".votes.nii.gz": votes} | ({SOFT_LABELS: soft} if options.get("soft") else {})
    for suffix, array in parts.items():
        write_volume(entry.file(suffix), array, header_for(SHAPE, AFFINE, array.dtype))
    entry.save(list(parts), {"passes": PASSES})
    record = results.shard("pseudo_labels", "tumor", SHARD)
    write_csv(record, ["case", "file"], [{"case": "a", "file": results.relative(entry.file(LABELS))}])
    base = None
    if first_look is not None:
        base, original[first_look] = "first", IGNORE_VALUE
        write_volume(results.root / "store/first.nii.gz", original, header_for(SHAPE, AFFINE, original.dtype))
        row = {"case": "a", "file": "store/first.nii.gz", "labels_present": " ".join(map(str, voxels))}
        write_csv(results.collected("completed_labels", base), list(row), [row])
    output = results.shard("completed_labels", "tumor", SHARD)
    complete(CompletionJob(results, "tumor", base, settings, config.label_map.names), SHARD, output)
    made = read_csv(output)[0]
    return read_labels(results.root / made["file"]).array, made


@pytest.mark.parametrize(
    ("options", "place", "value"),
    [
        ({}, OUTSIDE, 0),
        ({"conflict_policy": "ignore"}, OUTSIDE, IGNORE_VALUE),
        ({}, SPECK, SPLEEN),
        ({"min_component_ml": {"spleen": 1.5}}, SPECK, 0),
        ({"min_component_ml": {"spleen": 0.5}}, SPECK, SPLEEN),
        ({}, DOUBTFUL, SPLEEN),
        ({"min_agreement": 0.6}, DOUBTFUL, IGNORE_VALUE),
        ({"min_agreement": 0.4}, DOUBTFUL, SPLEEN),
        ({}, SURE, 0),
        ({"unmarked_tumors": "tumor"}, UNSURE, TUMOR),
        ({"unmarked_tumors": "ignore"}, SURE, IGNORE_VALUE),
        ({"unmarked_tumors": "if_sure"}, SURE, TUMOR),
        ({"unmarked_tumors": "if_sure"}, UNSURE, IGNORE_VALUE),
        ({"unmarked_tumors": "if_sure", "min_tumor_agreement": 0.2}, UNSURE, TUMOR),
        ({"unmarked_tumors": "tumor"}, BESIDE, 0),
        ({"unmarked_tumors": "tumor"}, MARKED, TUMOR),
    ],
)
def test_an_option_does_to_the_voxels_what_it_says(tmp_path, options, place, value):
    labels, _ = completed(tmp_path, **options)
    assert np.unique(labels[place]).tolist() == [value]


@pytest.mark.parametrize(
    ("option", "value"), [("keep_organ", LIVER), ("ignore", IGNORE_VALUE), ("tumor", TUMOR), ("if_sure", TUMOR)]
)
def test_a_tumor_inside_an_annotated_organ_is_what_the_option_says(tmp_path, option, value):
    labels, made = completed(tmp_path, without_tumor=True, tumor_inside_organs=option)
    assert np.unique(labels[INSIDE]).tolist() == [value]
    assert int(made["tumor_inside_liver"]) == labels[INSIDE].size


def test_a_second_look_decides_what_the_first_ignored_and_not_what_the_annotation_ignores(tmp_path):
    labels, _ = completed(tmp_path, ignored=SURE, first_look=UNSURE, unmarked_tumors="tumor")
    assert np.unique(labels[SURE]).tolist() == [IGNORE_VALUE]
    assert np.unique(labels[UNSURE]).tolist() == [TUMOR]


@pytest.mark.parametrize(
    ("policy", "hidden_in"), [({}, {}), ({"tumor_inside_organs": "tumor"}, {str(TUMOR): (STOMACH,)})]
)
def test_the_organs_that_a_tumor_can_be_in_are_settings_where_a_policy_asks(policy, hidden_in):
    organs = [label.name for label in config_of().label_map.organs]
    for places, found in ((["stomach"], hidden_in), (organs, {})):
        labels = [{**one.to_json(), "hidden_in": places * (one.name == "tumor")} for one in config_of().labels]
        config = Config.load([RECIPE], {"labels": labels, "completions": {"tumor": policy}})
        assert config.completion_settings("tumor").hidden_in == found


def test_labels_of_a_second_look_are_made_again_for_another_annotation(tmp_path):
    results, names = Results(tmp_path), []
    for policy in ("keep_original", "tumor"):
        config = Config.load([RECIPE], {"completions": {"tumor": {"unmarked_tumors": policy}}})
        folder = completion_folder(results, config.completion_settings("tumor"))
        cases = [Case("a", "a", "l", "training", {}, "tumor", image_id="i", label_id=one) for one in ("one", "two")]
        names.append([completed_entry(folder, case, "p", {"a": {"case": "a", "file": "f"}}).name for case in cases])
    assert names[0][0] == names[0][1]
    assert names[1][0] != names[1][1]


def test_soft_labels_lie_beside_labels_that_they_do_not_change(tmp_path):
    plain, _ = completed(tmp_path / "plain")
    labels, made = completed(tmp_path / "soft", soft=True)
    assert np.array_equal(labels, plain)
    results = Results(tmp_path / "soft" / "results")
    file = results.root / made["file"]
    first, second, share = unpack_soft(read_volume(soft_file(file)).array)
    assert (first[DOUBTFUL], second[DOUBTFUL], share[DOUBTFUL]) == (SPLEEN, 0, 100)
    assert np.flatnonzero(share).tolist() == [np.ravel_multi_index(DOUBTFUL, SHAPE)], "the tumors are annotated"
    entry = results.entry(made["file"])
    soft_file(file).unlink()
    assert entry.broken_files(entry.metadata()) == [soft_file(file)]


def test_a_speck_is_background_for_certain(tmp_path):
    _, made = completed(tmp_path, soft=True, min_component_ml={"spleen": 1.5})
    assert not read_volume(soft_file(tmp_path / "results" / made["file"])).array.any()


def test_specks_and_unsure_voxels_are_counted(tmp_path):
    labels, made = completed(tmp_path, min_component_ml={"spleen": 1.5}, min_agreement=0.6)
    assert int(made["specks_spleen"]) == 2, "the doubtful voxel is a speck, too"
    assert labels[SPECK] == labels[DOUBTFUL] == int(made["unsure_background"]) == 0
    _, made = completed(tmp_path / "other", min_agreement=0.6)
    assert int(made["unsure_spleen"]) == 1


ABSENT = Case("a", "a.nii.gz", "l.nii.gz", "training", {LIVER: 5}, "tumor", SHAPE, (1.0, 1.0, 1.0))


def config_of(**options):
    row = {"category": "tumor", "teacher": "organ_teacher", **options}
    return Config.load([RECIPE], {"completions": {"tumor": row}})


def test_what_counts_as_annotated_is_what_is_there_in_the_base_or_what_the_settings_list():
    base = {"a": {"case": "a", "file": "f", "labels_present": f"{LIVER} {STOMACH}"}}
    assert annotated_labels("present", ABSENT, {}) == [LIVER]
    assert annotated_labels("present", ABSENT, base) == [LIVER, STOMACH]
    listed = config_of(annotated=["spleen", "liver"]).completion_settings("tumor").annotated
    assert annotated_labels(listed, ABSENT, {}) == annotated_labels(listed, ABSENT, base) == [LIVER, SPLEEN]
    with pytest.raises(StoreError, match="is not in the record of the completion"):
        annotated_labels("present", ABSENT, {"b": base["a"]})


@pytest.mark.parametrize(("options", "extras"), [({}, NO_EXTRAS), ({"soft": True}, Extras(soft=True))])
def test_a_teacher_makes_what_the_completion_asks_for(tmp_path, options, extras):
    results = Results(tmp_path)
    write_cases(results.cases, [ABSENT])
    asked = config_of(**options).pseudo_label_settings("tumor")
    assert category_shard(results, asked, SHARD) == [(ABSENT, extras)]


def test_where_nothing_is_annotated_no_class_is_dropped(tmp_path):
    labels, record = completed(tmp_path, healthy=True, conflict_policy="ignore")
    assert np.array_equal(labels, volumes()[1])
    assert not any(int(value) for name, value in record.items() if name.startswith("dropped_"))


def test_a_class_that_is_listed_as_annotated_and_absent_stays_absent(tmp_path):
    labels, record = completed(tmp_path, annotated=["liver", "spleen", "tumor"])
    assert labels[SPECK] == labels[DOUBTFUL] == 0
    assert int(record["dropped_spleen"]) == 2


@pytest.mark.parametrize("change", ["shift", "flip", "shape"])
def test_a_label_of_another_geometry_is_refused(tmp_path, change):
    shape, affine = SHAPE, AFFINE.copy()
    if change == "shift":
        affine[0, 3] = 10
    elif change == "flip":
        affine[1, 1] *= -1
    else:
        shape = (*SHAPE[:2], SHAPE[2] - 1)
    with pytest.raises(CasesFailedError, match="labels of different geometry cannot be merged"):
        completed(tmp_path, drawn_on=(shape, affine))


@pytest.mark.parametrize("options", [{}, {"first_look": UNSURE, "unmarked_tumors": "tumor"}])
def test_a_label_that_changed_after_the_scan_is_not_merged(tmp_path, monkeypatch, options):
    usable_cases, done = module.usable_cases, []

    def changed(*given):
        if not done:
            done.append(1)
            volume = read_volume(tmp_path / "label.nii.gz")
            write_volume(tmp_path / "label.nii.gz", np.roll(volume.array, 1, 0), volume.header)
        return usable_cases(*given)

    monkeypatch.setattr(module, "usable_cases", changed)
    with pytest.raises(CasesFailedError, match="has changed since the cohort was read"):
        completed(tmp_path, **options)


def test_a_completed_label_has_its_images_header(tmp_path):
    moved = AFFINE.copy()
    moved[0, 3] = 0.05
    completed(tmp_path, drawn_on=(SHAPE, moved))
    (path,) = (tmp_path / "results/store/completed_labels").glob("*/*.nii.gz")
    assert np.array_equal(read_volume(path).geometry.affine, AFFINE)


def test_the_agreement_is_the_mean_of_the_classes_that_the_passes_hold(tmp_path, monkeypatch):
    written = write_csv

    def with_agreement(path, columns, rows):
        if path.parts[-3] == "pseudo_labels":
            more = {"agreement_liver": 0.9, "agreement_spleen": 0.7, "agreement_tumor": None}
            columns, rows = [*columns, *more], [one | more for one in rows]
        written(path, columns, rows)

    monkeypatch.setattr(sys.modules[__name__], "write_csv", with_agreement)
    _, made = completed(tmp_path)
    assert float(made["agreement"]) == pytest.approx(0.8)


def test_a_record_of_an_earlier_version_has_more_columns_and_is_gathered(tmp_path):
    _, made = completed(tmp_path)
    results, config = Results(tmp_path / "results"), config_of()
    write_csv(results.shard("completed_labels", "tumor", SHARD), ["change", *made], [{"change": "", **made}])
    job = CompletionJob(results, "tumor", None, config.completion_settings("tumor"), config.label_map.names)
    output = results.collected("completed_labels", "tumor")
    collect_completed(job, 1, output, output.with_name("confusion.csv"))
    assert read_csv(output) == [made]
