"""Reading CSV files that people made: batch by batch, with line numbers and named faults.

A fault of one value or one line becomes a problem of that line; a fault of the file (encoding,
compression, header, quotes) is a `SourceError`. What columns mean is not known here. Spellings in
which nothing is lost are accepted: `19.0` for a whole number, a blank between day and time, names
of columns in another case.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import lzma
import re
import zipfile
import zlib
from codecs import getincrementaldecoder
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from grade_ml.core.dates import FIRST_YEAR, LAST_YEAR
from grade_ml.core.errors import SourceError
from grade_ml.core.storage import open_file
from grade_ml.core.texts import STEERING, UNSEEN
from grade_ml.gradebook.bundle import ROW, problems
from grade_ml.gradebook.limits import LIMITS
from grade_ml.gradebook.rules import LONGEST_ID

if TYPE_CHECKING:
    import pyarrow as pa

#: Opens a file for reading its (unpacked) bytes.
Opener = Callable[[], IO[bytes] | io.BufferedIOBase]

#: Bytes parsed at a time: 100,000 to 300,000 rows of a gradebook, some 50 MB once parsed.
BLOCK_BYTES = 8 << 20
#: A header longer than this is no header; the limit stops reading a huge file without line ends.
HEADER_BYTES = 1 << 16
#: With more malformed lines than this in one file, the header is wrong, not the lines.
MALFORMED_ROWS = 100_000

#: Whole numbers up to here are exact as float64, and sums of them fit the database's bigint.
LARGEST_COUNT = 10**15

#: The bytes of what `STEERING` names beyond ASCII.
_WIDE_STEERING = re.compile(rb"\xc2[\x80-\x9f]|\xe2\x80[\xaa-\xae]")
_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
#: Columns that programs write for their own use, not because the table has them.
_NAMELESS = re.compile(r"(Unnamed: \d+(_level_\d+)?)?")
#: What separates values in files that are not separated by commas.
_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "vertical bars"}
BOOLEANS = {
    **dict.fromkeys(("true", "t", "yes", "y", "on", "1", "1.0"), True),
    **dict.fromkeys(("false", "f", "no", "n", "off", "0", "0.0"), False),
}


class CsvRows:
    """Rows of one file: text columns, line numbers, and the problems so far.

    The readers (`text`, `number`, …) return one value per row; a value that cannot be read becomes
    missing and its row is rejected: listed in `problems` and left out by `frame`.
    """

    def __init__(
        self,
        file: str,
        columns: dict[str, pa.Array],
        lines: np.ndarray,
        personal: Collection[str] = (),
        notes: tuple[str, ...] = (),
    ) -> None:
        import pyarrow.compute as pc

        self.file = file
        self.lines = lines
        self.notes = notes
        self._columns = {name: pc.utf8_trim_whitespace(c) for name, c in columns.items()}
        self._personal = frozenset(personal)
        self._accepted = np.ones(len(lines), dtype=bool)
        self._broken = np.zeros(len(lines), dtype=bool)
        self._faults: dict[str, np.ndarray] = {}
        self._problems: list[pd.DataFrame] = []

    @property
    def names(self) -> list[str]:
        """The columns that were read."""
        return list(self._columns)

    @property
    def problems(self) -> pd.DataFrame | None:
        """All problems so far, None if there are none."""
        return pd.concat(self._problems, ignore_index=True) if self._problems else None

    @property
    def rejected(self) -> np.ndarray:
        """Which rows were rejected so far."""
        return ~self._accepted

    @property
    def last_text(self) -> str:
        """The values of the last row, joined."""
        return "".join(c[-1].as_py() or "" for c in self._columns.values() if len(c))

    def frame(
        self,
        columns: dict[str, Any],
        where: pd.Series | None = None,
        *,
        keys: Collection[str] = (),
        unknown: Mapping[str, Any] | None = None,
    ) -> pd.DataFrame:
        """Return `columns` and the line numbers of the rows not rejected (and in `where`).

        Parameters
        ----------
        columns
            One value per row, or one for all.
        where
            The rows to return; `None` means all.
        keys, unknown
            Rejected rows whose columns `keys` of the file could be read are returned, too, with
            the values of `unknown` in place of their own.
        """
        frame = pd.DataFrame({**columns, ROW: self.lines})
        chosen = self._accepted
        if unknown is not None and not self._accepted.all():
            rescued = self.rejected & self.readable(*keys)
            for name, value in unknown.items():
                given = frame[name] if name in frame else pd.Series(pd.NA, frame.index)
                kind = given.dtype if name in frame else pd.Series([value]).convert_dtypes().dtype
                frame[name] = given.astype(kind).mask(rescued, value)
            chosen = chosen | rescued
        if where is not None:
            chosen = chosen & np.asarray(where, dtype=bool)
        return frame[chosen].reset_index(drop=True)

    def split(self, chosen: pd.Series) -> tuple[CsvRows, CsvRows]:
        """Return the other rows, with the problems so far, and the chosen rows.

        A missing value of `chosen` means another row. Call it before any row is rejected.
        """
        mask = chosen.fillna(False).to_numpy(bool)
        if not mask.any():
            return self, self._part(mask)
        others = self._part(~mask)
        others._problems = self._problems
        return others, self._part(mask)

    def _part(self, mask: np.ndarray) -> CsvRows:
        import pyarrow as pa

        columns = {name: c.filter(pa.array(mask)) for name, c in self._columns.items()}
        part = CsvRows(self.file, columns, self.lines[mask], self._personal, self.notes)
        part._accepted, part._broken = self._accepted[mask], self._broken[mask]
        return part

    def readable(self, *names: str) -> np.ndarray:
        """Return in which rows all these columns have a value to which nothing was objected."""
        whole = np.ones(len(self.lines), dtype=bool)
        for name in names:
            whole &= self.text(name).notna().to_numpy(bool)
            whole &= ~self._faults.get(name, np.False_)
        return whole

    def text(self, name: str) -> pd.Series:
        """Return the trimmed text, missing where empty or where the file lacks the column."""
        import pyarrow as pa

        return pd.Series(self._column(name), dtype=pd.ArrowDtype(pa.string())).astype(
            "string[pyarrow]"
        )

    def required(self, name: str) -> pd.Series:
        """Return the trimmed text; rows without it are rejected."""
        values = self.text(name)
        self.reject(values.isna(), name, "is empty; every row needs a value here")
        return values

    def identifier(self, name: str, where: pd.Series | np.ndarray | bool = True) -> pd.Series:
        """Return the trimmed text; rows (of `where`) without it are rejected, and odd ids in all.

        The gradebook cannot hold ids that are too long or contain control characters.
        """
        import pyarrow.compute as pc

        values = self.text(name)
        self.reject(values.isna() & where, name, "is empty; every row needs a value here")
        column = self._column(name)
        long = pc.greater(pc.utf8_length(column), LONGEST_ID)
        self.reject(
            pc.fill_null(long, False),
            name,
            f"is longer than {LONGEST_ID} characters; look for lost quotes",
        )
        strange = pc.match_substring_regex(column, UNSEEN)
        self.reject(
            pc.fill_null(strange, False), name, "holds a control character; remove it from the id"
        )
        return values

    def whole(self, name: str) -> pd.Series:
        """Return ids that are whole numbers as texts, `11391.0` as `11391`."""
        import pyarrow.compute as pc

        column = self._column(name)
        # Programs turn a whole column into such numbers, so its first values suffice.
        if pc.any(pc.match_substring(column.slice(0, 100), ".")).as_py():
            self._columns[name] = pc.replace_substring_regex(column, r"^(\d+)\.0+$", r"\1")
        return self.text(name)

    def number(self, name: str) -> pd.Series:
        """Return float64; rows with other text or an infinite number are rejected."""
        values, words = self.number_or_text(name)
        self.reject(
            words.notna(),
            name,
            "is no finite number; write a number such as 67.5 or leave it empty",
        )
        return values

    def number_or_text(self, name: str) -> tuple[pd.Series, pd.Series]:
        """Return float64 of the finite numbers, and the texts that are none; nothing: rejected."""
        import pyarrow as pa

        values, bad = _convert(self._column(name), pa.float64(), _NUMBER)
        texts = self.text(name)
        bad = bad | ~np.isfinite(values.where(texts.notna(), 0.0))
        return values.mask(bad), texts.where(bad)

    def integer(self, name: str) -> pd.Series:
        """Return whole numbers as float64 (missing: NaN), however written; others: rejected."""
        import pyarrow as pa

        values, bad = _convert(self._column(name), pa.float64(), _NUMBER)
        bad = bad | np.asarray(values.notna() & (values.mod(1) != 0))
        bad = bad | np.asarray(values.abs() > LARGEST_COUNT)
        self.reject(bad, name, "is not a whole number; write a number such as 12 or leave it empty")
        return values.mask(bad)

    def boolean(self, name: str) -> pd.Series:
        """Return yes or no in the usual spellings (nullable boolean); other texts: rejected."""
        return self.choice(name, BOOLEANS).astype("boolean")

    def date(self, name: str) -> pd.Series:
        """Return datetime64[s] of ISO dates (a time of day is dropped); others are rejected."""
        import pyarrow as pa

        dates = self._moments(name, _as_date, pa.date32(), pa.timestamp("s"))
        bad = self.text(name).notna() & dates.isna()
        self.reject(bad, name, "is not a date; write it as 2024-01-31 or leave it empty")
        wild = dates.notna() & ~dates.dt.year.between(FIRST_YEAR, LAST_YEAR)
        self.reject(wild, name, f"lies outside the years {FIRST_YEAR} to {LAST_YEAR}; correct it")
        return dates.mask(wild)

    def moment(self, name: str) -> pd.Series:
        """Return datetime64[us], UTC, of ISO dates and times; missing where there is none."""
        import pyarrow as pa

        return self._moments(name, _as_moment, pa.timestamp("us"), pa.timestamp("us"))

    def _moments(
        self, name: str, read: Callable[[str], Any], kind: pa.DataType, stored_as: pa.DataType
    ) -> pd.Series:
        import pyarrow as pa

        texts = self._column(name).dictionary_encode()
        # A column of a million dates has a few hundred different values.
        values = pa.array([read(text) for text in texts.dictionary.to_pylist()], kind)
        return pd.Series(values.take(texts.indices).cast(stored_as).to_numpy(False))

    def choice(self, name: str, meanings: dict[str, Any]) -> pd.Series:
        """Return the meaning of each text, compared without regard to case; others: rejected."""
        texts = self.text(name)
        lowered = texts.str.lower()
        unknown = texts.notna() & ~lowered.isin(list(meanings))
        self.reject(unknown, name, f"is unknown; write one of: {', '.join(meanings)}")
        return lowered.map(meanings)

    def attributes(self, texts: Iterable[str], numbers: Iterable[str] = ()) -> pd.Series:
        """Return one JSON object per row with the columns that have a value."""
        columns = {name: self.text(name) for name in texts}
        columns |= {name: self.integer(name).astype("Int64") for name in numbers}
        names = sorted(columns)
        rows = zip(*(columns[name].astype(object) for name in names), strict=True)
        objects = [
            json.dumps({n: v for n, v in zip(names, row, strict=True) if v is not pd.NA})
            for row in rows
        ]
        return pd.Series(objects or ["{}"] * len(self.lines), dtype="string[pyarrow]")

    def reject(
        self,
        bad: pd.Series | np.ndarray | pa.Array,
        column: str,
        reason: str,
        personal: bool = False,
    ) -> None:
        """Reject the rows where `bad`, naming the column, its value and the reason."""
        mask = np.asarray(bad, dtype=bool)
        if mask.any():
            self._faults[column] = self._faults.get(column, np.False_) | mask
            self._accepted &= ~mask
            # A line with too many or too few values gets no further problem.
            well_formed = mask & ~self._broken
            if not well_formed.any():
                return
            personal = personal or column in self._personal
            values = self.text(column)[well_formed]
            new = problems(
                self.file, self.lines[well_formed], column, values, reason, personal=personal
            )
            self._problems.append(new)

    def drop_blank_lines(self) -> None:
        """Leave out lines without any value, which trailing line ends make."""
        import pyarrow as pa
        import pyarrow.compute as pc

        blank = np.ones(len(self.lines), dtype=bool)
        for column in self._columns.values():
            if column.null_count == 0:
                return
            blank &= np.asarray(pc.is_null(column))
        self._columns = {name: c.filter(pa.array(~blank)) for name, c in self._columns.items()}
        self.lines = self.lines[~blank]
        self._accepted, self._broken = self._accepted[~blank], self._broken[~blank]

    def reject_steering(self) -> None:
        """Reject rows with characters that steer what shows them, or that no database holds."""
        import pyarrow.compute as pc

        for name, column in self._columns.items():
            nul = np.asarray(pc.fill_null(pc.match_substring(column, "\0"), False))
            others = np.asarray(pc.fill_null(pc.match_substring_regex(column, STEERING), False))
            if others.any():
                self._columns[name] = pc.replace_substring_regex(
                    pc.replace_substring(column, "\0", "\u2400"), STEERING, "\ufffd"
                )
                self.reject(nul, name, "holds a NUL character (shown as \u2400); remove it")
                self.reject(
                    others & ~nul,
                    name,
                    "holds a control character or one that turns the direction of writing (shown "
                    "as \ufffd); remove it, or correct the encoding",
                )

    def add_malformed(self, malformed: Collection[Any], header: list[str]) -> None:
        """Add the lines that have too many or too few values, rejected, as far as they go."""
        import pyarrow as pa

        if not malformed:
            return
        texts = [re.sub(STEERING, "\ufffd", row.text.replace("\0", "\u2400")) for row in malformed]
        lines = np.array([row.number + 1 for row in malformed])
        reasons = [
            f"has {row.actual_columns} values where the header has {len(header)}; "
            "look for a comma or quote too many or too few"
            for row in malformed
        ]
        # Which value belongs to which column is unknown, so none is shown: it may be personal.
        unknown = pd.Series([None] * len(lines))
        self._problems.append(problems(self.file, lines, "(line)", unknown, reasons))
        rows = [dict(zip(header, _values_of(text), strict=False)) for text in texts]
        for name, column in self._columns.items():
            values = [(row.get(name) or "").strip() or None for row in rows]
            self._columns[name] = pa.concat_arrays([column, pa.array(values, pa.string())])
        self.lines = np.append(self.lines, lines)
        nothing = np.zeros(len(lines), dtype=bool)
        self._accepted = np.append(self._accepted, nothing)
        self._faults = {name: np.append(mask, nothing) for name, mask in self._faults.items()}
        self._broken = np.append(self._broken, np.ones(len(lines), dtype=bool))

    def _column(self, name: str) -> pa.Array:
        import pyarrow as pa

        column = self._columns.get(name)
        return pa.nulls(len(self.lines), pa.string()) if column is None else column


def find(folder: Path, name: str) -> Path | None:
    """Return `name` or `name.gz` in the folder, None if there is neither.

    Raises
    ------
    SourceError
        There is a folder of that name.
    """
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_dir():
            raise SourceError(f"{path} is a folder.", f"Put the file {name} in its place.")
        if path.exists():
            return path
    return None


def require(folder: Path, name: str) -> Path:
    """Return `name` or `name.gz` in the folder; raise `SourceError` if there is neither."""
    path = find(folder, name)
    if path is None:
        raise SourceError(
            f"The folder {folder} has no {name} (nor {name}.gz).",
            "Add the file, or name the folder that holds it.",
        )
    return path


def require_folder(path: Path) -> None:
    """Raise `SourceError` unless `path` is a folder; nothing is read."""
    if path.is_dir():
        return
    if not path.exists():
        raise SourceError(f"{path} does not exist.", "Name the folder that holds the files.")
    raise SourceError(
        f"{path} is a file ({path.stat().st_size:,} bytes), not a folder; it was not read.",
        "Name the folder that holds the files.",
    )


def opener(path: Path) -> Opener:
    """Return a function that opens a plain or (by its name) gzipped file."""
    return lambda: _Unpacked(path) if path.suffix == ".gz" else open_file(path)


def read(  # noqa: PLR0913 - what a caller may require of a file
    open_file: Opener,
    name: str,
    required: Collection[str],
    *,
    optional: Collection[str] | None = (),
    missing: str = "",
    personal: Collection[str] = (),
) -> Iterator[CsvRows]:
    """Yield the rows of a CSV file (UTF-8, with or without BOM, any line ends), batch by batch.

    A file with a header only yields one batch without rows.

    Parameters
    ----------
    open_file
        Opens the file for reading bytes.
    name
        The file's name in messages.
    required, optional
        Columns to read; None for `optional` means all. Columns beyond these are ignored.
    missing
        A text that means a missing value, beside the empty text.
    personal
        Columns whose values identify a student.

    Raises
    ------
    SourceError
        The file is empty, lacks a column, is not UTF-8, is cut short, or ends inside quotes.

    Notes
    -----
    Lines are counted from 1, the header; a quoted value with line ends in it counts as one line.
    """
    try:
        with open_file() as file:
            stream = _CheckedStream(file, name)
            header, notes = _header(stream.header, name, required, optional or ())
            requested = [
                n
                for n in header
                if not _NAMELESS.fullmatch(n) and (optional is None or n in {*required, *optional})
            ]
            end = ""
            for columns, lines, malformed in _blocks(stream, name, header, requested, missing):
                rows = CsvRows(name, columns, lines, personal, notes)
                rows.drop_blank_lines()
                end = malformed[-1].text if malformed else rows.last_text
                if stream.has_steering:
                    rows.reject_steering()
                rows.add_malformed(malformed, header)
                yield rows
    except (EOFError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile, lzma.LZMAError) as error:
        raise SourceError(
            f"{name} is cut short or damaged: {error}.", "Copy or download it again."
        ) from error
    except OSError as error:
        raise SourceError(
            f"{name} cannot be read: {error.strerror or error}.",
            "Check the file and its permissions.",
        ) from error
    if stream.quotes % 2 and any(mark in end for mark in "\r\n"):
        raise SourceError(
            f"{name} ends inside a quoted value: a quote is never closed.",
            'Close the quote; a quote inside a quoted value is written twice ("").',
        )


def _blocks(
    stream: _CheckedStream, name: str, header: list[str], requested: list[str], missing: str
) -> Iterator[tuple[dict[str, pa.Array], np.ndarray, list[Any]]]:
    """Yield text columns, their line numbers, and the rows that have too many or few values."""
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    malformed: list[Any] = []

    def set_aside(row: Any) -> str:
        malformed.append(row)
        return "skip" if len(malformed) < MALFORMED_ROWS else "error"

    nothing = {n: pa.array([], pa.string()) for n in requested}, np.array([], dtype="int64")
    if stream.at_end:
        yield *nothing, []
        return
    try:
        reader = arrow_csv.open_csv(
            pa.PythonFile(stream, mode="r"),
            arrow_csv.ReadOptions(use_threads=False, block_size=BLOCK_BYTES, column_names=header),
            arrow_csv.ParseOptions(
                newlines_in_values=True, invalid_row_handler=set_aside, ignore_empty_lines=False
            ),
            arrow_csv.ConvertOptions(
                column_types=dict.fromkeys(requested, pa.string()),
                include_columns=requested,
                null_values=["", missing],
                strings_can_be_null=True,
                check_utf8=False,
            ),
        )
        line, skipped = 2, np.array([], dtype="int64")
        for batch in reader:
            skipped_rows, malformed[:] = list(malformed), []
            skipped = np.append(skipped, [row.number + 1 for row in skipped_rows]).astype("int64")
            lines = np.setdiff1d(np.arange(line, line + batch.num_rows + len(skipped)), skipped)
            lines = lines[: batch.num_rows]
            line = lines[-1] + 1 if len(lines) else line
            skipped = skipped[skipped >= line]
            yield dict(zip(batch.schema.names, batch.columns, strict=True)), lines, skipped_rows
        if malformed:
            yield *nothing, malformed
    except pa.ArrowInvalid as error:
        # The parser's own message is left out: it quotes the row.
        fault = (
            f"{MALFORMED_ROWS:,} lines have more or fewer values than the header"
            if len(malformed) >= MALFORMED_ROWS
            else f"a value is longer than {BLOCK_BYTES:,} bytes"
        )
        raise SourceError(
            f"{name} is not a CSV file of this header: {fault}.",
            "Look for a quote that is never closed, and compare the header with the rows.",
        ) from error


class _Unpacked(gzip.GzipFile):
    """The bytes of a gzipped file, as far as they can be those of a gradebook."""

    def __init__(self, path: Path) -> None:
        self._packed = open_file(path)
        super().__init__(fileobj=self._packed)
        self._path, self._given = path, 0
        by_ratio = max(LIMITS.checked_from_bytes, LIMITS.ratio * path.stat().st_size)
        self._most = min(by_ratio, LIMITS.unpacked_bytes)

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self._given += len(data)
        if self._given > self._most:
            raise SourceError(
                f"{self._path} unpacks to more than {self._most:,} bytes; it was not read. At most "
                f"{LIMITS.unpacked_bytes:,} bytes are read from a packed file, and "
                f"{LIMITS.ratio} times its size.",
                "If it is what it should be, unpack it.",
            )
        return data

    def close(self) -> None:
        super().close()
        self._packed.close()


class _CheckedStream(io.RawIOBase):
    """The bytes of a text file behind its header line, checked on the way.

    Raises `SourceError` at the first byte that is not UTF-8: here its line is still known.
    """

    def __init__(self, file: IO[bytes] | io.BufferedIOBase, name: str) -> None:
        super().__init__()
        self._file, self._name = file, name
        self._decoder = getincrementaldecoder("utf-8")()
        self._ahead, self._line, self._position = b"", 1, 0
        self.quotes, self.has_steering, self._tail = 0, False, b""
        start = self._next_bytes(HEADER_BYTES)
        self.header = b"".join(start.splitlines(keepends=True)[:1])
        if len(self.header) == HEADER_BYTES and not self.header.endswith((b"\n", b"\r")):
            raise SourceError(
                f"{name} has a first line of more than {HEADER_BYTES:,} bytes.",
                "The first line names the columns; look for lost line ends.",
            )
        self._ahead = start[len(self.header) :]

    def readable(self) -> bool:
        return True

    @property
    def at_end(self) -> bool:
        """Whether nothing is left to read."""
        self._ahead = self._ahead or self._next_bytes(HEADER_BYTES)
        return not self._ahead

    def read(self, size: int = -1) -> bytes:
        """Return at most `size` bytes, none at the end."""
        content, self._ahead = self._ahead[:size], self._ahead[size:]
        return content if self._ahead else content + self._next_bytes(size - len(content))

    def _next_bytes(self, size: int) -> bytes:
        data = self._file.read(size)
        try:
            self._decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            wrong = error.object[error.start]
            line = self._line + error.object.count(b"\n", 0, error.start)
            raise SourceError(
                f"{self._name} is not UTF-8: line {line} has the byte 0x{wrong:02x}.",
                "Save or export the file as UTF-8 and load it again.",
            ) from error
        self._line += data.count(b"\n")
        self.quotes += data.count(b'"')
        self.has_steering = self.has_steering or self._steers(data)
        return data

    def _steers(self, data: bytes) -> bool:
        """Return whether bytes hold what `STEERING` names, in a pass or two over them."""
        low = int(np.count_nonzero(np.frombuffer(data, np.uint8) < ord(" ")))
        if low > sum(data.count(byte) for byte in b"\t\n\r") or b"\x7f" in data:
            return True
        # A character may lie across two reads.
        self._tail, joined = data[-2:], self._tail + data
        wide = b"\xc2" in joined or b"\xe2\x80" in joined
        return wide and _WIDE_STEERING.search(joined) is not None


def _header(
    line: bytes, name: str, required: Collection[str], optional: Collection[str]
) -> tuple[list[str], tuple[str, ...]]:
    """Return the column names of the first line, and notes on them.

    Raises `SourceError` if they cannot serve.
    """
    text = line.decode("utf-8-sig", errors="replace").rstrip("\r\n")
    if not text.strip():
        raise SourceError(f"{name} is empty.", "A file begins with a line of column names.")
    names = _named(text, required, optional)
    absent = [n for n in required if n not in names]
    for mark, words in _SEPARATORS.items():
        others = _named(text, required, optional, mark)
        if absent and len(set(required) & set(others)) > len(set(required) & set(names)):
            raise SourceError(
                f"{name} separates its values by {words}, not by commas.",
                "Export or save it with commas between the values.",
            )
    if absent:
        # A first line without any known name may be a student's row, which is not to be shown.
        known = len(absent) < len(required)
        names_read = (
            f"its first line names {', '.join(names)}" if known else "its first line names none"
        )
        raise SourceError(
            f"{name} has no column {', '.join(absent)}; {names_read}.",
            "Add the column, or correct its name.",
        )
    if len(names) > LIMITS.columns:
        raise SourceError(
            f"{name} has {len(names):,} columns; at most {LIMITS.columns:,} are read.",
            "Leave out the columns that do not describe students, courses or grades.",
        )
    nameless = [n for n, column in enumerate(names, 1) if _NAMELESS.fullmatch(column)]
    notes = tuple(
        f"{name} has a column without a name (number {n}), which was ignored: usually an index "
        "that pandas saved (to_csv(index=False) leaves it out), or a comma too many in the header."
        for n in nameless
    )
    twice = sorted({n for n in names if not _NAMELESS.fullmatch(n) and names.count(n) > 1})
    if twice:
        raise SourceError(
            f"{name} names the column {', '.join(twice)} twice.", "Rename one of the columns."
        )
    return names, notes


def _named(
    text: str, required: Collection[str], optional: Collection[str], mark: str = ","
) -> list[str]:
    """Return the names of a header, those that are known in the case in which they are known."""
    names = [n.strip() for n in next(csv.reader([text.replace("\0", "")], delimiter=mark))]
    for known in (*required, *optional):
        alike = [n for n, column in enumerate(names) if column.lower() == known.lower()]
        if known not in names and len(alike) == 1:
            names[alike[0]] = known
    return names


def _values_of(line: str) -> list[str]:
    """Return the values of one line as far as it can be taken apart."""
    try:
        return next(csv.reader(io.StringIO(line)), [])
    except csv.Error:
        return []


def _as_date(text: str) -> date | None:
    """Return the date of `2024-01-31` or `2024-01-31 10:00:00Z`, None for any other text."""
    moment = _as_moment(text)
    # The day as it is written, in any zone.
    return None if moment is None else date.fromisoformat(text[:10])


def _as_moment(text: str) -> datetime | None:
    """Return the UTC time of an ISO date, with or without time and zone, None for other texts."""
    day, clock = text[:10], text[10:]
    if clock and clock[0] not in "Tt ":
        return None
    clock = re.sub(r"\s*(Z|UTC|GMT)$", "+00:00", clock[1:].strip(), flags=re.IGNORECASE)
    clock = re.sub(r"\s+(?=[+-])", "", clock)
    try:
        if date.fromisoformat(day).isoformat() != day:
            return None
        moment = datetime.fromisoformat(f"{day}T{clock or '00:00'}")
        return moment if moment.tzinfo is None else moment.astimezone(UTC).replace(tzinfo=None)
    except (ValueError, OverflowError):  # overflow: a zone leads out of the years 1 to 9999
        return None


def _convert(column: pa.Array, kind: pa.DataType, pattern: str) -> tuple[pd.Series, np.ndarray]:
    """Return the numbers of texts (missing: NaN) and the mask of the texts that are none."""
    import pyarrow as pa
    import pyarrow.compute as pc

    bad = np.zeros(len(column), dtype=bool)
    try:
        values = pc.cast(column, kind)
    except pa.ArrowInvalid:
        shaped = pc.match_substring_regex(column, pattern)
        bad = ~np.asarray(pc.fill_null(shaped, True))
        plain = pc.replace_substring(
            pc.if_else(shaped, column, pa.scalar(None, pa.string())), "+", ""
        )
        values = pc.cast(plain, kind)
    return pd.Series(values.to_numpy(zero_copy_only=False)), bad
