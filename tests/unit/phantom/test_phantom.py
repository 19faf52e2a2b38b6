from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from flare23_lib.cli import main
from flare23_lib.errors import CohortError
from flare23_lib.io.images import read_header
from flare23_lib.io.nifti import read_labels, read_volume
from flare23_lib.phantom import (
    FIVE_ORGANS,
    FLARE23_VALUES,
    ORGANS,
    PhantomLayout,
    draw_phantom,
    plan_cohort,
    write_cohort,
)

SMALL = PhantomLayout(coarseness=1.8)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cohort")
    write_cohort(folder, cases=8, validation=2, seed=3, layout=SMALL)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def values_in(path: Path) -> set[int]:
    return set(np.unique(read_labels(path).array).tolist()) - {0}


def values_of(names: tuple[str, ...]) -> set[int]:
    return {FLARE23_VALUES[name] for name in names}


def labels_of(cohort: Path, kind: str) -> list[Path]:
    return [
        cohort / f"labelsTr2200/FLARE23_{case.number:04d}.nii.gz"
        for case in plan_cohort(8, 2, PhantomLayout())
        if case.kind == kind
    ]


def center_of(labels: np.ndarray, affine: np.ndarray, name: str) -> np.ndarray:
    z, y, x = (places.mean() for places in np.nonzero(labels == FLARE23_VALUES[name]))
    return (affine @ [x, y, z, 1])[:3]


def test_files_lie_where_flare23_has_them(cohort):
    labeled, unlabeled = [f"{number:04d}" for number in range(1, 6)], ["2201", "2202", "2203"]
    assert set(contents(cohort)) == {
        *(f"imagesTr2200/FLARE23_{number}_0000.nii.gz" for number in labeled),
        *(f"labelsTr2200/FLARE23_{number}.nii.gz" for number in labeled),
        *(f"unlabelTr1800/FLARE23_{number}_0000.nii.gz" for number in unlabeled),
        *(f"truth/FLARE23_{number}.nii.gz" for number in labeled + unlabeled),
        *(f"validation/FLARE23Ts_{number}_0000.nii.gz" for number in ("0001", "0003")),
        *(f"validation-gt/FLARE23Ts_{number}.nii.gz" for number in ("0001", "0003")),
    }


@pytest.mark.parametrize(
    ("cases", "tumor", "all_organs", "five_organs", "unlabeled"),
    [(4, 1, 1, 1, 1), (6, 2, 1, 1, 2), (32, 11, 4, 5, 12)],
)
def test_categories_keep_their_proportions(cases, tumor, all_organs, five_organs, unlabeled):
    kinds = [case.kind for case in plan_cohort(cases, 0, PhantomLayout())]
    assert sum(kind.startswith("tumor") for kind in kinds) == tumor
    assert kinds.count("all_organs") == all_organs
    assert kinds.count("five_organs") == five_organs
    assert kinds.count("unlabeled") == unlabeled


def test_an_eighth_of_the_cases_has_all_organs():
    for cases in range(4, 100):
        kinds = [case.kind for case in plan_cohort(cases, 0, PhantomLayout())]
        assert kinds.count("all_organs") >= max(1, cases // 8), cases


def test_a_larger_cohort_holds_the_smaller_one():
    small = plan_cohort(6, 2, PhantomLayout())
    assert set(small) <= set(plan_cohort(40, 6, PhantomLayout()))


def test_no_two_training_cases_have_one_number():
    numbers = [case.number for case in plan_cohort(3520, 0, PhantomLayout())]
    assert len(set(numbers)) == 3520
    with pytest.raises(CohortError, match="3521 cases have 2201 labeled ones; the layout has numbers for 2200"):
        plan_cohort(3521, 0, PhantomLayout())


def test_fewer_than_four_cases_are_refused(tmp_path):
    with pytest.raises(CohortError, match="at least 4"):
        write_cohort(tmp_path, cases=3)


def test_the_same_seed_gives_the_same_bytes_with_any_number_of_processes(cohort, tmp_path):
    options = {"cases": 8, "validation": 2, "seed": 3, "coarseness": SMALL.coarseness, "processes": 2}
    assert main(["phantoms", f"--output={tmp_path}", *(f"--{name}={value}" for name, value in options.items())]) == 0
    assert contents(tmp_path) == contents(cohort)


def test_another_seed_gives_other_images(cohort, tmp_path):
    write_cohort(tmp_path, cases=4, validation=0, seed=4, layout=SMALL)
    name = "imagesTr2200/FLARE23_0001_0000.nii.gz"
    assert (tmp_path / name).read_bytes() != (cohort / name).read_bytes()


def test_every_file_of_a_case_has_one_geometry_and_its_type(cohort):
    for label in sorted((cohort / "labelsTr2200").iterdir()):
        image = read_volume(cohort / "imagesTr2200" / label.name.replace(".nii", "_0000.nii"))
        truth = read_volume(cohort / "truth" / label.name)
        assert image.array.dtype == np.int16
        assert truth.array.dtype == np.uint8
        assert image.geometry.difference(truth.geometry) is None
        assert image.geometry.difference(read_header(label)[0]) is None


def test_labels_agree_with_the_truth_wherever_they_are_not_background(cohort):
    for path in (cohort / "labelsTr2200").iterdir():
        labels, truth = read_labels(path).array, read_labels(cohort / "truth" / path.name).array
        marked = labels > 0
        assert marked.any()
        assert (labels[marked] == truth[marked]).all()


def test_an_annotated_structure_is_annotated_whole(cohort):
    for path in (cohort / "labelsTr2200").iterdir():
        labels, truth = read_labels(path).array, read_labels(cohort / "truth" / path.name).array
        assert np.isin(truth[labels == 0], np.unique(labels[labels > 0])).sum() == 0


def test_each_category_holds_its_structures(cohort):
    tumor, five = {FLARE23_VALUES["tumor"]}, values_of(FIVE_ORGANS)
    assert [values_in(path) for path in labels_of(cohort, "tumor_only")] == [tumor] * 2
    assert [values_in(path) for path in labels_of(cohort, "five_organs")] == [five]
    assert [values_in(path) for path in labels_of(cohort, "all_organs")] == [values_of(ORGANS)]
    for path in labels_of(cohort, "tumor_and_organs"):
        assert tumor < values_in(path) <= tumor | five


def test_cases_without_marked_tumors_have_none(cohort):
    for kind in ("five_organs", "all_organs"):
        for path in labels_of(cohort, kind):
            assert FLARE23_VALUES["tumor"] not in values_in(cohort / "truth" / path.name)


def test_truth_and_validation_labels_hold_every_organ(cohort):
    for path in [*(cohort / "truth").iterdir(), *(cohort / "validation-gt").iterdir()]:
        assert values_in(path) >= values_of(ORGANS) - {FLARE23_VALUES["gallbladder"]}


def test_both_directions_are_stored_and_the_liver_is_at_the_patients_right_in_both(cohort):
    directions = set()
    for path in (cohort / "truth").iterdir():
        truth = read_labels(path)
        affine = truth.geometry.affine
        directions.add(tuple(np.sign(np.diag(affine)).astype(int).tolist()))
        liver, spleen, right_kidney, left_kidney, stomach, aorta = (
            center_of(truth.array, affine, name)
            for name in ("liver", "spleen", "right_kidney", "left_kidney", "stomach", "aorta")
        )
        # the world is RAS+: x grows to the patient's right, y to the front
        assert liver[0] > aorta[0] > spleen[0]
        assert right_kidney[0] > aorta[0] > left_kidney[0]
        assert stomach[1] > aorta[1]
    assert directions == {(1, 1, 1, 1), (-1, -1, 1, 1)}


def test_a_flipped_scan_shows_the_same_anatomy_in_the_world():
    arguments = {"tumors": True, "coarseness": 2.0}
    plain_scan = draw_phantom(np.random.default_rng(5), **arguments)
    flipped_scan = draw_phantom(np.random.default_rng(5), flipped=True, **arguments)
    plain, plain_affine = plain_scan.labels, plain_scan.affine
    flipped, flipped_affine = flipped_scan.labels, flipped_scan.affine
    back = flipped[:, ::-1, ::-1]
    organ_voxels = (plain > 0) & (plain < 14) & (back < 14)
    assert (plain[organ_voxels] == back[organ_voxels]).mean() > 0.99
    assert np.allclose(np.diag(flipped_affine), np.diag(plain_affine) * [-1, -1, 1, 1])
    assert np.allclose(center_of(plain, plain_affine, "liver"), center_of(flipped, flipped_affine, "liver"), atol=5)


def test_organs_have_the_hounsfield_units_of_enhanced_ct():
    phantom = draw_phantom(np.random.default_rng(1), coarseness=1.5)
    image, labels = phantom.image, phantom.labels
    assert image.dtype == np.int16
    assert image.min() >= -1024
    assert -1020 < np.median(image[labels.shape[0] // 2, 0]) < -980
    medians = {name: np.median(image[labels == FLARE23_VALUES[name]]) for name in ORGANS}
    assert 60 < medians["liver"] < 140
    assert medians["gallbladder"] < 40 < medians["pancreas"] < medians["left_kidney"]


def test_a_removed_gallbladder_is_absent():
    labels = draw_phantom(np.random.default_rng(1), gallbladder=False, coarseness=2.0).labels
    assert set(np.unique(labels).tolist()) == values_of(ORGANS) - {FLARE23_VALUES["gallbladder"]} | {0}


def test_small_organs_survive_the_coarse_spacing_of_small_networks():
    for seed in range(3):
        phantom = draw_phantom(np.random.default_rng(seed))
        labels, voxel = phantom.labels, abs(np.linalg.det(phantom.affine[:3, :3]))
        for name in ORGANS:
            assert np.count_nonzero(labels == FLARE23_VALUES[name]) * voxel > 30 * 6 * 5 * 5, name


@pytest.mark.parametrize("gland", ["right_adrenal_gland", "left_adrenal_gland"])
def test_adrenal_glands_lie_in_fat(gland):
    around = []
    for seed in range(4):
        labels = draw_phantom(np.random.default_rng(seed)).labels
        voxels = labels == FLARE23_VALUES[gland]
        around.append(labels[ndimage.binary_dilation(voxels) & ~voxels])
    assert (np.concatenate(around) == 0).mean() > 0.8
    assert (np.concatenate(around) == FLARE23_VALUES["liver"]).mean() < 0.13  # as in FLARE22's label maps


def test_someone_elses_cohort_has_its_own_names_and_numbers(cohort, tmp_path):
    layout = PhantomLayout(
        images="ct/patient{number}.nii.gz",
        labels="masks/patient{number}.nii.gz",
        unlabeled_images="more/patient{number}.nii.gz",
        validation_images="test/patient{number}.nii.gz",
        validation_labels="test-masks/patient{number}.nii.gz",
        truth="truth/patient{number}.nii.gz",
        first_unlabeled=90,
        first_validation=500,
        validation_step=1,
        values={"liver": 7, "right_kidney": 20, "left_kidney": 21, "tumor": 3},
        annotated={"kidneys": ("right_kidney", "left_kidney"), "lesions": ("tumor", "liver")},
        kinds=("kidneys", "lesions"),
        coarseness=SMALL.coarseness,
    )
    write_cohort(tmp_path, cases=4, validation=1, seed=3, layout=layout)
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.gz")} == {
        *(f"{folder}/patient{number}.nii.gz" for folder in ("ct", "masks") for number in (1, 2, 3)),
        *(f"truth/patient{number}.nii.gz" for number in (1, 2, 3, 90)),
        "more/patient90.nii.gz",
        "test/patient500.nii.gz",
        "test-masks/patient500.nii.gz",
    }
    assert values_in(tmp_path / "masks/patient1.nii.gz") == {20, 21}
    assert 3 in values_in(tmp_path / "masks/patient2.nii.gz") <= {3, 7}
    assert values_in(tmp_path / "test-masks/patient500.nii.gz") <= {3, 7, 20, 21}
    same = "unlabelTr1800/FLARE23_2201_0000.nii.gz"
    assert (tmp_path / "more/patient90.nii.gz").read_bytes() == (cohort / same).read_bytes()


def test_tumors_of_a_cohort_that_does_not_know_them_belong_to_their_organ(cohort, tmp_path):
    organs = {name: value for name, value in FLARE23_VALUES.items() if name != "tumor"}
    layout = PhantomLayout(values=organs, kinds=("all_organs", "five_organs"), coarseness=SMALL.coarseness)
    write_cohort(tmp_path, cases=4, validation=2, seed=3, layout=layout)
    name = "validation-gt/FLARE23Ts_0001.nii.gz"
    without, with_tumors = read_labels(tmp_path / name).array, read_labels(cohort / name).array
    tumors = with_tumors == FLARE23_VALUES["tumor"]
    assert tumors.any()
    assert (without[tumors] > 0).all()
    assert (without[~tumors] == with_tumors[~tumors]).all()


def test_a_layout_whose_case_would_hold_no_label_is_refused(tmp_path):
    with pytest.raises(CohortError, match="tumor_only"):
        write_cohort(tmp_path, layout=PhantomLayout(values={"liver": 1}))
