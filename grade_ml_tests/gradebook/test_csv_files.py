"""Reading CSV files: what is accepted, and how a broken file is named."""

from __future__ import annotations

import gzip
import io
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grade_ml.core import texts
from grade_ml.core.errors import SourceError
from grade_ml.gradebook import csv_files
from grade_ml.gradebook.csv_files import CsvRows
from grade_ml.gradebook.limits import LIMITS


def _read(data: bytes, **options: object) -> list[CsvRows]:
    return list(csv_files.read(lambda: io.BytesIO(data), "a.csv", ["x", "y"], **options))  # type: ignore[arg-type]


def _rows(data: bytes, **options: object) -> CsvRows:
    (rows,) = _read(data, **options)
    return rows


@pytest.mark.parametrize(
    "data",
    [
        b"x,y\n1,a\n2,b\n",
        b"\xef\xbb\xbfx,y\n1,a\n2,b\n",
        b"x,y\r\n1,a\n2,b\r\n",
        b"x,y\r1,a\r2,b",
        b'"x", y ,z\n"1",a,\n2," b",9',
        b"y,x\n\na,1\n\n\nb,2\n\n",
        b"X,Y\n1.0,a\n+2e0,b\n",
    ],
    ids=["plain", "bom", "mixed ends", "old mac ends", "quotes and blanks", "empty lines", "case"],
)
def test_the_ways_in_which_people_write_the_same_rows(data: bytes) -> None:
    rows = _rows(data, optional=())
    frame = rows.frame({"x": rows.number("x"), "y": rows.text("y")})

    assert frame["x"].tolist() == [1, 2]
    assert frame["y"].tolist() == ["a", "b"]
    assert rows.problems is None


@pytest.mark.security
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "a.csv is empty"),
        (b"\n1,2\n", "a.csv is empty"),
        (b"x,z\n1,2\n", "has no column y; its first line names x, z"),
        (b"z,y\n1,2\n", "has no column x"),
        (b"x;y\n1;2\n", "separates its values by semicolons, not by commas"),
        (b'"x"\t"y"\n1\t2\n', "separates its values by tabs"),
        (b"X|Y|z\n1|2|3\n", "separates its values by vertical bars"),
        (b"11391,2013J\n", "has no column x, y; its first line names none"),
        (b"x,y\n" + b"1\n" * csv_files.MALFORMED_ROWS, "100,000 lines have more or fewer values"),
        (b"x,y,y\n1,2,3\n", "names the column y twice"),
        (b"x,y\n1,a\n2,\xe9\n", "not UTF-8: line 3 has the byte 0xe9"),
        ("x,y\n1,a\n".encode("utf-16"), "not UTF-8: line 1 has the byte 0xff"),
        (b'x,y\n1,a\n2,"b\n3,c\n', "a quote is never closed"),
        (b'x,y\n1,"a\n2,b\n3,c\n', "a quote is never closed"),
        (
            b"x,y," + b",".join(b"column %d" % n for n in range(8000)) + b"\n1,a" + b"," * 8000,
            "a.csv has a first line of more than 65,536 bytes",
        ),
        (b"x,y," + b"z" * 65536, "a.csv has a first line of more than 65,536 bytes"),
        (
            b"x,y\n1," + b"a" * 2 * csv_files.BLOCK_BYTES + b"\n2,b\n",
            "a value is longer than 8,388,608 bytes",
        ),
    ],
)
def test_a_file_that_cannot_be_trusted_is_an_error_with_a_remedy(data: bytes, message: str) -> None:
    with pytest.raises(SourceError, match=message) as caught:
        _read(data)
    assert caught.value.remedy


def test_a_gzip_file_cut_short_or_not_gzip_is_an_error() -> None:
    random = np.random.default_rng(0).integers(0, 9, 100_000)
    whole = gzip.compress(b"x,y\n" + b"".join(b"%d,a\n" % n for n in random))

    def opener(data: bytes) -> Callable[[], io.BufferedIOBase]:
        return lambda: gzip.GzipFile(fileobj=io.BytesIO(data))

    for data in (whole[: len(whole) // 2], whole[:-4], b"x,y\n1,2\n"):
        with pytest.raises(SourceError, match="is cut short or damaged"):
            list(csv_files.read(opener(data), "a.csv", ["x", "y"]))
    read = csv_files.read(opener(whole), "a.csv", ["x", "y"])
    assert sum(len(rows.lines) for rows in read) == len(random)


def test_a_header_only_gives_no_rows() -> None:
    for data in (b"x,y", b"x,y\n", b"\xef\xbb\xbfx,y\r\n"):
        assert len(_rows(data).lines) == 0


def test_lines_with_too_many_or_few_values_are_set_aside_with_their_numbers() -> None:
    rows = _rows(b"x,y\n1,a\n2\n3,c,d\n4,d\n5\n")
    rows.text("x")

    assert rows.frame({})["row"].tolist() == [2, 5]
    assert rows.problems is not None
    assert rows.problems["row"].tolist() == [3, 4, 6]
    assert rows.problems["value"].isna().all()
    assert "has 1 values where the header has 2" in rows.problems["reason"][0]


@given(st.lists(st.sampled_from([b"1,a\n", b"2\n", b"\n", b"3,4,5\r\n", b"6,b\r\n"]), max_size=40))
def test_line_numbers_are_exact_among_faulty_and_empty_lines(lines: list[bytes]) -> None:
    rows = _rows(b"x,y\n" + b"".join(lines))
    good = rows.frame({"x": rows.text("x")})["row"].tolist()
    bad = [] if rows.problems is None else rows.problems["row"].tolist()

    assert good == [n for n, line in enumerate(lines, 2) if line in (b"1,a\n", b"6,b\r\n")]
    assert bad == [n for n, line in enumerate(lines, 2) if line in (b"2\n", b"3,4,5\r\n")]


def test_line_numbers_go_on_over_the_blocks_of_a_large_file() -> None:
    line = b"%07d," + b"a" * 90 + b"\n"
    count = 2 * csv_files.BLOCK_BYTES // 98
    data = b"x,y\n" + b"".join(line % n if n % 1000 else b"bad\n" for n in range(2, count))
    batches = _read(data)

    assert len(batches) > 1
    for rows in batches:
        assert (rows.number("x") == rows.lines)[~rows.rejected].all()
    bad = [row for b in batches if b.problems is not None for row in b.problems["row"]]
    assert bad == list(range(1000, count, 1000))


def test_a_nul_character_rejects_its_row_only() -> None:
    rows = _rows(b"x,y\n1,a\n2,b\0c\n")

    assert rows.frame({"y": rows.text("y")})["y"].tolist() == ["a"]
    assert rows.problems is not None
    assert rows.problems[["row", "column", "value"]].to_numpy().tolist() == [[3, "y", "b␀c"]]


@pytest.mark.security
@given(
    st.text(st.characters(codec="utf-8", exclude_characters='",'), max_size=20),
    st.integers(0, 3),
)
def test_a_row_with_a_character_that_steers_is_rejected_and_no_other(text: str, at: int) -> None:
    values = ["a", "é\t\u2019b", "שלום\u200f", "\u2067c\u2069"]
    values.insert(at, text)
    rows = _rows(b"x,y\n" + b"".join(f'{n},"{v}"\n'.encode() for n, v in enumerate(values)))

    steers = bool(re.search(texts.STEERING, text.strip()))
    assert rows.rejected.tolist() == [steers and n == at for n in range(5)]
    if rows.problems is not None:
        assert not re.search(texts.STEERING, "".join(rows.problems["value"]))


@pytest.mark.security
def test_a_control_character_is_detected_where_two_reads_meet() -> None:
    for gap in range(5):
        body = b"x,y\n1," + b"a" * (csv_files.HEADER_BYTES - 6 - gap) + "\u202e\n".encode()
        assert _rows(body).rejected.tolist() == [True]


@pytest.mark.security
def test_a_row_that_steers_beside_a_line_with_too_many_values_is_rejected() -> None:
    rows = _rows(b"x,y\n1,a\x1b[2J\n2,b,c\n3,d\n")

    rows.required("y")
    assert sorted(rows.lines[rows.rejected]) == [2, 3]


@pytest.mark.security
@pytest.mark.parametrize("first", [b"\n", b"", b","])
def test_lines_and_headers_without_end_are_refused_without_being_held(first: bytes) -> None:
    """A gigabyte that is made as it is read; memory stays at some blocks."""

    class Endless(io.RawIOBase):
        given = 0

        def read(self, size: int = -1) -> bytes:
            self.given += size
            return b"x,y" + first if self.given == size else b"a," * (size // 2)

    endless = Endless()
    with pytest.raises(SourceError, match=r"longer than|first line of more than|has no column"):
        list(csv_files.read(lambda: endless, "made.csv", ["x", "y"]))
    assert endless.given < 8 * csv_files.BLOCK_BYTES


@pytest.mark.security
def test_too_many_columns_are_refused() -> None:
    names = ",".join(f"c{n}" for n in range(LIMITS.columns))
    with pytest.raises(SourceError, match=r"2,002 columns; at most 2,000"):
        _read(f"x,y,{names}\n".encode())


@pytest.mark.slow
@pytest.mark.security
def test_a_gzipped_file_unpacks_to_what_it_may(tmp_path: Path) -> None:
    path = tmp_path / "results.csv.gz"
    with gzip.open(path, "wb") as file:
        file.write(b"x,y\n" + b"1,a\n" * (24 << 20))
    assert path.stat().st_size < (1 << 20)
    with pytest.raises(SourceError, match=r"results\.csv\.gz unpacks to more than 67,108,864"):
        list(csv_files.read(csv_files.opener(path), path.name, ["x", "y"]))


@pytest.mark.security
@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("1.5e1", "number", 15.0),
        ("+.5", "number", 0.5),
        ("-0", "number", 0.0),
        ("nan", "number", None),
        ("-Infinity", "number", None),
        ("1e999", "number", None),
        ("1,5", "number", None),
        ("0x1F", "number", None),
        ("12", "integer", 12),
        ("12.0", "integer", 12),
        ("-51.0", "integer", -51),
        ("1e1", "integer", 10),
        ("12.5", "integer", None),
        ("9" * 30, "integer", None),
        ("9" * 18, "integer", None),
        ("2024-02-29", "date", "2024-02-29"),
        ("2024-02-29T23:59:00Z", "date", "2024-02-29"),
        ("2025-09-08 23:14:05", "date", "2025-09-08"),
        ("2025-09-08 23:14:05.123456789", "date", "2025-09-08"),
        ("2025-09-08 23:14:05+00", "date", "2025-09-08"),
        ("2025-09-08T23:14:05.000-0500", "date", "2025-09-08"),
        ("2025-09-08 23:14:05 +05:30", "date", "2025-09-08"),
        ("2025-09-08 23:14:05 UTC", "date", "2025-09-08"),
        ("2025-09-08t23:14z", "date", "2025-09-08"),
        ("2023-02-29", "date", None),
        ("2024-W05-1", "date", None),
        ("2024-02-29X10:00", "date", None),
        ("2024-02-29 25:00", "date", None),
        ("29.02.2024", "date", None),
        ("20240229", "date", None),
        ("2024-02-29Tnoon", "date", None),
        ("0201-05-01", "date", None),
        ("9999-12-31", "date", None),
        ("9999-12-31T23:00:00-05:00", "date", None),
        ("0001-01-01T00:00:00+05:00", "date", None),
        ("1677-09-20", "date", None),
        ("1677-09-20 23:00-14:00", "date", None),
        ("2262-04-12", "date", None),
    ],
)
def test_values_are_read_exactly_or_rejected(text: str, kind: str, value: object) -> None:
    rows = _rows(f'x,y\n"{text}",a\n,b\n'.encode())
    read = getattr(rows, kind)("x")

    assert read.isna().tolist() == [value is None, True]
    if value is None:
        assert rows.problems is not None
        assert rows.problems["value"].tolist() == [text]
    else:
        assert rows.problems is None
        assert (str(read[0].date()) if kind == "date" else read[0]) == value


@pytest.mark.parametrize("name", ["", "Unnamed: 0", "Unnamed: 1_level_0"])
def test_a_column_without_a_name_is_ignored_and_reported(name: str) -> None:
    for header, line in ((f"{name},x,y", "0,1,a"), (f"x,{name},y", "1,0,a"), ("x,y,", "1,a,")):
        rows = _rows(f"{header}\n{line}\n".encode(), optional=None)

        assert rows.names == ["x", "y"]
        assert rows.frame({"x": rows.text("x")})["x"].tolist() == ["1"]
        assert "a column without a name" in rows.notes[0]
        assert "pandas" in rows.notes[0]


def test_a_rejected_row_whose_keys_are_readable_may_stay_as_unknown() -> None:
    rows = _rows(b"x,y,z\nk1,5,a\nk2,five,b\n,6,c\nk\x014,7,d\nk5,8,e,f\nk6\n", optional=["z"])
    columns = {"x": rows.identifier("x"), "y": rows.number("y")}
    frame = rows.frame(columns, keys=["x"], unknown={"y": None, "status": "graded"})

    assert frame["x"].tolist() == ["k1", "k2", "k5", "k6"]
    assert frame["y"].fillna(-1).tolist() == [5, -1, -1, -1]
    assert frame["status"].fillna("-").tolist() == ["-", "graded", "graded", "graded"]
    assert frame["row"].tolist() == [2, 3, 6, 7]
    assert rows.problems is not None
    assert sorted(rows.problems["row"]) == [3, 4, 5, 6, 7]
    assert rows.frame(columns)["x"].tolist() == ["k1"]


@given(
    st.sampled_from(["true", "TRUE", "t", "Yes", "1", "1.0"]),
    st.sampled_from(["false", "False", "n", "NO", "0", "0.0"]),
)
def test_yes_and_no_have_many_spellings(yes: str, no: str) -> None:
    rows = _rows(f"x,y\n{yes},a\n{no},b\n,c\nperhaps,d\n".encode())

    assert rows.boolean("x").tolist()[:2] == [True, False]
    assert rows.boolean("x").isna().tolist() == [False, False, True, True]
    assert rows.rejected.tolist() == [False, False, False, True]


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1))
def test_numbers_survive_reading(numbers: list[float]) -> None:
    rows = _rows(b"x,y\n" + "".join(f"{n!r},a\n" for n in numbers).encode())

    assert rows.number("x").tolist() == numbers
