"""Names of label values: in the header of a NIfTI file, and in the files that viewers read beside it.

| file | read by |
|---|---|
| the NIfTI header's extension (XML as Caret's) | TotalSegmentator's reader, nibabel as text, `read_label_table` |
| `labels.csv` | 3D Slicer 5.8 and newer, as a color table with terminology; any table program |
| `labels.ctbl` | 3D Slicer, as a color table |
| `labels.itksnap.txt` | ITK-SNAP: Segmentation, Import Label Descriptions |
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from flare23_lib.colors import label_colors
from flare23_lib.errors import ImageError
from flare23_lib.io.anatomy import Anatomy, codes_of, is_tumor
from flare23_lib.io.atomic import write_text
from flare23_lib.io.nifti import open_volume
from flare23_lib.io.tables import refuse_others, write_csv

EXTENSION_CODE = 0
"""NIFTI_ECODE_IGNORE, as TotalSegmentator marks its table; nibabel's `get_content` raises for Caret's own code."""

CARET_CODE = 30

STEM = "labels"

_CODES = ("Category", "Type", "TypeModifier")
_COLUMNS = [
    *("LabelValue", "Name", "Color_R", "Color_G", "Color_B", "Color_A"),
    *(f"{column}_{part}" for column in _CODES for part in ("CodingScheme", "CodeValue", "CodeMeaning")),
]
_FIRST_LINES = {
    ".csv": ",".join(_COLUMNS),
    ".ctbl": "# Color table file",
    ".itksnap.txt": "# ITK-SnAP Label Description File",
}


@dataclass(frozen=True)
class Structure:
    """A row of a label table.

    Attributes:
        value: the integer in label files, 1 to 254.
        color: red, green, blue, 0 to 255.
        is_tumor: whether connected components are counted, and which category of codes an unknown name has.
    """

    name: str
    value: int
    color: tuple[int, int, int]
    is_tumor: bool = False

    @property
    def anatomy(self) -> Anatomy:
        """Its codes."""
        return codes_of(self.name, self.is_tumor)


def label_table(
    names: Sequence[str], values: Sequence[int], tumors: Iterable[str] | None = None
) -> tuple[Structure, ...]:
    """Return the table of labels in the order of a label map, with the colors of figures and pages.

    Where tumors are not given, they are recognized by their names.
    """
    colors = label_colors(names)
    tumors = [name for name in names if is_tumor(name)] if tumors is None else set(tumors)
    table = []
    for name, value in zip(names, values, strict=True):
        red, green, blue = bytes.fromhex(colors[name].removeprefix("#"))
        table.append(Structure(name, int(value), (red, green, blue), name in tumors))
    return tuple(table)


def write_label_tables(folder: Path, table: Sequence[Structure], stem: str = STEM) -> None:
    """Write `{stem}.csv`, `{stem}.ctbl` and `{stem}.itksnap.txt`, which give label values names and colors in 3D
    Slicer, ITK-SNAP and table programs."""
    write_csv(folder / f"{stem}.csv", _COLUMNS, [dict(zip(_COLUMNS, _slicer_row(row), strict=True)) for row in table])
    write_text(folder / f"{stem}.ctbl", _slicer_colors(table))
    write_text(folder / f"{stem}.itksnap.txt", _itksnap_labels(table))


def check_label_tables(folder: Path, stem: str = STEM) -> None:
    """Raise StoreError if a file is there that `write_label_tables` would replace, and is of others."""
    for ending, line in _FIRST_LINES.items():
        refuse_others(folder / f"{stem}{ending}", line)


def _slicer_row(structure: Structure) -> list[str | int]:
    row: list[str | int] = [structure.value, structure.name, *structure.color, 255]
    anatomy = structure.anatomy
    for code in (anatomy.category, anatomy.type, anatomy.modifier):
        row += ["", "", ""] if code is None else [code.scheme, code.value, code.meaning]
    return row


def _slicer_colors(table: Sequence[Structure]) -> str:
    """Return a 3D Slicer color table: index, name without spaces, red, green, blue, opacity."""
    rows = [(0, "background", 0, 0, 0, 0)]
    rows += [(row.value, re.sub(r"\s+", "_", row.name), *row.color, 255) for row in table]
    lines = [_FIRST_LINES[".ctbl"], f"# {len(rows)} values", *(" ".join(map(str, row)) for row in sorted(rows))]
    return "\n".join(lines) + "\n"


def _itksnap_labels(table: Sequence[Structure]) -> str:
    """Return ITK-SNAP's label descriptions: index, red, green, blue, opacity, visible, mesh visible, name."""
    lines = [_FIRST_LINES[".itksnap.txt"], "# IDX -R- -G- -B- -A- VIS MSH LABEL"]
    lines.append('    0     0    0    0        0  0  0    "Clear Label"')
    for row in sorted(table, key=lambda row: row.value):
        red, green, blue = row.color
        name = row.name.replace('"', "'")
        lines.append(f'{row.value:5d} {red:5d} {green:4d} {blue:4d}        1  1  1    "{name}"')
    return "\n".join(lines) + "\n"


def header_extension(table: Sequence[Structure], metadata: Mapping[str, str] | None = None) -> bytes:
    """Return the bytes that follow a NIfTI header: the flag of extensions, and one extension with a label table and
    metadata."""
    root = ElementTree.Element("CaretExtension")
    information = ElementTree.SubElement(root, "VolumeInformation", Index="0")
    rows = ElementTree.SubElement(information, "LabelTable")
    for row in table:
        red, green, blue = (f"{part / 255:.6f}" for part in row.color)
        label = ElementTree.SubElement(rows, "Label", Key=str(row.value), Red=red, Green=green, Blue=blue, Alpha="1")
        label.text = row.name
    ElementTree.SubElement(information, "VolumeType").text = "Label"
    if metadata:
        entries = ElementTree.SubElement(information, "MetaData")
        for name, value in metadata.items():
            entry = ElementTree.SubElement(entries, "MD")
            ElementTree.SubElement(entry, "Name").text = name
            ElementTree.SubElement(entry, "Value").text = value
    content = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    size = -(-(8 + len(content)) // 16) * 16
    return b"\1\0\0\0" + struct.pack("<ii", size, EXTENSION_CODE) + content.ljust(size - 8, b"\0")


def read_label_table(path: str | Path) -> dict[int, str]:
    """Return value -> name from a NIfTI file's header extension, empty if there is no label table; ImageError if the
    file is no NIfTI, or its table is no such XML."""
    path = Path(path)
    content = _extension(path)
    try:
        return {int(label.attrib["Key"]): label.text or "" for label in content.iter("Label")}
    except (KeyError, ValueError) as error:
        raise ImageError(f"{path}: the label table in its header cannot be read ({error})") from error


def read_metadata(path: str | Path) -> dict[str, str]:
    """Return the metadata of a NIfTI file's header extension by name; errors as `read_label_table`."""
    entries = _extension(Path(path)).iter("MD")
    return {entry.findtext("Name") or "": entry.findtext("Value") or "" for entry in entries}


def _extension(path: Path) -> ElementTree.Element:
    """Return the XML of a file's extension with a label table; an empty element without one."""
    with open_volume(path) as stream:
        content = stream.extensions
    order = "<" if stream.header.endianness == "<" else ">"
    start = 4
    while content[:1] not in (b"", b"\0") and start + 8 <= len(content):
        size, code = struct.unpack_from(order + "ii", content, start)
        if size < 16:
            break
        if code in (EXTENSION_CODE, CARET_CODE) and b"<LabelTable" in content[start : start + size]:
            try:
                return ElementTree.fromstring(content[start + 8 : start + size].rstrip(b"\0").decode("utf-8"))
            except (ElementTree.ParseError, ValueError) as error:
                raise ImageError(f"{path}: the label table in its header cannot be read ({error})") from error
        start += size
    return ElementTree.Element("None")
