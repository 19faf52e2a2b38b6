"""One CT, stored in each way that gzip and a NIfTI header allow, is one CT."""

import gzip
import struct
import zlib

import nibabel as nib
import numpy as np
import pytest

from flare23_lib.dataset.image_info import read_info
from flare23_lib.io.nifti import read_volume, write_volume

SHAPE = (5, 6, 7)
ARRAY = np.random.default_rng(0).integers(-1000, 1500, SHAPE).astype(np.int16)
AFFINE = np.diag([-1.5, -1.5, 4.0, 1.0])


def raw(dtype=np.int16, array=ARRAY, version=1, **fields):
    header = (nib.Nifti1Header if version == 1 else nib.Nifti2Header)(endianness=fields.pop("endianness", "<"))
    header.set_data_shape(SHAPE[::-1])
    header.set_data_dtype(np.dtype(dtype).newbyteorder(header.endianness))
    header.set_sform(AFFINE, 1)
    header.set_zooms((1.5, 1.5, 4.0))
    header["magic"] = b"n+1" if version == 1 else header["magic"]
    header["vox_offset"] = 352 if version == 1 else 544
    extension = fields.pop("extension", bytes(4))
    for name, value in fields.items():
        header[name] = value
    return header.binaryblock + extension + array.astype(header.get_data_dtype()).tobytes()


def member(data, flags=0, fields=b""):
    """A gzip member with optional fields in its head, such as a name."""
    packer = zlib.compressobj(6, zlib.DEFLATED, -15)
    head = struct.pack("<4BIBB", 0x1F, 0x8B, 8, flags, 0, 0, 255) + fields
    if flags & 2:
        head += struct.pack("<H", zlib.crc32(head) & 0xFFFF)
    return head + packer.compress(data) + packer.flush() + struct.pack("<II", zlib.crc32(data), len(data))


def extensions(*sizes, gap=0):
    return b"\1\0\0\0" + b"".join(struct.pack("<ii", size, 6) + bytes(size - 8) for size in sizes) + bytes(gap)


PLAIN = raw()
WAYS = {
    "one member": gzip.compress(PLAIN),
    "not compressed": PLAIN,
    "members that end within the header": member(PLAIN[:100]) + member(PLAIN[100:200]) + member(PLAIN[200:]),
    "many members": b"".join(member(PLAIN[i : i + 50]) for i in range(0, len(PLAIN), 50)),
    "an empty member first": member(b"") + member(PLAIN),
    "an empty member last": member(PLAIN) + member(b""),
    "empty members between": member(PLAIN[:400]) + member(b"") * 3 + member(PLAIN[400:]),
    "name, comment and extra field": member(PLAIN, 4 | 8 | 16, b"\6\0BC\2\0\x12\x34" + b"pat.nii\0" + b"hi\0"),
    "a CRC of the gzip head": member(PLAIN, 2 | 8, b"p.nii\0"),
    "marked as text": member(PLAIN, 1),
    "stored without compression": gzip.compress(PLAIN, 0),
    "zeros after the last member": gzip.compress(PLAIN) + bytes(512),
    "big-endian": gzip.compress(raw(endianness=">")),
    "big-endian float64": gzip.compress(raw(np.float64, endianness=">")),
    "int64": gzip.compress(raw(np.int64)),
    "int32": gzip.compress(raw(np.int32)),
    "uint16 with an intercept": gzip.compress(raw(np.uint16, ARRAY + 1124, scl_slope=1, scl_inter=-1124)),
    "float32 of half the values": gzip.compress(raw(np.float32, ARRAY / 2, scl_slope=2, scl_inter=0)),
    "a slope of NaN": gzip.compress(raw(scl_slope=np.nan, scl_inter=np.nan)),
    "a slope of 0 with an intercept": gzip.compress(raw(scl_slope=0, scl_inter=5)),
    "no unit of length": gzip.compress(raw(xyzt_units=0)),
    "micrometers": gzip.compress(raw(xyzt_units=3, srow_x=[-1500, 0, 0, 0], srow_y=[0, -1500, 0, 0],
                                     srow_z=[0, 0, 4000, 0], pixdim=[1, 1500, 1500, 4000, 0, 0, 0, 0])),
    "an extension": gzip.compress(raw(extension=extensions(64), vox_offset=352 + 64)),
    "two extensions": gzip.compress(raw(extension=extensions(16, 160), vox_offset=352 + 176)),
    "a gap after the header": gzip.compress(raw(extension=bytes(4 + 648), vox_offset=1000)),
    "a gap after an extension": gzip.compress(raw(extension=extensions(32, gap=100), vox_offset=352 + 132)),
    "zeros in dim behind the third": gzip.compress(raw(dim=[3, *SHAPE[::-1], 0, 0, 0, 0])),
    "no bitpix": gzip.compress(raw(bitpix=0)),
    "NIfTI-2": gzip.compress(raw(version=2)),
    "NIfTI-2, big-endian": gzip.compress(raw(version=2, endianness=">")),
}  # fmt: skip


@pytest.mark.parametrize("name", ["x.nii.gz", "x.nii"])
@pytest.mark.parametrize("stored", WAYS.values(), ids=WAYS)
def test_a_ct_is_the_same_however_it_is_stored(tmp_path, stored, name):
    path = tmp_path / (name if stored.startswith(b"\x1f\x8b") else "x.nii")
    path.write_bytes(stored)
    volume, info = read_volume(path), read_info(path, False)
    assert np.array_equal(volume.array, ARRAY)
    assert np.allclose(volume.geometry.affine, AFFINE)
    assert np.allclose(volume.geometry.spacing, (4.0, 1.5, 1.5))
    assert (info.error, info.low, info.high) == ("", ARRAY.min(), ARRAY.max())


@pytest.mark.parametrize(
    ("kind", "magic"),
    [(nib.Nifti1Pair, b"n+1\0"), (nib.Nifti2Pair, b"n+2\0\r\n\x1a\n")],
    ids=["NIfTI-1", "NIfTI-2"],
)
def test_the_header_of_a_pair_of_files_is_written_as_that_of_one_file(tmp_path, kind, magic):
    nib.save(kind(ARRAY.T, AFFINE), tmp_path / "pair.hdr")
    write_volume(tmp_path / "x.nii", ARRAY, nib.load(tmp_path / "pair.hdr").header)
    start = 344 if kind is nib.Nifti1Pair else 4
    assert (tmp_path / "x.nii").read_bytes()[start : start + len(magic)] == magic
    assert np.array_equal(read_volume(tmp_path / "x.nii").array, ARRAY)
    assert np.array_equal(np.asarray(nib.load(tmp_path / "x.nii").dataobj).T, ARRAY)
