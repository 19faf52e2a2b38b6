"""Every fault that a file or a case can have: made once each, found, named, and no good neighbor lost."""

import contextlib
import gzip
import os
import shutil
import tempfile
from pathlib import Path
from typing import get_args

import nibabel as nib
import numpy as np
import pytest
from cohorts import AFFINE, SETTINGS, SHAPE, changed, image_array, label_array, write
from faults import flip
from places import REPOSITORY

from flare23_lib.config.cohort_models import QualityIssues
from flare23_lib.dataset.image_info import read_info
from flare23_lib.dataset.quality import QUARANTINE
from flare23_lib.dataset.scan import scan_cohort
from flare23_lib.dataset.summary import format_scan, write_scan
from flare23_lib.errors import ImageError
from flare23_lib.io.nifti import read_labels
from flare23_lib.io.tables import read_csv


def image(cohort):
    return cohort.image_path("a")


def label(cohort):
    return cohort.label_path("a")


def change_bytes(path, change):
    path.write_bytes(change(path.read_bytes()))


def change_stream(path, change):
    """Change what is inside the gzip stream, and pack it again as a whole one."""
    path.write_bytes(gzip.compress(change(gzip.decompress(path.read_bytes()))))


def change_header(path, **fields):
    def change(raw):
        header = nib.Nifti1Header(raw[:348], check=False)
        for name, value in fields.items():
            header[name] = value
        return header.binaryblock + raw[348:]

    change_stream(path, change)


def save(path, array, affine=AFFINE, kind=nib.Nifti1Image, **header):
    """Write with nibabel: an array (x, y, z) of any type and number of axes."""
    volume = kind(array, affine)
    for name, value in header.items():
        volume.header[name] = value
    nib.save(volume, path)


def change_both(cohort, **fields):
    change_header(image(cohort), **fields)
    change_header(label(cohort), **fields)


def sheared(degrees):
    affine = AFFINE.copy()
    affine[1, 2] = 5 * np.sin(np.radians(degrees))
    affine[2, 2] = 5 * np.cos(np.radians(degrees))
    return affine


def save_sheared(cohort, degrees):
    """Axes that only an sform can hold."""
    for path, array in ((image(cohort), image_array(1)), (label(cohort), label_array(1, 14))):
        volume = nib.Nifti1Image(array.T, sheared(degrees))
        volume.set_sform(sheared(degrees), code=1)
        volume.set_qform(None, code=0)
        nib.save(volume, path)


def save_pair(cohort, shape, spacing):
    """An image and a label of some shape (z, y, x) and spacing (x, y, z) in mm."""
    affine = np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])
    write(image(cohort), np.random.default_rng(0).integers(-1000, 500, shape).astype(np.int16), affine)
    labels = np.zeros(shape, np.uint8)
    labels.ravel()[:2] = 1, 14
    write(label(cohort), labels, affine)


def save_rescaled(cohort, dtype, slope=None, inter=0):
    """Labels as nibabel saves floats under an integer header: spread over the range of the type."""
    write(label(cohort), label_array(3, 13).astype(dtype))
    old = nib.load(label(cohort))
    nib.save(nib.Nifti1Image(old.get_fdata(), old.affine, old.header), label(cohort))
    back = nib.load(label(cohort))
    assert back.dataobj.slope != 1
    assert back.get_fdata().max() != 13 or back.get_fdata().T.ravel()[0] != 3


def write_header(path, dim, datatype=4, bitpix=16):
    """A NIfTI-2 header alone, which claims any size, and a few voxels."""
    header = nib.Nifti2Header()
    header["dim"] = [3, *dim, 1, 1, 1, 1]
    header["datatype"], header["bitpix"] = datatype, bitpix
    header["vox_offset"], header["sform_code"] = 544, 1
    header["pixdim"][1:4] = 1
    header["srow_x"], header["srow_y"], header["srow_z"] = np.eye(4)[:3]
    path.write_bytes(gzip.compress(header.binaryblock.ljust(544, b"\0") + bytes(1000)))


def save_scaled(cohort):
    write(label(cohort), label_array(1, 7))
    change_header(label(cohort), scl_slope=2, scl_inter=0)


def save_large_with_many_values(cohort):
    values = np.arange(-1000, 1000, dtype=np.int16).reshape(10, 10, 20)
    write(image(cohort), values)
    write(label(cohort), values + 1000)


def with_nan():
    array = image_array(1).astype(np.float32)
    array[1, 1, 1] = np.nan
    return array


FLIPPED = np.diag([-2.0, 2.0, 5.0, 1.0])
MOVED_BY_ONE = np.array([[0, 0, 0, 1], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
MOVED = AFFINE + 3 * MOVED_BY_ONE
TURNED = np.array([[0, 1, 0, 0], [-1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
RGB = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])

FAULTS = [
    ("text under an image's name", "not_nifti", lambda c: image(c).write_text("not an image at all")),
    ("gzip of something else", "not_nifti", lambda c: image(c).write_bytes(gzip.compress(b"hello" * 200))),
    ("header cut off", "not_nifti", lambda c: change_stream(image(c), lambda raw: raw[:200])),
    ("unknown data type", "not_nifti", lambda c: change_header(image(c), datatype=9999)),
    ("header of a pair of files", "not_nifti", lambda c: change_header(image(c), magic=b"ni1")),
    ("empty image", "empty_file", lambda c: image(c).write_bytes(b"")),
    ("empty label", "empty_file", lambda c: label(c).write_bytes(b"")),
    ("image cut short", "truncated_gzip", lambda c: change_bytes(image(c), lambda raw: raw[:-20])),
    ("label cut short by a byte", "truncated_gzip", lambda c: change_bytes(label(c), lambda raw: raw[:-1])),
    ("checksum flipped", "corrupt_gzip", lambda c: flip(label(c), -7, 16)),
    ("too few voxels", "wrong_length", lambda c: change_stream(image(c), lambda raw: raw[:-10])),
    ("too many voxels", "wrong_length", lambda c: change_stream(label(c), lambda raw: raw + b"more")),
    ("data after the stream", "trailing_data", lambda c: change_bytes(image(c), lambda raw: raw + b"garbage")),
    ("2-D", "not_3d", lambda c: save(image(c), np.ones((6, 5), np.int16))),
    ("4-D", "not_3d", lambda c: save(image(c), np.ones((6, 5, 4, 2), np.int16))),
    ("RGB", "unsupported_type", lambda c: save(image(c), np.zeros((6, 5, 4), RGB))),
    ("complex", "unsupported_type", lambda c: save(image(c), np.ones((6, 5, 4), np.complex64))),
    ("zero spacing", "bad_spacing", lambda c: change_header(image(c), pixdim=[1, 2, 0, 5, 0, 0, 0, 0])),
    ("negative spacing", "bad_spacing", lambda c: change_header(image(c), pixdim=[1, 2, 2, -5, 0, 0, 0, 0])),
    ("NaN spacing", "bad_spacing", lambda c: change_header(image(c), pixdim=[1, np.nan, 2, 5, 0, 0, 0, 0])),
    ("2^63 voxels along an axis", "wrong_length", lambda c: write_header(image(c), (2**63 - 1, 2, 2))),
    ("a product beyond 64 bits", "wrong_length", lambda c: write_header(label(c), (2**32, 2**32, 2), 2, 8)),
    ("10^12 voxels", "wrong_length", lambda c: write_header(image(c), (10**4, 10**4, 10**4))),
    ("a localizer", "few_slices", lambda c: save_pair(c, (1, 64, 64), (2, 2, 5))),
    ("a localizer stored the other way", "few_slices", lambda c: save_pair(c, (64, 64, 1), (5, 2, 2))),
    ("7 slices", "few_slices", lambda c: save_pair(c, (7, 64, 64), (2, 2, 5))),
    ("placeholder spacing", "placeholder_spacing", lambda c: save_pair(c, (24, 8, 9), (1, 1, 1))),
    ("meters for millimeters", "implausible_size", lambda c: save_pair(c, (24, 48, 48), (8000, 8000, 10000))),
    ("a field of view of 2.4 m", "implausible_size", lambda c: save_pair(c, (8, 8, 8), (200, 200, 200))),
    ("slices within 24 nm", "implausible_size", lambda c: save_pair(c, (24, 8, 8), (8, 8, 1e-6))),
    ("1 mm in all", "implausible_size", lambda c: save_pair(c, (24, 48, 48), (0.02, 0.02, 0.02))),
    ("a long and a wide body", "implausible_size", lambda c: save_pair(c, (30, 13, 30), (100, 100, 90))),
    ("singular direction", "singular_axes", lambda c: change_header(image(c), srow_y=[0, 0, 0, 0])),
    ("direction that is NaN", "singular_axes", lambda c: change_header(image(c), srow_x=[np.nan, 0, 0, 0])),
    ("a little sheared", "sheared_axes", lambda c: save_sheared(c, 0.5)),
    ("much sheared", "strongly_sheared_axes", lambda c: save_sheared(c, 12)),
    ("qform and sform apart", "qform_sform_disagree", lambda c: change_both(c, qoffset_x=40.0)),
    ("quaternion of no rotation", "qform_sform_disagree", lambda c: change_both(c, quatern_b=0.9, quatern_c=0.9)),
    ("no codes", "no_orientation", lambda c: change_both(c, qform_code=0, sform_code=0)),
    ("pixdim against affine", "pixdim_disagrees",
     lambda c: change_both(c, pixdim=[1, 2, 2, 2.5, 0, 0, 0, 0], qform_code=0)),
    ("meters", "not_in_millimeters",
     lambda c: change_both(c, xyzt_units=1, pixdim=[1, 0.002, 0.002, 0.005, 0, 0, 0, 0], qform_code=0,
                           srow_x=[-0.002, 0, 0, 0], srow_y=[0, -0.002, 0, 0], srow_z=[0, 0, 0.005, 0])),
    ("NIfTI-2", "nifti2", lambda c: save(image(c), image_array(1).T, kind=nib.Nifti2Image)),
    ("x.nii beside x.nii.gz", "uncompressed_twin",
     lambda c: write(image(c).with_suffix(""), image_array(2))),
    ("NaN voxel", "not_finite", lambda c: write(image(c), with_nan())),
    ("infinite voxel", "not_finite", lambda c: write(image(c), np.where(np.isnan(with_nan()), np.inf, with_nan()))),
    ("constant image", "constant_image", lambda c: write(image(c), np.full(SHAPE, -1000, np.int16))),
    ("windowed to 0..255", "not_hounsfield",
     lambda c: write(image(c), np.random.default_rng(0).integers(0, 256, SHAPE).astype(np.uint8))),
    ("normalized", "not_hounsfield",
     lambda c: write(image(c), np.random.default_rng(0).normal(size=SHAPE).astype(np.float32))),
    ("half labels", "fractional_label_values", lambda c: write(label(c), label_array(1).astype(np.float32) / 2)),
    ("NaN labels", "fractional_label_values",
     lambda c: write(label(c), np.where(label_array(1) == 1, np.nan, 0).astype(np.float32))),
    ("labels scaled to halves", "fractional_label_values",
     lambda c: change_header(label(c), scl_slope=0.5, scl_inter=0)),
    ("labels rescaled to uint8", "scaled_label", lambda c: save_rescaled(c, np.uint8)),
    ("labels rescaled to int16", "scaled_label", lambda c: save_rescaled(c, np.int16)),
    ("labels rescaled to uint16", "scaled_label", lambda c: save_rescaled(c, np.uint16)),
    ("labels a little off", "scaled_label",
     lambda c: write(label(c), label_array(1, 14).astype(np.float32) * np.float32(1.00002))),
    ("labels off by more", "fractional_label_values",
     lambda c: write(label(c), label_array(1, 14).astype(np.float32) * np.float32(1.002))),
    ("255 for doubtful voxels", "ignored_voxels", lambda c: c.label("a", 1, 14, 255)),
    ("255 in many bytes", "ignored_voxels",
     lambda c: write(label(c), np.where(label_array(1, 9) == 9, 255, label_array(1, 9)).astype(np.int32))),
    ("nothing but 255", "empty_label", lambda c: c.label("a", 255)),
    ("negative labels", "negative_label_values", lambda c: write(label(c), -label_array(1).astype(np.int16))),
    ("value out of the map", "unknown_label_values", lambda c: c.label("a", 1, 77)),
    ("a CT as its label", "unknown_label_values", save_large_with_many_values),
    ("scaled labels", "scaled_label", save_scaled),
    ("all-zero label", "empty_label", lambda c: c.label("a")),
    ("other shape", "shape_mismatch", lambda c: write(label(c), np.ones((4, 5, 7), np.uint8))),
    ("flipped axis", "orientation_mismatch", lambda c: c.label("a", 1, 14, affine=FLIPPED)),
    ("moved", "affine_mismatch", lambda c: c.label("a", 1, 14, affine=MOVED)),
    ("other spacing", "affine_mismatch", lambda c: c.label("a", 1, 14, affine=np.diag([-2.0, -2.0, 6.0, 1.0]))),
    ("an origin a twentieth of a voxel off", "rounded_affine",
     lambda c: c.label("a", 1, 14, affine=AFFINE + MOVED_BY_ONE * 0.1)),
    ("axes rounded to 2 decimals", "rounded_affine", lambda c: c.label("a", 1, 14, affine=AFFINE + TURNED * 0.006)),
    ("axes turned by a third of a voxel at the corner", "affine_mismatch",
     lambda c: c.label("a", 1, 14, affine=AFFINE + TURNED * 0.12)),
    ("twice in the labeled folders", "duplicate_case", lambda c: c.image("a", folder="imagesTr2200/again")),
    ("in two kinds of folders", "duplicate_case", lambda c: c.image("a", folder="unlabelTr1800")),
    ("label twice", "duplicate_case", lambda c: c.label("a", 1, folder="labelsTr2200/again")),
    ("image without label", "image_without_label", lambda c: label(c).unlink()),
    ("label without image", "label_without_image", lambda c: image(c).unlink()),
    ("labels that fit no category", "no_category", lambda c: c.label("a", 9)),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "spoil"), [row[1:] for row in FAULTS], ids=[row[0] for row in FAULTS])
def test_a_fault_is_found_and_named_and_its_neighbors_stay(cohort, kind, spoil):
    spoil(cohort)
    found = cohort.scan()
    assert [(issue.case, issue.kind) for issue in found.issues] == [("a", kind)]
    issue = found.issues[0]
    assert issue.severity == dict(SETTINGS.quality_issues)[kind]
    assert Path(issue.file).name.startswith("a")
    assert issue.message
    assert issue.remedy
    assert [case.case for case in found.cases if case.usable and case.case != "a"] == ["b", "c", "d", "v"]
    known = [case for case in found.cases if case.case == "a"]
    assert all(case.usable != (issue.severity == QUARANTINE) for case in known)


def test_a_label_of_an_unlabeled_image_is_not_called_one_without_an_image(cohort):
    cohort.label("d", 1)
    cohort.label("u", 1, folder="validation-gt")
    assert [(issue.case, issue.message) for issue in cohort.scan().issues] == [
        ("d", "`images` fits no image of that name"),
        ("u", "`validation_images` fits no image of that name"),
    ]


def test_every_kind_of_fault_is_made_by_a_test():
    elsewhere = {
        "cannot_be_read", "duplicate_image", "validation_image_in_training", "other_file_name", "overlapping_masks",
        "unclear_sides", "unlike_other_sources", "too_large", "resliced_copy", "name_too_long",
        "label_in_no_case", "vanished_mask",
    }  # fmt: skip
    assert {kind for _, kind, _ in FAULTS} | elsewhere == set(QualityIssues.model_fields)


@pytest.mark.parametrize("step", [11, pytest.param(1, marks=pytest.mark.slow)])
def test_every_flipped_bit_of_a_stream_is_found_unless_the_content_is_the_same(cohort, step):
    raw = image(cohort).read_bytes()
    whole = gzip.decompress(raw)
    found, places = 0, range(0, len(raw) * 8, step)
    for place in places:
        changed = bytearray(raw)
        changed[place // 8] ^= 1 << place % 8
        image(cohort).write_bytes(changed)
        info = read_info(image(cohort), False)
        if info.issue:
            assert info.issue in ("corrupt_gzip", "truncated_gzip", "not_nifti", "trailing_data"), place
            found += 1
        else:
            assert gzip.decompress(changed) == whole, place
    assert found > 7 / 8 * len(places)


@pytest.mark.parametrize(
    "affine",
    [np.round(AFFINE, 6), AFFINE + MOVED_BY_ONE * 0.0011, AFFINE + MOVED_BY_ONE * 0.01, AFFINE + TURNED * 0.0009],
)
def test_a_label_within_a_hundredth_of_a_voxel_lies_on_its_image(cohort, affine):
    cohort.label("a", 1, 14, affine=affine)
    assert cohort.scan().issues == []


def test_geometries_are_compared_at_the_corners_where_a_small_turn_is_large(cohort):
    turned = AFFINE + TURNED * 0.0009
    shape = (8, 512, 512)
    write(image(cohort), np.random.default_rng(0).integers(-1000, 500, shape).astype(np.int16))
    write(label(cohort), np.ones(shape, np.uint8), turned)
    (fault,) = [fault for fault in cohort.scan().issues if fault.kind != "qform_sform_disagree"]
    assert fault.kind == "affine_mismatch"
    assert "0.325 voxels" in fault.message  # 511 * sqrt(2) * 0.0009 mm of 2 mm


def test_rescaled_labels_are_read_as_the_scan_counts_them(cohort):
    save_rescaled(cohort, np.uint8)
    case = cohort.scan().cases[0]
    assert case.voxels == {3: 1, 13: 1}
    assert sorted(np.unique(read_labels(label(cohort)).array).tolist()) == [0, 3, 13]


def test_values_between_whole_numbers_are_no_rounding_however_small_the_slope(cohort):
    write(label(cohort), np.resize(np.arange(120, dtype=np.uint8), SHAPE))
    change_header(label(cohort), scl_slope=0.05, scl_inter=0)
    (fault,) = cohort.scan().issues
    assert fault.kind == "fractional_label_values"
    assert "scl_slope" in fault.message
    with pytest.raises(ImageError, match="whole"):
        read_labels(label(cohort))


@pytest.mark.parametrize("dtype", [np.int64, np.float64, np.float32, np.uint16, np.int8])
def test_labels_of_any_type_with_whole_values_are_accepted(cohort, dtype):
    write(label(cohort), label_array(1, 14).astype(dtype))
    found = cohort.scan()
    assert found.issues == []
    assert found.cases[0].voxels == {1: 1, 14: 1}


@pytest.mark.parametrize("dtype", [">i2", ">f8"])
def test_labels_of_the_other_byte_order_are_accepted(cohort, dtype):
    header = nib.Nifti1Header(endianness=">")
    nib.save(nib.Nifti1Image(label_array(1, 14).T.astype(dtype), AFFINE, header), label(cohort))
    assert nib.load(label(cohort)).header.endianness == ">"
    found = cohort.scan()
    assert found.issues == []
    assert found.cases[0].voxels == {1: 1, 14: 1}


def test_scaled_labels_count_with_their_scaled_values(cohort):
    save_scaled(cohort)
    assert cohort.scan().cases[0].voxels == {2: 1, 14: 1}


@contextlib.contextmanager
def as_another_user():
    """Work as a user to whom permissions mean something: root reads everything."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_a_file_without_read_permission_is_named(cohort):
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        secret, open_to_all = Path(folder) / "secret.nii.gz", Path(folder) / "open.nii.gz"
        shutil.copy(image(cohort), secret)
        shutil.copy(image(cohort), open_to_all)
        secret.chmod(0)
        open_to_all.chmod(0o644)
        with as_another_user():
            seen = [read_info(path, False) for path in (secret, open_to_all)]
    assert [(info.issue, info.error) for info in seen] == [
        ("cannot_be_read", "cannot be read (Permission denied)"),
        ("", ""),
    ]


def test_a_file_that_became_readable_is_read_again(cohort):
    image(cohort).rename(cohort.root / "away")
    image(cohort).symlink_to(cohort.root / "nowhere")
    assert [issue.kind for issue in cohort.scan().issues] == ["cannot_be_read"]
    image(cohort).unlink()
    (cohort.root / "away").rename(image(cohort))
    assert cohort.scan().issues == []


def test_one_image_under_two_ids_is_found_however_it_is_compressed(cohort):
    raw = gzip.decompress(image(cohort).read_bytes())
    cohort.image_path("e", "unlabelTr1800").parent.mkdir()
    cohort.image_path("e", "unlabelTr1800").write_bytes(gzip.compress(raw, compresslevel=0))
    found = cohort.scan().issues
    assert [(issue.case, issue.kind, issue.severity) for issue in found] == [("e", "duplicate_image", "warn")]
    assert "a" in found[0].message.split()
    header = changed(SETTINGS, scan={"check_images": "header"})
    assert [issue.kind for issue in scan_cohort(cohort.root, header, cohort.memory).issues] == ["duplicate_image"]
    label(cohort).unlink()  # one of the two is left out: the other counts once
    assert [(issue.case, issue.kind) for issue in cohort.scan().issues] == [("a", "image_without_label")]


def test_a_validation_image_never_trains(cohort):
    shutil.copy(cohort.image_path("v", "validation"), cohort.image_path("d", "unlabeledTr1800"))
    shutil.copy(cohort.image_path("v", "validation"), cohort.image_path("e", "unlabeledTr1800"))
    found = cohort.scan()
    kinds = {(issue.case, issue.kind) for issue in found.issues}
    assert {(case, "validation_image_in_training") for case in "de"} <= kinds
    assert [case.case for case in found.cases if not case.usable] == ["d", "e"]


def test_the_distance_between_two_forms_is_in_millimeters_whatever_the_header_counts_in(cohort):
    meters = {"xyzt_units": 1, "pixdim": [1, 0.002, 0.002, 0.005, 0, 0, 0, 0], "srow_x": [-0.002, 0, 0, 0],
              "srow_y": [0, -0.002, 0, 0], "srow_z": [0, 0, 0.005, 0]}  # fmt: skip
    change_both(cohort, **meters, qoffset_x=0.04)
    assert read_info(image(cohort), is_label=False).forms_apart == pytest.approx(40)


def test_images_without_content_are_no_duplicates_of_each_other(cohort):
    lenient = changed(SETTINGS, quality_issues={"constant_image": "warn"})
    for case in ("e", "f"):
        cohort.image(case, folder="unlabeledTr1800")
        write(cohort.image_path(case, "unlabeledTr1800"), np.full(SHAPE, -1000, np.int16))
    found = scan_cohort(cohort.root, lenient, cohort.memory)
    assert [(issue.case, issue.kind) for issue in found.issues] == [("e", "constant_image"), ("f", "constant_image")]


@pytest.mark.parametrize(("kind", "spoil"), [("empty_label", lambda c: c.label("a")),
                                             ("image_without_label", lambda c: label(c).unlink())])  # fmt: skip
def test_a_case_without_labeled_voxels_can_count_as_unlabeled(cohort, kind, spoil):
    spoil(cohort)
    cohort.settings = changed(SETTINGS, quality_issues={kind: "unlabeled"})
    found = cohort.scan()
    assert [(issue.kind, issue.severity) for issue in found.issues] == [(kind, "unlabeled")]
    case = found.cases[0]
    assert (case.category, case.label, case.label_id, case.status) == ("unlabeled", None, "", "warned")


def test_a_severity_can_be_configured(cohort):
    write(image(cohort), np.full(SHAPE, -1000, np.int16))
    cohort.settings = changed(SETTINGS, quality_issues={"constant_image": "warn"})
    assert all(case.usable for case in cohort.scan().cases)


@pytest.mark.parametrize(("limit", "kind"), [(11, "strongly_sheared_axes"), (13, "sheared_axes")])
def test_from_which_angle_axes_are_strongly_sheared_can_be_configured(cohort, limit, kind):
    save_sheared(cohort, 12)
    cohort.settings = changed(SETTINGS, scan={"shear_limit_degrees": limit})
    assert {issue.kind for issue in cohort.scan().issues} == {kind}


def test_faults_are_written_with_file_reason_and_remedy(cohort, tmp_path):
    cohort.label("a", 1, 77)
    save_sheared(cohort, 0.5)
    cohort.label("b", 1, 77)
    write_scan(cohort.scan(), tmp_path / "tables")
    quarantine, warnings = (read_csv(tmp_path / "tables" / name) for name in ("quarantine.csv", "warnings.csv"))
    assert [(row["case"], row["kind"]) for row in quarantine] == [("b", "unknown_label_values")]
    assert [(row["case"], row["kind"]) for row in warnings] == [("a", "sheared_axes")]
    assert all(row["file"] and row["message"] and row["what_to_do"] for row in quarantine + warnings)


def test_the_first_issues_of_each_kind_are_shown_with_what_to_do(cohort):
    for case in "abef":
        cohort.image(case)
        cohort.label(case, 1, 77)
    (cohort.root / "imagesTr2200/notes.nii.gz").write_bytes(b"")
    shown = format_scan(cohort.scan()).splitlines()
    start = shown.index(f"{'unknown_label_values':<32}{4:>8}  quarantine")
    assert [line.split(":")[0] for line in shown[start + 1 : start + 6]] == [
        "  a", "  b", "  e", "  and 1 more, see quarantine.csv", "  what to do",
    ]  # fmt: skip
    assert all("77" in line for line in shown[start + 1 : start + 4])
    assert f"  {cohort.root}/imagesTr2200/notes.nii.gz: is named neither like an image nor like a label" in shown


def test_the_documentation_names_all_kinds_with_their_severities_the_default_first():
    kinds = {name: get_args(field.annotation) for name, field in QualityIssues.model_fields.items()}
    assert {name: severities[0] for name, severities in kinds.items()} == dict(QualityIssues())
    table = [line.split("|")[1:-1] for line in (REPOSITORY / "docs" / "faults.md").read_text().splitlines()
             if line.startswith("| `")]  # fmt: skip
    documented = {row[0].strip(" `"): tuple(row[2].strip().split(", ")) for row in table}
    assert documented == kinds
