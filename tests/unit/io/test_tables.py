"""Tables as spreadsheets save them."""

import codecs
from functools import partial

import pytest

from flare23_lib.errors import StoreError
from flare23_lib.evaluation.tables import read_table
from flare23_lib.io.tables import read_csv

TEXT = "Name,liver_DSC\r\nMüller,0.5\r\n"


def first_row(read, path):
    rows = read(path)
    return rows[0] if read is read_csv else rows.iloc[0].astype(str).to_dict()


@pytest.mark.parametrize("read", [read_csv, read_table, partial(read_table, as_text=True)])
@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_a_mark_in_front_of_the_text_is_no_part_of_it(tmp_path, read, mark, ending):
    path = tmp_path / "t.csv"
    path.write_bytes(mark + TEXT.replace("\r\n", ending).encode())
    assert first_row(read, path) == {"Name": "Müller", "liver_DSC": "0.5"}


@pytest.mark.parametrize("read", [read_csv, read_table, partial(read_table, as_text=True)])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "ascii"])
def test_semicolons_between_columns_are_named(tmp_path, read, encoding):
    path = tmp_path / "t.csv"
    path.write_bytes(TEXT.replace(",", ";").replace(".", ",").replace("ü", "u").encode(encoding))
    with pytest.raises(StoreError, match=r"t.csv: has semicolons between its columns; save it with commas"):
        read(path)


@pytest.mark.parametrize("read", [read_csv, read_table, partial(read_table, as_text=True)])
@pytest.mark.parametrize("content", [TEXT.encode("utf-16"), TEXT.encode("latin-1")])
def test_other_encodings_are_no_tables(tmp_path, read, content):
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(StoreError, match="is not a CSV table"):
        read(tmp_path / "t.csv")


def test_a_table_of_one_column_is_a_table(tmp_path):
    (tmp_path / "t.csv").write_text("case\na;b\n")
    assert read_csv(tmp_path / "t.csv") == [{"case": "a;b"}]
