"""Files that claim or hold too much, and damaged ones: they cost neither memory nor time, and end in one line."""

import contextlib
import gzip
import resource
import signal
import time
from concurrent.futures import ProcessPoolExecutor

import nibabel as nib
import numpy as np
import pytest
from machines import PATIENCE
from processes import CONTEXT

from flare23_lib.dataset.image_info import read_info
from flare23_lib.errors import ImageError
from flare23_lib.io import images, nifti
from flare23_lib.io.identity import file_identity

MB = 1 << 20


def header(shape=(4, 4, 4), dtype=np.int16, offset=352, version=1):
    made = nib.Nifti1Header() if version == 1 else nib.Nifti2Header()
    made.set_data_dtype(dtype)
    made["dim"] = [3, *shape, 1, 1, 1, 1]
    made["vox_offset"], made["sform_code"] = offset, 1
    made["magic"] = b"n+1" if version == 1 else made["magic"]
    made["pixdim"][1:4] = 2
    made["srow_x"], made["srow_y"], made["srow_z"] = np.diag([2.0, 2, 2, 1])[:3]
    return made.binaryblock


@pytest.fixture(scope="module")
def zeros():
    """256 MiB of zeros as one gzip member (250 kB)."""
    return gzip.compress(bytes(256 * MB), 9)


CLAIMS = {
    "10^12 voxels": (header((10**4,) * 3), "holds fewer voxels"),
    "the most that NIfTI-1 can claim": (header((32767,) * 3, np.float64), "holds fewer voxels"),
    "2^63 along an axis": (header((2**63 - 1, 1, 1), version=2, offset=544), "holds fewer voxels"),
    "2^63 along each": (header((2**63 - 1,) * 3, version=2, offset=544), "holds fewer voxels"),
    "a product that is 0 in 64 bits": (header((2**32, 2**32, 1), version=2, offset=544), "holds fewer voxels"),
    "as much before the voxels as is taken": (header(offset=2**24), "holds fewer voxels"),
    "more before the voxels": (header(offset=2**24 + 16), "its voxels begin at byte 1.67772e+07"),
    "NaN bytes before the voxels": (header(offset=np.nan), "its voxels begin at byte nan"),
}


def said_of(path):
    """What each way of reading says of a file: the scan's two, a whole read, the labels', the header's."""
    lines = [read_info(path, is_label, header_only).error for is_label in (0, 1) for header_only in (0, 1)]
    for read in (nifti.read_volume, nifti.read_labels, images.read_header):
        try:
            read(path)
        except ImageError as error:
            lines.append(str(error))
        else:
            lines.append("")
    return lines


def looked_at(path):
    file_identity(path)
    return said_of(path)


def measured(look, path, good):
    """What is said of a file, the CPU seconds that took and the bytes by which the memory of this process grew."""
    look(good)  # what is imported and kept on first use
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    lines = look(path)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return lines, time.process_time() - started, 1024 * grown


def cheaply(look, path, seconds=2.0, memory=24 * MB):
    """What is said of a file, at little cost; in a process of its own, whose peak of memory is that of this alone."""
    good = path.with_name("good.nii")
    good.write_bytes(header() + bytes(4 + 128))
    with ProcessPoolExecutor(1, CONTEXT) as process:
        lines, taken, grown = process.submit(measured, look, path, good).result()
    assert taken < seconds * PATIENCE
    assert grown < memory
    return lines


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(("head", "words"), CLAIMS.values(), ids=CLAIMS)
def test_a_header_that_claims_any_size_costs_neither_memory_nor_time(tmp_path, head, words, packed):
    raw = head + bytes(3000)
    path = tmp_path / ("x.nii.gz" if packed else "x.nii")
    path.write_bytes(gzip.compress(raw) if packed else raw)
    lines = cheaply(looked_at, path)
    assert all(words in line for line in lines), lines


BOMBS = {
    "after the voxels": lambda zeros: gzip.compress(header() + bytes(128)) + zeros * 20,
    "in one member": lambda zeros: gzip.compress(header() + bytes(128 * MB), 9),
    "as extensions": lambda zeros: gzip.compress(header(offset=2**24)) + zeros,
    "before a broken end": lambda zeros: gzip.compress(header() + bytes(128)) + zeros + zeros[:-100],
}


@pytest.mark.parametrize("make", BOMBS.values(), ids=BOMBS)
def test_a_gzip_bomb_costs_neither_memory_nor_much_time(tmp_path, zeros, make):
    path = tmp_path / "x.nii.gz"
    path.write_bytes(make(zeros))
    assert path.stat().st_size < 8 * MB
    lines = cheaply(looked_at, path, seconds=15)
    assert sum("holds " in line for line in lines) >= 4, lines


def test_more_voxels_than_any_ct_has_are_refused(tmp_path):
    path = tmp_path / "x.nii"
    with path.open("wb") as file:
        file.write(header((2048, 2048, 2049), np.uint8))
        file.truncate(352 + 2048 * 2048 * 2049)  # sparse: nothing is on the disk
    lines = cheaply(said_of, path)
    assert all("has 8.6e+09 voxels" in line for line in lines), lines
    info = read_info(path, False)
    assert (info.issue, info.error) == ("too_large", "has 8.6e+09 voxels (2048, 2048, 2049)")


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (gzip.compress(header() + bytes(128)), "gzip within gzip"),
        (
            header(offset=0) + bytes(4 + 128),
            "holds more data than its header states; it states that they begin at byte 0",
        ),
    ],
    ids=["gzip within gzip", "no offset"],
)
def test_what_went_wrong_is_said_where_it_can_be_known(tmp_path, raw, words):
    path = tmp_path / "x.nii.gz"
    path.write_bytes(gzip.compress(raw))
    with pytest.raises(ImageError, match=words):
        nifti.read_volume(path)


@contextlib.contextmanager
def time_limit(seconds):
    """Raise TimeoutError in this thread if what is done takes more CPU time."""

    def end(*_):
        raise TimeoutError

    before = signal.signal(signal.SIGPROF, end)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


@pytest.mark.parametrize(
    ("dtype", "members"),
    [(np.uint8, 1), *(pytest.param(*row, marks=pytest.mark.slow) for row in [(np.uint8, 3), (">i2", 1), ("<f4", 2)])],
)
def test_every_flipped_bit_of_a_label_ends_in_one_line_or_changes_nothing(tmp_path, dtype, members):
    """Within a time limit each: a reader that does not end would stop a whole stage."""
    array = np.zeros((4, 4, 4), dtype)
    array[1:3, 1:3, 1:3], array[3, 2:4, 2:4] = 1, 14
    path = tmp_path / "x.nii.gz"
    nifti.write_volume(path, array, nifti.header_for(array.shape, np.diag([-2.0, -2, 5, 1]), array.dtype))
    raw = gzip.decompress(path.read_bytes())
    step = -(-len(raw) // members)
    whole = b"".join(gzip.compress(raw[i : i + step], mtime=0) for i in range(0, len(raw), step))
    refused = 0
    for bit in range(len(whole) * 8):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        with time_limit(10 * PATIENCE):
            try:
                assert np.array_equal(nifti.read_labels(path).array, array), bit
            except ImageError as error:
                assert str(path) in str(error)
                refused += 1
    assert refused > 6 * len(whole)
