import logging
import os
import subprocess
import sys
import time
import weakref
from dataclasses import replace
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from engines import a_bundle, a_volume

from flare23_lib.cache.entries import Shard
from flare23_lib.errors import ImageError
from flare23_lib.inference.bundle import write_bundle
from flare23_lib.inference.engine import Engine
from flare23_lib.inference.image_files import HOST_BASE, Extras, find_cases
from flare23_lib.inference.memory import Limits
from flare23_lib.inference.outputs import Outputs
from flare23_lib.inference.predict import PHASES, predict
from flare23_lib.inference.segment_cases import Reader, segment_cases
from flare23_lib.io.nifti import read_volume, write_volume

ODD_AFFINE = np.array(
    [[-0.7123456, 0.0001, 0, 123.456], [0, 0.7123, 0.0002, -7.1], [0, 0, 2.50001, 3.3], [0, 0, 0, 1]]
)
OUTPUTS = Outputs(a_bundle().model.label_table, "tiny", "tiny with no options")


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    for number in (1, 2):
        volume = a_volume((6, 10, 12), ODD_AFFINE, seed=number, dtype=np.int16)
        volume.header["descrip"] = b"scanner"
        write_volume(folder / f"case_{number}_0000.nii.gz", volume.array, volume.header)
    return folder


def an_engine(**options):
    return Engine(a_bundle(spacing=(2.5, 1.0, 1.0)), **options)


def run(inputs, output, overwrite=False, limits=None, **options):
    """Predict, and return the reports of the cases that failed."""
    reader = Reader(find_cases(inputs, output), overwrite, OUTPUTS)
    reports = predict(reader, an_engine(limits=limits), **options)
    return [SimpleNamespace(**report) for report in reports if report["error"]]


def test_a_folder_is_segmented_under_the_names_of_its_cases(images, tmp_path):
    (images / "notes.txt").write_text("no image")
    (images / ".partial-x.nii.gz").write_bytes(b"")
    assert run(images, tmp_path / "labels") == []
    assert sorted(p.name for p in (tmp_path / "labels").iterdir()) == ["case_1.nii.gz", "case_2.nii.gz"]
    labels = read_volume(tmp_path / "labels" / "case_1.nii.gz")
    volume = read_volume(images / "case_1_0000.nii.gz")
    assert labels.array.dtype == np.uint8
    assert np.array_equal(labels.array, an_engine().segment(volume).labels)


def test_the_output_keeps_the_geometry_to_the_last_bit(images, tmp_path):
    run(images, tmp_path / "labels")
    given = read_volume(images / "case_1_0000.nii.gz").header
    made = read_volume(tmp_path / "labels" / "case_1.nii.gz").header
    fields = ["dim", "pixdim", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d"]
    fields += ["qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z", "xyzt_units", "descrip"]
    for name in fields:
        assert given[name].tobytes() == made[name].tobytes(), name


def test_a_single_file_may_be_given_a_folder_or_a_name(images, tmp_path):
    image = images / "case_2_0000.nii.gz"
    assert run(image, tmp_path / "labels") == []
    assert run(image, tmp_path / "mine.nii") == []
    folder, name = (read_volume(tmp_path / p).array for p in ("labels/case_2.nii.gz", "mine.nii"))
    assert np.array_equal(folder, name)


def test_a_file_name_that_is_not_utf8_is_refused(images, tmp_path):
    (images / "case_1_0000.nii.gz").rename(images / os.fsdecode(b"M\xfcller_0000.nii.gz"))
    with pytest.raises(ImageError, match=r"images/M\\xfcller_0000\.nii\.gz: its name is not UTF-8; rename it"):
        find_cases(images, tmp_path / "labels")


def test_a_broken_case_is_named_in_one_line_and_the_others_are_done(images, tmp_path, caplog):
    broken = images / "case_1_0000.nii.gz"
    broken.write_bytes(broken.read_bytes()[:-20])
    with caplog.at_level(logging.INFO):
        faults = run(images, tmp_path / "labels")
    assert [(fault.case, fault.image) for fault in faults] == [("case_1", str(broken))]
    assert faults[0].error.startswith(f"{broken}: ")
    assert "\n" not in faults[0].error
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert errors == [f"1 of 2: {faults[0].error}"]
    assert [p.name for p in (tmp_path / "labels").iterdir()] == ["case_2.nii.gz"]


def test_a_case_with_nan_is_a_fault_that_names_the_file(tmp_path):
    volume = a_volume((6, 10, 12))
    volume.array[0, 0, 0] = np.nan
    write_volume(tmp_path / "x_0000.nii.gz", volume.array, volume.header)
    (fault,) = run(tmp_path / "x_0000.nii.gz", tmp_path / "labels")
    assert fault.error.startswith(f"{tmp_path / 'x_0000.nii.gz'}: ")
    assert "finite" in fault.error


def test_what_makes_an_image_no_sound_ct_is_told(images, tmp_path, caplog):
    doubtful = images / "case_2_0000.nii.gz"
    volume = read_volume(doubtful)
    header = volume.header.copy()
    header["pixdim"][3] *= 2
    header["qform_code"] = 0
    write_volume(doubtful, np.full_like(volume.array, 40), header)
    assert run(images, tmp_path / "labels") == []
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [line for line in told if "case_2" in line] == [
        f"2 of 2: {doubtful}: pixdim says 5x0.7123x0.7123 mm, the affine 2.5x0.7123x0.7123 mm",
        f"2 of 2: {doubtful}: its shortest axis has a length of 6, fewer than 8 voxels",
        f"2 of 2: {doubtful}: every voxel is 40",
    ]


def test_what_is_there_and_whole_is_not_made_again(images, tmp_path):
    output = tmp_path / "labels"
    run(images, output)
    whole, cut = output / "case_1.nii.gz", output / "case_2.nii.gz"
    content = cut.read_bytes()
    cut.write_bytes(content[:-10])
    before = whole.stat().st_ino
    assert run(images, output) == []
    assert whole.stat().st_ino == before
    assert cut.read_bytes() == content
    run(images, output, overwrite=True)
    assert whole.stat().st_ino != before


def test_labels_that_no_longer_lie_on_their_image_are_not_taken_for_its_labels(images, tmp_path):
    run(images, tmp_path / "labels")
    volume = read_volume(images / "case_1_0000.nii.gz")
    moved = volume.header.copy()
    moved["srow_x"][3] += 5
    write_volume(images / "case_1_0000.nii.gz", volume.array, moved)
    (fault,) = run(images, tmp_path / "labels")
    assert "exists and holds the labels of another image" in fault.error
    run(images, tmp_path / "labels", overwrite=True)
    labels = read_volume(tmp_path / "labels" / "case_1.nii.gz")
    assert labels.geometry.difference(read_volume(images / "case_1_0000.nii.gz").geometry) is None


def test_an_image_that_lies_where_labels_belong_is_not_replaced_unasked(images, tmp_path):
    (images / "case_1.nii.gz").write_bytes((images / "case_2_0000.nii.gz").read_bytes())
    before = (images / "case_1.nii.gz").read_bytes()
    faults = run(images / "case_1_0000.nii.gz", images)
    assert len(faults) == 1
    assert (images / "case_1.nii.gz").read_bytes() == before
    assert run(images / "case_1_0000.nii.gz", images, overwrite=True) == []
    assert read_volume(images / "case_1.nii.gz").array.dtype == np.uint8


def test_a_link_that_leads_nowhere_is_a_fault_and_a_name_in_capitals_is_told(images, tmp_path, caplog):
    (images / "gone_0000.nii.gz").symlink_to(tmp_path / "nowhere.nii.gz")
    (images / "CASE_3.NII.GZ").write_bytes(b"")
    faults = run(images, tmp_path / "labels")
    assert [fault.case for fault in faults] == ["gone"]
    assert "CASE_3.NII.GZ: is skipped; the names of images end in small letters" in caplog.text


def test_an_image_without_a_name_of_its_own_is_told(images, tmp_path, caplog):
    nameless = (images / "case_1_0000.nii.gz").rename(images / "_0000.nii.gz")
    assert [case.name for case in find_cases(images, tmp_path / "labels")] == ["case_2"]
    assert f"{nameless}: is skipped; its name has nothing before _0000" in caplog.text
    with pytest.raises(ImageError, match=r"/_0000\.nii\.gz: its name has nothing before _0000"):
        find_cases(nameless, tmp_path / "labels")


def test_inputs_that_are_not_there_are_refused_in_one_line(tmp_path):
    with pytest.raises(ImageError, match="no such file or folder"):
        run(tmp_path / "nothing", tmp_path / "labels")
    with pytest.raises(ImageError, match="holds no"):
        run(tmp_path, tmp_path / "labels")
    (tmp_path / "x.txt").write_text("x")
    with pytest.raises(ImageError, match="is not named"):
        run(tmp_path / "x.txt", tmp_path / "labels")
    assert not (tmp_path / "labels").exists()


def test_labels_never_replace_images(images, tmp_path):
    (images / "case_1_0000.nii.gz").rename(images / "case_1.nii.gz")
    before = (images / "case_1.nii.gz").read_bytes()
    with pytest.raises(ImageError, match="would replace it"):
        run(images / "case_1.nii.gz", images, overwrite=True)
    with pytest.raises(ImageError, match="must be a folder"):
        run(images, tmp_path / "x.nii.gz")
    assert (images / "case_1.nii.gz").read_bytes() == before


def test_the_folder_of_the_images_is_refused_for_their_labels(images, tmp_path):
    with pytest.raises(ImageError, match="holds the images"):
        find_cases(images, images / ".." / images.name)


def test_two_images_of_one_name_are_refused(images, tmp_path):
    (images / "case_1.nii").write_bytes(b"")
    with pytest.raises(ImageError, match=r"same case_1\.nii\.gz"):
        find_cases(images, tmp_path / "labels")


def test_the_report_has_the_seconds_of_every_phase(images, tmp_path):
    reader = Reader(find_cases(images, tmp_path / "labels"), False, OUTPUTS)
    first, second = predict(reader, an_engine(), {"start_up": 1.5, "weights": 0.25})
    assert (first["case"], second["case"]) == ("case_1", "case_2")
    assert set(first["seconds"]) == set(PHASES)
    assert set(second["seconds"]) == set(PHASES[2:])
    assert (first["seconds"]["start_up"], first["seconds"]["weights"]) == (1.5, 0.25)


def test_the_seconds_since_the_process_began_include_the_interpreters_start():
    code = "import time; time.sleep(0.2); import flare23_lib.runtime.machine as m; print(m.seconds_since_start())"
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 0.2 <= float(done.stdout) <= time.perf_counter() - began + 0.02


def test_shards_divide_a_folder(images, tmp_path):
    for number in range(3, 9):
        (images / f"case_{number}_0000.nii.gz").write_bytes((images / "case_1_0000.nii.gz").read_bytes())
    parts = [find_cases(images, tmp_path, Shard(index, 3)) for index in range(3)]
    together = [case.name for part in parts for case in part]
    assert sorted(together) == [f"case_{number}" for number in range(1, 9)]
    assert max(map(len, parts)) < 8


def test_a_case_that_does_not_fit_the_memory_is_named_and_never_read_ahead(images, tmp_path, monkeypatch):
    faults = run(images, tmp_path / "labels", limits=Limits(host=100))
    assert [fault.case for fault in faults] == ["case_1", "case_2"]
    assert "needs" in faults[0].error
    assert "--memory" in faults[1].error
    assert run(images, tmp_path / "labels") == []
    assert run(images, tmp_path / "labels", limits=Limits(host=100)) == []  # nothing is left to be done


def test_a_case_that_fails_leaves_no_tensors_behind(images, tmp_path, monkeypatch):
    engine = an_engine(limits=Limits(host=8000))
    infer, alive = engine.infer, []

    def fail_once(prepared):
        if alive:
            assert alive[0]() is None, "of the case that failed"
            return infer(prepared)
        held = torch.zeros(10)
        alive.append(weakref.ref(held))
        raise RuntimeError("out of memory")

    monkeypatch.setattr(engine, "infer", fail_once)
    outcomes = list(segment_cases(engine, Reader(find_cases(images, tmp_path / "labels")), lambda *given: None))
    assert [str(outcome.error) for outcome in outcomes] == ["out of memory", "None"]


def test_the_next_case_is_read_ahead_only_if_both_fit(images, tmp_path, monkeypatch):
    order = []
    engine = an_engine(limits=Limits(host=8000))
    reader = Reader(find_cases(images, tmp_path / "labels"), outputs=OUTPUTS)
    start, infer = reader.start, engine.infer
    monkeypatch.setattr(reader, "start", lambda index, *check: (order.append(f"read {index}"), start(index, *check)))
    monkeypatch.setattr(engine, "infer", lambda *given: (order.append("infer"), infer(*given))[1])
    assert [report["error"] for report in predict(reader, engine)] == [None, None]
    assert order == ["read 0", "read 1", "infer", "read 1", "infer"]
    volume = read_volume(images / "case_1_0000.nii.gz")
    least = engine.plan(volume.geometry, volume.array.nbytes).host
    # While the second case is computed, the labels of the first are written: three times a byte a voxel.
    for room, expected in (
        (3 * volume.array.size, ["read 0", "read 1", "infer", "read 1", "infer"]),
        (3 * volume.array.size - 1, ["read 0", "infer", "read 1", "infer"]),
    ):
        order.clear()
        engine.limits = Mock(wraps=Limits(host=8000), host_bytes=lambda room=room: least + room)
        reader = Reader(find_cases(images, tmp_path / "labels"), overwrite=True, outputs=OUTPUTS)
        start = reader.start
        monkeypatch.setattr(
            reader, "start", lambda index, *check, start=start: (order.append(f"read {index}"), start(index, *check))
        )
        assert [report["error"] for report in predict(reader, engine)] == [None, None]
        assert order == expected


def test_a_folder_that_cannot_be_written_is_a_fault_of_each_case(images, tmp_path):
    (tmp_path / "labels").write_text("in the way")
    faults = run(images, tmp_path / "labels" / "deeper")
    assert [fault.case for fault in faults] == ["case_1", "case_2"]


def test_the_command_line_predicts_without_nnunet_simpleitk_and_pandas(images, tmp_path):
    bundle = a_bundle(spacing=(2.5, 1.0, 1.0))
    write_bundle(tmp_path / "model", bundle.model, bundle.state_dict)
    code = (
        "import sys; from flare23_lib.cli import main; code = main(sys.argv[1:]);"
        "heavy = ('nnunetv2', 'SimpleITK', 'pandas', 'pydantic', 'highdicom', 'matplotlib');"
        "print([name for name in heavy if name in sys.modules]); sys.exit(code)"
    )
    command = ["predict", "--model", "model", "--input", "images", "--output", "out", "--run-report", "run.json",
               "--windows", "all", "--precision", "float32", "--shard", "0/1"]  # fmt: skip
    command = [sys.executable, "-c", code, *command]
    whole = (images / "case_1_0000.nii.gz").read_bytes()
    (images / "case_3_0000.nii.gz").write_bytes(whole[:-20])
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert "case_3_0000.nii.gz" in done.stderr.strip().splitlines()[-1]
    assert done.stdout.strip() == "[]"
    names = ["labels.csv", "labels.ctbl", "labels.itksnap.txt"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["case_1.nii.gz", "case_2.nii.gz", *names]


def test_vote_counts_take_memory_while_they_are_written(images, tmp_path, monkeypatch):
    engine = an_engine(limits=Limits(host=8000))
    engine.model = replace(engine.model, inference=replace(engine.model.inference, tta=True))
    cases = [replace(case, extras=Extras(votes=True)) for case in find_cases(images, tmp_path / "labels")]
    volume = read_volume(cases[0].image)
    least = engine.plan(volume.geometry, volume.array.nbytes, Extras(votes=True)).host
    infer = engine.infer
    # Two label maps, and two copies of the last one.
    for room, expected in ((4 * volume.array.size, True), (4 * volume.array.size - 1, False)):
        engine.limits = Mock(wraps=Limits(host=8000), host_bytes=lambda room=room: least + room)
        reader, written = Reader(cases, overwrite=True), []
        began, started = [], reader._started
        monkeypatch.setattr(
            engine, "infer", lambda one, began=began, started=started: (began.append(1 in started), infer(one))[1]
        )
        outcomes = list(segment_cases(engine, reader, lambda case, made, header, to=written: to.append(made)))
        assert [outcome.error for outcome in outcomes] == [None, None]
        assert began[0] is expected
        assert all(one.tta_vote_count is not None for one in written)


def test_the_first_case_is_read_early_only_within_the_limit(images, tmp_path):
    reader = Reader(find_cases(images, tmp_path / "labels"))
    reader.start_early(HOST_BASE + 100)
    assert 0 not in reader._started
    reader.start_early(HOST_BASE + 10**6)
    assert 0 in reader._started
    Reader([]).start_early(10**9)
    (images / "case_1_0000.nii.gz").write_bytes(b"")
    broken = Reader(find_cases(images, tmp_path / "labels"))
    broken.start_early(10**10)
    assert 0 not in broken._started
