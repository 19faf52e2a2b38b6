import itertools
import tracemalloc

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from faults import flip

from flare23_lib.errors import ImageError
from flare23_lib.io import nifti
from flare23_lib.io.geometry import Geometry
from flare23_lib.io.images import IMAGE_SUFFIXES, read_header, read_image
from flare23_lib.io.orientation import Orientation

AFFINE = np.array([[-0.8, 0, 0, 100.5], [0, -0.7, 0, 90.25], [0, 0, 2.5, -400.125], [0, 0, 0, 1]])


@pytest.fixture
def image(tmp_path):
    array = np.random.default_rng(0).integers(-1000, 1000, (3, 4, 5)).astype(np.int16)
    path = tmp_path / "image.nii.gz"
    nifti.write_volume(path, array, nifti.header_for(array.shape, AFFINE, array.dtype))
    return path, array


def test_what_is_written_reads_back_with_the_same_geometry(image):
    path, array = image
    volume = nifti.read_volume(path)
    assert np.array_equal(volume.array, array)
    assert volume.geometry.shape == (3, 4, 5)
    assert np.allclose(volume.geometry.spacing, (2.5, 0.7, 0.8))
    assert np.array_equal(nib.load(path).get_fdata().T, array)


def test_labels_take_the_images_header_to_the_last_bit(image, tmp_path):
    path, array = image
    source = nib.load(path)
    source.header.set_qform(None, code=0)
    source.header["descrip"] = b"from somewhere"
    source.header["sform_code"] = 2
    nib.save(source, path)
    volume = nifti.read_volume(path)
    nifti.write_volume(tmp_path / "labels.nii.gz", np.ones_like(array, dtype=np.uint8), volume.header)
    written, read = nib.load(tmp_path / "labels.nii.gz").header, nib.load(path).header
    for field in (
        "srow_x",
        "srow_y",
        "srow_z",
        "quatern_b",
        "qoffset_x",
        "pixdim",
        "sform_code",
        "qform_code",
        "descrip",
    ):
        assert written[field].tobytes() == read[field].tobytes()
    assert written.get_data_dtype() == np.uint8


def test_the_same_array_gives_the_same_bytes(image, tmp_path):
    path, array = image
    nifti.write_volume(tmp_path / "again.nii.gz", array, nifti.read_volume(path).header)
    assert (tmp_path / "again.nii.gz").read_bytes() == path.read_bytes()


def test_a_geometry_is_in_millimeters_whatever_the_unit_of_the_file(tmp_path):
    source = nib.Nifti1Image(np.zeros((4, 3, 2), np.int16), np.diag([-500.0, -500.0, 2000.0, 1.0]))
    source.header.set_xyzt_units("micron")
    nib.save(source, tmp_path / "micron.nii.gz")
    volume = nifti.read_volume(tmp_path / "micron.nii.gz")
    assert volume.geometry.spacing == (2.0, 0.5, 0.5)
    assert np.allclose(volume.geometry.affine, np.diag([-0.5, -0.5, 2, 1]), rtol=1e-12, atol=0)
    nifti.write_volume(tmp_path / "copy.nii.gz", volume.array, volume.header)
    assert np.array_equal(nib.load(tmp_path / "copy.nii.gz").affine, source.affine)
    assert read_header(tmp_path / "copy.nii.gz")[0].spacing == (2.0, 0.5, 0.5)


@pytest.mark.parametrize("dtype", [">i2", "<i2", ">f4", "<f4"])
@pytest.mark.parametrize("scaling", [(2.5, 0), (1, -1024), (0.5, 3)])
def test_reading_holds_no_more_than_the_stored_and_the_scaled_volume(tmp_path, dtype, scaling):
    header = nib.Nifti1Header(endianness=dtype[0])
    header.set_data_dtype(dtype)
    header.set_data_shape((128, 128, 64))
    header.set_slope_inter(*scaling)
    header["magic"], header["vox_offset"] = b"n+1", 352
    header.set_sform(np.eye(4), code=1)
    stored = np.arange(128 * 128 * 64).reshape(64, 128, 128).astype(dtype)
    path = tmp_path / "scaled.nii"
    path.write_bytes(header.binaryblock.ljust(352, b"\0") + stored.tobytes())
    limit = read_header(path)[1]
    nifti.read_volume(path)
    tracemalloc.start()
    made = nifti.read_volume(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.array_equal(made.array, nib.load(path).get_fdata().T)
    assert peak <= 1.1 * limit


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_labels_that_are_not_finite_are_refused(tmp_path, value):
    array = np.zeros((2, 3, 4), np.float32)
    array[0, 0, 0] = value
    nifti.write_volume(tmp_path / "a.nii.gz", array, nifti.header_for(array.shape, np.eye(4), array.dtype))
    with pytest.raises(ImageError, match="NaN or infinite"):
        nifti.read_labels(tmp_path / "a.nii.gz")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda raw: raw[: len(raw) // 2], "cut short"),
        (lambda raw: raw[:60] + bytes([raw[60] ^ 1]) + raw[61:], "broken"),
        (lambda raw: b"", "is empty"),
        (lambda raw: b"not an image at all", "not gzip"),
    ],
)
def test_a_broken_file_is_refused_by_name(image, change, words):
    path, _ = image
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ImageError, match=words) as caught:
        nifti.read_volume(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises(ImageError, match="cannot be read"):
        nifti.read_volume(tmp_path / "nowhere.nii.gz")


def test_an_image_that_is_not_three_dimensional_is_refused(tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((2, 2, 2, 2), np.int16), np.eye(4)), tmp_path / "four.nii.gz")
    with pytest.raises(ImageError, match="4-D"):
        nifti.read_volume(tmp_path / "four.nii.gz")


def test_a_single_volume_of_four_axes_is_read_as_three(tmp_path):
    path, array = tmp_path / "four.nii.gz", np.arange(24, dtype=np.int16).reshape(2, 3, 4, 1)
    nib.save(nib.Nifti1Image(array, np.diag([2.0, 3.0, 4.0, 1.0])), path)
    volume = nifti.read_volume(path)
    assert (volume.array == array[..., 0].T).all()
    assert (volume.geometry.shape, volume.geometry.spacing) == ((4, 3, 2), (4.0, 3.0, 2.0))
    nifti.write_volume(tmp_path / "labels.nii.gz", volume.array, volume.header)
    assert nib.load(tmp_path / "labels.nii.gz").shape == (2, 3, 4)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.int16])
def test_whole_label_values_are_accepted_in_any_type(tmp_path, dtype):
    array = np.array([0, 1, 14, 255], dtype=dtype).reshape(1, 2, 2)
    image = nib.Nifti1Image(array.T, np.eye(4), dtype=dtype)
    nib.save(image, tmp_path / "labels.nii.gz")
    assert nifti.read_labels(tmp_path / "labels.nii.gz").array.ravel().tolist() == [0, 1, 14, 255]


def test_fractional_label_values_are_refused(tmp_path):
    nib.save(nib.Nifti1Image(np.full((2, 2, 2), 0.5, np.float32), np.eye(4)), tmp_path / "labels.nii.gz")
    with pytest.raises(ImageError, match="whole"):
        nifti.read_labels(tmp_path / "labels.nii.gz")


def test_the_header_alone_gives_the_geometry(image):
    path, _ = image
    whole, header = nifti.read_volume(path).geometry, read_header(path)[0]
    assert header.shape == whole.shape
    assert header.spacing == whole.spacing
    assert np.array_equal(header.affine, whole.affine)


def world_point(array, affine):
    """World coordinates of the brightest voxel."""
    z, y, x = np.unravel_index(array.argmax(), array.shape)
    return affine @ [x, y, z, 1]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("signs", list(itertools.product([1, -1], repeat=3)))
def test_canonical_is_one_orientation_in_world_space_however_it_is_stored(order, signs):
    rng = np.random.default_rng(1)
    canonical = rng.random((3, 4, 5))
    affine = np.diag([-0.8, -0.7, 2.5, 1.0])
    stored = nib.Nifti1Image(canonical.T, affine).as_reoriented(
        np.array([[axis, sign] for axis, sign in zip(order, signs, strict=True)])
    )
    array = np.asarray(stored.dataobj).T
    turn = Orientation.of(stored.affine, "canonical")
    assert np.array_equal(turn.forward(array), canonical)
    spacing = tuple(np.linalg.norm(stored.affine[:3, :3], axis=0)[::-1])
    assert np.allclose(turn.spacing(spacing), (2.5, 0.7, 0.8))
    assert np.allclose(world_point(array, stored.affine), world_point(canonical, affine))


def test_stored_changes_nothing():
    array = np.arange(24).reshape(2, 3, 4)
    turn = Orientation.of(AFFINE, "stored")
    assert np.array_equal(turn.forward(array), array)
    assert turn.spacing((2.5, 0.7, 0.8)) == (2.5, 0.7, 0.8)


def test_geometries_that_differ_say_how(image):
    geometry = nifti.read_volume(image[0]).geometry
    flipped = geometry.affine.copy()
    flipped[1, 1] *= -1
    moved = geometry.affine.copy()
    moved[0, 3] += 1
    assert geometry.difference(geometry) is None
    assert "axes" in geometry.difference(Geometry(geometry.shape, flipped, geometry.spacing))
    assert "origin" in geometry.difference(Geometry(geometry.shape, moved, geometry.spacing))
    assert "shape" in geometry.difference(Geometry((1, 2, 3), geometry.affine, geometry.spacing))


def _with_header(path, **fields):
    """Rewrite some fields of an uncompressed copy's header."""
    plain = path.with_suffix("").with_suffix(".nii")
    nib.save(nib.load(path), plain)
    content = plain.read_bytes()
    header = nib.Nifti1Header(content[:348], check=False)
    for name, value in fields.items():
        header[name] = value
    plain.write_bytes(header.binaryblock + content[348:])
    return plain


def test_a_qfac_of_zero_means_one(image):
    path, array = image
    source = nib.load(path)
    source.set_qform(np.diag([2.0, 2, 3, 1]), code=1)
    source.set_sform(None, code=0)
    nib.save(source, path)
    pixdim = source.header["pixdim"].copy()
    pixdim[0] = 0
    volume = nifti.read_volume(_with_header(path, pixdim=pixdim))
    assert np.allclose(volume.geometry.affine, np.diag([2.0, 2, 3, 1]))
    assert volume.header["pixdim"][0] == 0
    assert np.array_equal(volume.array, array)


@pytest.mark.parametrize(
    "fields",
    [{"scl_slope": 1, "scl_inter": np.nan}, {"scl_slope": 1, "scl_inter": np.inf}, {"vox_offset": np.nan},
     {"vox_offset": 1e30}],
)  # fmt: skip
def test_a_header_that_makes_no_sense_is_refused_in_one_line(image, fields):
    with pytest.raises(ImageError, match="is not NIfTI"):
        nifti.read_volume(_with_header(image[0], **fields))


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize(("name", "voxels"), [("x.mha", "x.mha"), ("x.mhd", "x.zraw"), ("x.nrrd", "x.nrrd")])
def test_damaged_images_of_other_formats_are_refused(tmp_path, name, voxels, compressed):
    array = np.random.default_rng(0).integers(-1000, 1000, (6, 7, 8)).astype(np.int16)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array), tmp_path / name, compressed)
    path = tmp_path / (voxels if compressed else voxels.replace("zraw", "raw"))
    assert np.array_equal(read_image(tmp_path / name).array, array)
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    with pytest.raises(ImageError, match=r"cut short|cannot be read \((?!Reason)"):
        read_image(tmp_path / name)
    if compressed:
        for place in (-100, -2):  # in the voxels, in their checksum
            path.write_bytes(whole)
            flip(path, place - 4 * (name == "x.nrrd"), 16)
            with pytest.raises(ImageError, match="cannot be read"):
                read_image(tmp_path / name)


@pytest.mark.parametrize("compressed", [True, False])
def test_a_metaimage_whose_voxels_are_missing_is_refused_with_their_file(tmp_path, capfd, compressed):
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.zeros((2, 3, 4), np.int16)), tmp_path / "x.mhd", compressed)
    (voxels,) = tmp_path.glob("x.*raw")
    voxels.unlink()
    with pytest.raises(ImageError, match=rf"x\.mhd: its voxels cannot be read \(.*No such file.*{voxels.name}'\)$"):
        read_image(tmp_path / "x.mhd")
    assert capfd.readouterr() == ("", "")


def test_the_voxels_of_a_metaimage_may_be_text_or_in_several_files(tmp_path):
    array = np.arange(2 * 3 * 4, dtype=np.int16).reshape(2, 3, 4)
    header = "ObjectType = Image\nNDims = 3\nBinaryData = {}\nDimSize = 4 3 2\nElementType = MET_SHORT\n"
    text = " ".join(map(str, array.ravel()))
    (tmp_path / "text.mha").write_text(header.format("False") + f"ElementDataFile = LOCAL\n{text}\n")
    (tmp_path / "list.mhd").write_text(header.format("True") + "ElementDataFile = LIST\na.raw\nb.raw\n")
    for name, plane in zip(("a.raw", "b.raw"), array, strict=True):
        (tmp_path / name).write_bytes(plane.tobytes())
    (tmp_path / "pattern.mhd").write_text(header.format("True") + "ElementDataFile = %d.raw 1 2 1\n")
    for name, plane in zip(("1.raw", "2.raw"), array, strict=True):
        (tmp_path / name).write_bytes(plane.tobytes())
    for name in ("text.mha", "list.mhd", "pattern.mhd"):
        assert np.array_equal(read_image(tmp_path / name).array, array)


def test_gipl_is_no_image_as_it_has_no_directions(tmp_path):
    image = SimpleITK.GetImageFromArray(np.zeros((2, 3, 4), np.int16))
    image.SetDirection((1, 0, 0, 0, 0, 1, 0, -1, 0))
    SimpleITK.WriteImage(image, tmp_path / "x.gipl")
    assert SimpleITK.ReadImage(tmp_path / "x.gipl").GetDirection() != image.GetDirection()
    assert nifti.stem(tmp_path / "x.gipl", IMAGE_SUFFIXES) is None


def test_labels_under_a_scaled_header(tmp_path):
    image = nib.Nifti1Image(np.arange(24, dtype=np.int16).reshape(4, 3, 2), np.eye(4))
    image.header.set_slope_inter(0.5, -1024)
    nib.save(image, tmp_path / "ct.nii.gz")
    labels = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    nifti.write_volume(tmp_path / "l.nii.gz", labels, nifti.read_volume(tmp_path / "ct.nii.gz").header)
    assert np.array_equal(nib.load(tmp_path / "l.nii.gz").get_fdata().T, labels)


def test_voxels_under_a_big_endian_header(tmp_path):
    header = nib.Nifti1Header(endianness=">")
    nib.save(nib.Nifti1Image(np.arange(24).reshape(4, 3, 2).astype(">i2"), np.eye(4), header), tmp_path / "ct.nii.gz")
    labels = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    nifti.write_volume(tmp_path / "l.nii.gz", labels, nifti.read_volume(tmp_path / "ct.nii.gz").header)
    assert np.array_equal(nib.load(tmp_path / "l.nii.gz").get_fdata().T, labels)


def test_negative_labels_stay_negative(tmp_path):
    array = np.array([-1, 0, 1, 14], np.int16).reshape(1, 2, 2)
    nifti.write_volume(tmp_path / "l.nii.gz", array, nifti.header_for(array.shape, np.eye(4), array.dtype))
    assert nifti.read_labels(tmp_path / "l.nii.gz").array.ravel().tolist() == [-1, 0, 1, 14]
