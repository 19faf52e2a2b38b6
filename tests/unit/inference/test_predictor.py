"""A model called from Python: every kind of image gives the labels that the command line gives."""

import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
import torch
from dicoms import a_series, affine_of, an_image, new_uids, save
from engines import a_bundle

import flare23_lib
from flare23_lib import Predictor
from flare23_lib.cli import main
from flare23_lib.errors import ConfigError, ImageError
from flare23_lib.inference.bundle import load_bundle, write_bundle
from flare23_lib.inference.model import InferenceDefaults, ModelLabel
from flare23_lib.io.dicom import DicomFile
from flare23_lib.io.dicom_search import choose_series, find_series
from flare23_lib.io.dicom_seg import read_seg
from flare23_lib.io.images import read_image
from flare23_lib.io.itk import itk_of_volume
from flare23_lib.io.label_tables import header_extension, read_label_table, read_metadata
from flare23_lib.io.nifti import header_for, read_volume, write_volume
from flare23_lib.runtime import precision

NAMES = {1: "liver", 2: "right_kidney", 14: "tumor"}
IMAGE, AFFINE = an_image((8, 20, 24)), affine_of()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    labels = (ModelLabel("background", 0), *(ModelLabel(name, value) for value, name in NAMES.items()))
    bundle = a_bundle((0, *NAMES), labels=labels, spacing=(2.5, 0.8, 0.7), orientation="canonical")
    folder = tmp_path_factory.mktemp("model")
    write_bundle(folder, bundle.model, bundle.state_dict)
    return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The same CT as NIfTI, NRRD and DICOM."""
    folder = tmp_path_factory.mktemp("files")
    write_volume(folder / "ct.nii.gz", IMAGE, header_for(IMAGE.shape, AFFINE, IMAGE.dtype))
    SimpleITK.WriteImage(itk_of_volume(IMAGE, AFFINE), folder / "ct.nrrd")
    save(folder / "dicom", a_series(IMAGE))
    return folder


@pytest.fixture(scope="module")
def predictor(model):
    return Predictor(model, "cpu", precision="float32", windows="all")


@pytest.fixture(scope="module")
def expected(model, files, tmp_path_factory):
    output = tmp_path_factory.mktemp("out") / "labels.nii.gz"
    options = ["--model", model, "--input", files / "ct.nii.gz", "--output", output]
    assert main(["predict", *map(str, options), "--precision", "float32", "--windows", "all"]) == 0
    return read_volume(output).array


KINDS = {
    "NIfTI path": lambda files: (files / "ct.nii.gz",),
    "text": lambda files: (str(files / "ct.nii.gz"),),
    "NRRD path": lambda files: (files / "ct.nrrd",),
    "DICOM folder": lambda files: (files / "dicom",),
    "nibabel": lambda files: (nib.load(files / "ct.nii.gz"),),
    "nibabel in memory": lambda files: (nib.Nifti1Image(IMAGE.T, AFFINE),),
    "nibabel of another format": lambda files: (nib.Nifti2Image(IMAGE.T, AFFINE),),
    "SimpleITK": lambda files: (SimpleITK.ReadImage(files / "ct.nii.gz"),),
    "array and affine": lambda files: (IMAGE, AFFINE),
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_every_kind_of_image_gives_the_labels_of_the_command_line(predictor, files, expected, kind):
    prediction = predictor(*kind(files))
    assert np.array_equal(prediction.labels, expected)
    assert np.allclose(prediction.affine, AFFINE, atol=1e-5)
    assert prediction.names == predictor.names == NAMES


def test_a_prediction_is_measured_and_saved_in_any_format(predictor, files, expected, tmp_path):
    prediction = predictor(files / "dicom")
    assert [row.label for row in prediction.statistics()] == list(NAMES.values())
    assert prediction.statistics()[2].voxels == prediction.mask("tumor").sum() == (expected == 14).sum()
    with pytest.raises(KeyError, match="'tumour' is none of liver,"):
        prediction.mask("tumour")
    for name in ("a.nii.gz", "a.nrrd", "a.mha", "a.dcm"):
        assert prediction.save(tmp_path / name) == tmp_path / name
    assert np.array_equal(read_volume(tmp_path / "a.nii.gz").array, expected)
    assert read_label_table(tmp_path / "a.nii.gz") == NAMES
    for name in ("a.nrrd", "a.mha"):
        image = SimpleITK.ReadImage(tmp_path / name)
        assert np.array_equal(SimpleITK.GetArrayFromImage(image), expected)
        assert np.allclose(image.GetOrigin(), (-10, -20, 30), atol=1e-4)
    (series,) = choose_series(find_series(files / "dicom"), files, None)
    segments = {one.name: one.mask for one in read_seg(DicomFile(tmp_path / "a.dcm"), series)}
    assert np.array_equal(segments["liver"], expected == 1)
    assert np.array_equal(np.asarray(prediction.to_nibabel().dataobj).T, expected)
    with pytest.raises(ImageError, match="labels are saved as"):
        predictor(files / "ct.nii.gz").save(tmp_path / "b.dcm")


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_labels_for_nibabel_have_the_header_of_those_that_are_saved(predictor, expected, tmp_path, kind):
    image = kind(IMAGE.T, AFFINE)
    image.header.set_xyzt_units("mm", "sec")
    image.set_qform(AFFINE, 1)
    image.set_sform(AFFINE, 4)
    nib.save(image, tmp_path / "ct.nii.gz")
    prediction = predictor(tmp_path / "ct.nii.gz")
    labels, saved = prediction.to_nibabel(), nib.load(prediction.save(tmp_path / "labels.nii.gz"))
    assert type(labels) is type(saved) is kind
    assert labels.header == saved.header
    assert (labels.header["qform_code"], labels.header["sform_code"]) == (1, 4)
    assert labels.header.get_xyzt_units() == ("mm", "sec")
    labels.to_filename(tmp_path / "again.nii.gz")
    assert read_label_table(tmp_path / "again.nii.gz") == NAMES
    assert np.array_equal(read_volume(tmp_path / "again.nii.gz").array, expected)


def test_an_interpolated_series_is_not_saved_as_dicom(predictor, tmp_path):
    slices = a_series(IMAGE)
    slices[3].ImagePositionPatient = [*slices[3].ImagePositionPatient[:2], 37.8]
    prediction = predictor(save(tmp_path / "ct", slices), irregular="resample")
    assert prediction.labels.shape == IMAGE.shape
    with pytest.raises(ImageError, match="its slices are interpolated, so that there can be no DICOM"):
        prediction.save(tmp_path / "a.dcm")
    assert not (tmp_path / "a.dcm").exists()


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_labels_are_saved_whole_in_a_folder_that_is_made_or_not_at_all(
    predictor, files, expected, tmp_path, monkeypatch, suffix
):
    prediction = predictor(files / "ct.nii.gz")
    path = prediction.save(tmp_path / "new" / f"x{suffix}")
    assert np.array_equal(read_image(path).array, expected)
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        prediction.save(tmp_path / "file" / f"x{suffix}")
    with pytest.raises(ImageError, match="labels are saved as"):
        prediction.save(tmp_path / "new" / "x.mhd")
    if suffix != ".nii.gz":
        whole = path.read_bytes()

        def fail(image, name, **options):
            Path(name).write_bytes(b"half")
            raise RuntimeError("Exception thrown in SimpleITK:\nITK ERROR: no space")

        monkeypatch.setattr(SimpleITK, "WriteImage", fail)
        with pytest.raises(ImageError, match=rf"x{suffix}: cannot be written \(ITK ERROR: no space\)$"):
            prediction.save(path)
        assert path.read_bytes() == whole
    assert [one.name for one in (tmp_path / "new").iterdir()] == [path.name]


@pytest.mark.parametrize("kind", [np.float16, np.longdouble, np.int64])
def test_arrays_of_types_that_nifti_lacks(predictor, files, expected, tmp_path, kind):
    prediction = predictor(IMAGE.astype(kind), AFFINE)
    assert np.array_equal(prediction.labels, expected)
    assert np.array_equal(read_volume(prediction.save(tmp_path / "labels.nii.gz")).array, expected)


def test_labels_can_be_chosen(predictor, files, expected):
    prediction = predictor(files / "ct.nii.gz", labels_only=["liver"])
    assert np.array_equal(prediction.labels, np.where(expected == 1, 1, 0))
    assert prediction.names == {1: "liver"}
    with pytest.raises(ConfigError, match=r"^labels_only: there is no label 'spleen'"):
        predictor(files / "ct.nii.gz", labels_only=["spleen"])


@pytest.mark.parametrize(
    ("stated", "asked", "expected"),
    [({"precision": "float32"}, None, "float32"), ({"precision": "auto"}, None, "bfloat16"), ({}, None, "bfloat16"),
     ({"precision": "float32"}, "auto", "bfloat16"), ({}, "float32", "float32")],
)  # fmt: skip
def test_the_precision_is_the_models_unless_it_is_given(files, tmp_path, monkeypatch, stated, asked, expected):
    monkeypatch.setattr(precision, "computes_in_bfloat16", lambda device: True)
    bundle = a_bundle(inference=InferenceDefaults(**stated))
    write_bundle(tmp_path / "model", bundle.model, bundle.state_dict)
    assert Predictor(tmp_path / "model", "cpu", precision=asked).engine.precision == expected
    options = ["--model", tmp_path / "model", "--input", files / "ct.nii.gz", "--output", tmp_path / "labels",
               "--device", "cpu", "--run-report", tmp_path / "run.json"]  # fmt: skip
    given = ["--precision", asked] if asked else []
    assert main(["predict", *map(str, options), *given]) == 0
    assert json.loads((tmp_path / "run.json").read_text())["precision"] == expected


def test_labels_that_are_kept_are_not_reported_in_the_precision_of_the_run(
    model, files, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(precision, "computes_in_bfloat16", lambda device: True)

    def case_of_run(*options):
        arguments = ["--model", model, "--input", files / "ct.nii.gz", "--output", tmp_path, "--device", "cpu"]
        assert main(["predict", *map(str, arguments), "--run-report", str(tmp_path / "run.json"), *options]) == 0
        (case,) = json.loads((tmp_path / "run.json").read_text())["cases"]
        return case["kept"], case["precision"]

    assert case_of_run("--precision", "bfloat16") == (False, "bfloat16")
    assert case_of_run("--precision", "bfloat16") == (True, None)
    assert "kept, though" not in caplog.text
    assert case_of_run("--precision", "float32") == (True, None)
    assert f"kept, though not computed in float32: {tmp_path}/ct.nii.gz (bfloat16); --overwrite" in caplog.text
    labels = read_volume(tmp_path / "ct.nii.gz")
    metadata = {name: value for name, value in read_metadata(tmp_path / "ct.nii.gz").items() if name != "Precision"}
    table = header_extension(load_bundle(model).model.label_table, metadata)  # as before precisions were written
    write_volume(tmp_path / "ct.nii.gz", labels.array, labels.header, table)
    assert case_of_run("--precision", "float32") == (True, None)
    assert case_of_run("--precision", "float32", "--overwrite") == (False, "float32")
    assert read_metadata(tmp_path / "ct.nii.gz")["Precision"] == "float32"


def test_a_device_is_named_or_is_of_pytorch(model):
    assert Predictor(model, torch.device("cpu")).engine.device == torch.device("cpu")
    with pytest.raises(ConfigError, match="device: 'meta' is not auto, cpu"):
        Predictor(model, torch.device("meta"))


def test_what_is_no_image_is_refused(predictor, tmp_path):
    with pytest.raises(TypeError, match="needs its affine"):
        predictor(IMAGE)
    with pytest.raises(TypeError, match="list is no image"):
        predictor([1, 2])
    with pytest.raises(ImageError, match="no 3-D image"):
        predictor(IMAGE[0], AFFINE)
    with pytest.raises(ImageError, match="an array of bool is no CT"):
        predictor(IMAGE > 0, AFFINE)
    with pytest.raises(ImageError, match="gives the voxels no place"):
        predictor(IMAGE, np.zeros((4, 4)))
    with pytest.raises(ImageError, match="without an affine"):
        predictor(nib.Nifti1Image(IMAGE.T, None))
    with pytest.raises(ImageError, match="no such file"):
        predictor(tmp_path / "nowhere")
    study = new_uids()[0]
    for number in (1, 2):
        save(tmp_path / "two", a_series(IMAGE, uids=(study, *new_uids()[1:])), f"{number}-{{}}")
    with pytest.raises(ImageError, match="2 CT series"):
        predictor(tmp_path / "two")
    with pytest.raises(ImageError, match="one series at a time"):
        predictor(tmp_path / "two", series="all")
    assert predictor(tmp_path / "two", series="2").labels.shape == IMAGE.shape


def test_a_script_needs_no_guard_and_the_import_is_light(model, files, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\nimport flare23_lib\nassert 'torch' not in sys.modules and 'numpy' not in sys.modules\n"
        "from flare23_lib import Predictor\n"
        f"print(Predictor({str(model)!r}, 'cpu')({str(files / 'ct.nii.gz')!r}).labels.shape)\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "(8, 20, 24)", done.stderr
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = flare23_lib.Nothing


@pytest.mark.parametrize(("unit", "size"), [("meter", 1e-3), ("micron", 1e3)])
def test_a_nibabel_image_in_another_unit_is_the_same_image(predictor, expected, unit, size):
    image = nib.Nifti1Image(IMAGE.T, np.diag([size, size, size, 1]) @ AFFINE)
    image.header.set_xyzt_units(unit)
    prediction = predictor(image)
    assert np.array_equal(prediction.labels, expected)
    assert np.allclose(prediction.affine, AFFINE, atol=1e-4)


def test_what_is_given_in_vain_or_wrongly_is_refused(predictor, files):
    with pytest.raises(TypeError, match="an affine is given with an array only"):
        predictor(files / "ct.nii.gz", AFFINE)
    with pytest.raises(ImageError, match=r"tpyo\.nii\.gz: no such file"):
        predictor(files / "tpyo.nii.gz")
    assert predictor(files / "ct.nii.gz", labels_only="liver").names == {1: "liver"}
