import csv

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from engines import a_volume
from pydicom.sr.codedict import codes

from flare23_lib.errors import ImageError
from flare23_lib.io import anatomy
from flare23_lib.io.label_tables import header_extension, label_table, read_label_table, write_label_tables
from flare23_lib.io.nifti import read_volume, write_volume

TABLE = label_table(["liver", "right_kidney", "tumor", 'a <b> & "c"'], [1, 2, 14, 7], ["tumor"])
NAMES = {1: "liver", 2: "right_kidney", 14: "tumor", 7: 'a <b> & "c"'}


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_label_file_holds_its_names_and_every_reader_its_voxels(tmp_path, suffix):
    volume = a_volume(dtype=np.uint8)
    path = tmp_path / f"labels{suffix}"
    write_volume(path, volume.array, volume.header, header_extension(TABLE))
    assert read_label_table(path) == NAMES
    read = read_volume(path)
    assert np.array_equal(read.array, volume.array)
    assert np.array_equal(read.geometry.affine, volume.geometry.affine)
    image = nib.load(path)
    assert np.array_equal(np.asarray(image.dataobj).T, volume.array)
    assert np.array_equal(image.affine, volume.geometry.affine)
    assert b"<LabelTable>" in image.header.extensions[0].get_content()
    assert np.array_equal(SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(path)), volume.array)


def test_header_fields_other_than_the_offset_do_not_change_by_the_table(tmp_path):
    volume = a_volume(dtype=np.uint8)
    for name, extension in (("plain.nii", b""), ("named.nii", header_extension(TABLE))):
        write_volume(tmp_path / name, volume.array, volume.header, extension)
    plain, named = (nib.load(tmp_path / name).header for name in ("plain.nii", "named.nii"))
    assert [key for key in plain if plain[key].tobytes() != named[key].tobytes()] == []  # nibabel hides the offset
    assert (tmp_path / "plain.nii").read_bytes()[:108] == (tmp_path / "named.nii").read_bytes()[:108]
    assert read_label_table(tmp_path / "plain.nii") == {}


def test_a_table_that_nibabel_wrote_again_is_read(tmp_path):
    volume = a_volume(dtype=np.uint8)
    write_volume(tmp_path / "a.nii.gz", volume.array, volume.header, header_extension(TABLE))
    image = nib.load(tmp_path / "a.nii.gz")
    nib.save(nib.Nifti1Image(image.dataobj, image.affine, image.header), tmp_path / "b.nii.gz")
    assert read_label_table(tmp_path / "b.nii.gz") == NAMES


def test_a_broken_table_is_refused_with_its_file(tmp_path):
    volume = a_volume(dtype=np.uint8)
    extension = header_extension(TABLE).replace(b"</LabelTable>", b"<LabelTable/>")
    write_volume(tmp_path / "a.nii", volume.array, volume.header, extension)
    with pytest.raises(ImageError, match=r"a\.nii: the label table"):
        read_label_table(tmp_path / "a.nii")


def test_viewers_get_names_colors_and_codes(tmp_path):
    write_label_tables(tmp_path, TABLE)
    with (tmp_path / "labels.csv").open() as handle:
        rows = {row["Name"]: row for row in csv.DictReader(handle)}
    kidney = rows["right_kidney"]
    assert (kidney["LabelValue"], kidney["Color_R"], kidney["Color_B"]) == ("2", "0", "255")
    assert kidney["Type_CodeValue"] == codes.SCT.Kidney.value
    assert kidney["TypeModifier_CodeMeaning"] == "Right"
    assert rows["tumor"]["Category_CodeMeaning"] == "Morphologically Abnormal Structure"
    colors = (tmp_path / "labels.ctbl").read_text().splitlines()
    assert colors[:4] == ["# Color table file", "# 5 values", "0 background 0 0 0 0", "1 liver 255 119 17 255"]
    assert [len(line.split()) for line in colors[2:]] == [6] * 5
    descriptions = (tmp_path / "labels.itksnap.txt").read_text().splitlines()
    assert descriptions[3].split() == ["1", "255", "119", "17", "1", "1", "1", '"liver"']
    assert len(descriptions) == 7


def test_codes_are_those_of_dicoms_dictionaries():
    concepts = [getattr(codes.SCT, name) for name in dir(codes.SCT) if name[0].isupper()]
    known = {(code.value, code.meaning.lower()) for code in concepts}
    table = [*anatomy._ORGANS.values(), *anatomy._LESIONS.values()]
    sides = [(side.value, side.meaning) for side in anatomy.SIDES.values()]
    assert {(value, meaning.lower()) for value, meaning in [*table, *sides]} <= known


def test_names_are_known_in_several_spellings():
    spellings = ("right_kidney", "kidney_right", "Right Kidney", "kidney-right")
    assert len({anatomy.anatomy_of(name) for name in spellings}) == 1
    assert anatomy.anatomy_of("IVC") == anatomy.anatomy_of("inferior_vena_cava")
    assert anatomy.anatomy_of("left_right_kidney") is None
    assert anatomy.anatomy_of("gall_bladder") == anatomy.anatomy_of("gallbladder")
    assert anatomy.codes_of("unheard_of").type.scheme == "99FLARE23"


def test_a_tumor_is_told_by_its_kind_or_else_by_its_name():
    tumors = ("tumor", "liver_tumor", "pancreas_cancer", "kidney_cyst", "Lesion 2", "HCC", "renal mass")
    assert all(anatomy.is_tumor(name) for name in tumors)
    assert not any(anatomy.is_tumor(name) for name in ("liver", "right_kidney", "masseter", "unheard_of"))
    assert anatomy.is_tumor("mass", "tumor") and not anatomy.is_tumor("kidney_cyst", "organ")
