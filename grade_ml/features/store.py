"""Where snapshots and sequences are stored: a Parquet file per kind, course and day.

The name of a file is its day, and days sort as their names do, so the newest frame needs no
pointer: a file that is there is whole, and the greatest name that is not after a day is what the
day knows. An object store, which cannot rename, needs no more than that.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import islice
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

import pandas as pd
from upath import UPath

from grade_ml.core.errors import NotReadyError
from grade_ml.core.hashing import section_hashes
from grade_ml.core.pseudonyms import Pseudonyms
from grade_ml.core.storage import file_name, write_whole
from grade_ml.features.attributes import protected_columns

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow.parquet import FileMetaData

#: The kinds of frames, named as the assets that make them.
SNAPSHOTS, SEQUENCES = "grade_snapshots", "score_sequences"

#: A course's frames of more days before the one written are removed. Two weeks: what a nightly run
#: printed can be made again after a holiday, and last week's is there to be compared with. OULAD's
#: frames of a day take 30 MB.
KEPT_DAYS = 14

#: The job that makes a kind of frames.
_JOBS = {SNAPSHOTS: "train_traditional_models", SEQUENCES: "generate_time_series_forecasts"}

_SUFFIX = ".parquet"
_COURSE, _AS_OF, _HASHES, _NOTES = b"course_id", b"as_of", b"section_hashes", b"notes"


@dataclass(frozen=True)
class Frames:
    """The stored frames of one installation as a day knows them.

    A course's frame of a day is the newest that was computed for the day or an earlier day.

    Attributes
    ----------
    root
        The storage root, a path or URL for `universal_pathlib`.
    as_of
        The day; frames of later days are as if they were not there.
    pseudonyms
        Those of the installation: hashes of rows are keyed by its secret.
    """

    root: str
    as_of: date
    pseudonyms: Pseudonyms

    def snapshots(
        self,
        courses: Collection[str] | None,
        *,
        columns: Collection[str] | None = None,
        student: str | None = None,
        most: int | None = None,
        seed: int = 0,
    ) -> pd.DataFrame:
        """Return the snapshots of `courses`, or of all courses, in order of course.

        A column that only some courses have is missing in the rows of the others. Where there are
        more rows than `most`, the same share of each course's is drawn. With `columns` only those
        are read, of them that there are, and the protected attributes; with `student` only the
        rows of that student are returned.

        Raises
        ------
        NotReadyError
            No frame of a course, or none at all, has been computed for the day or an earlier day;
            the error names the courses.
        """
        paths = self._wanted(courses, SNAPSHOTS)
        if most is None:
            return _together([_read(path, columns, student) for path in paths.values()])
        share = min(1.0, most / max(sum(_described(path).num_rows for path in paths.values()), 1))
        return _together([_drawn(_read(path, columns), share, seed) for path in paths.values()])

    def sequences(
        self, courses: Collection[str] | None, *, student: str | None = None
    ) -> pd.DataFrame:
        """Return the score sequences of `courses`, or of all courses, in order of course.

        With `student` there are only that student's rows.

        Raises
        ------
        NotReadyError
            As in `snapshots`.
        """
        paths = self._wanted(courses, SEQUENCES)
        return _together([_read(path, None, student) for path in paths.values()])

    def hashes(
        self, courses: Collection[str] | None, kind: str = SNAPSHOTS
    ) -> dict[str, dict[str, int]]:
        """Return the `section_hashes` of the frames of `courses`, or of all, by course.

        Only the files' ends are read.

        Raises
        ------
        NotReadyError
            As in `snapshots`.
        """
        return {
            course: json.loads(_described(path).metadata[_HASHES])
            for course, path in self._wanted(courses, kind).items()
        }

    def computed(self, course: str, kind: str = SNAPSHOTS) -> tuple[int, dict[str, Any]] | None:
        """Return rows and notes of the frame that was computed for the very day, or `None`."""
        path = self._path(course, kind)
        if not path.exists():
            return None
        described = _described(path)
        return described.num_rows, _notes(described)

    def origin(self, course: str) -> str | None:
        """Return what the snapshots of the very day were made from (`origin.origin_of`)."""
        known = self.computed(course)
        return known[1].get("origin") if known else None

    def redesigned(self, courses: Collection[str]) -> dict[str, str]:
        """Return by section of `courses` what it has other than its course's past, in words.

        Sections whose assignments are as usual are left out.
        """
        told: dict[str, str] = {}
        for name in courses:
            path = self._newest(dict(_stored(self._folder(SNAPSHOTS), name)))
            if path is not None:
                told |= _notes(_described(path)).get("redesigned", {})
        return told

    def write(
        self,
        course: str,
        rows: pd.DataFrame,
        kind: str = SNAPSHOTS,
        notes: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        """Store the frame of `course` for the day; a reader sees the one before or the whole new.

        The frames of more than `KEPT_DAYS` before are removed, those of later days stay.

        Parameters
        ----------
        rows
            With a column section_id.
        kind
            What the frame is: `SNAPSHOTS` or `SEQUENCES`.
        notes
            What `computed` returns of it, as JSON can hold it.
        """
        folder, path = self._folder(kind), self._path(course, kind)
        write_whole(path, self._file(course, rows, notes))
        oldest = self.as_of - timedelta(days=KEPT_DAYS)
        for day, other in _stored(folder, course):
            if day < oldest or (day == self.as_of and other != path):
                other.unlink(missing_ok=True)

    def _file(self, course: str, rows: pd.DataFrame, notes: Mapping[str, Any]) -> bytes:
        import pyarrow as pa
        from pyarrow import parquet

        table = pa.Table.from_pandas(_only_used(rows), preserve_index=False)
        metadata = {
            **(table.schema.metadata or {}),
            _COURSE: course.encode(),
            _AS_OF: self.as_of.isoformat().encode(),
            _HASHES: json.dumps(section_hashes(rows, self.pseudonyms)).encode(),
            _NOTES: json.dumps(dict(notes), sort_keys=True).encode(),
        }
        buffer = pa.BufferOutputStream()
        parquet.write_table(table.replace_schema_metadata(metadata), buffer, compression="zstd")
        content: bytes = buffer.getvalue().to_pybytes()
        return content

    def _folder(self, kind: str) -> UPath:
        return UPath(self.root) / "features" / kind

    def _path(self, course: str, kind: str) -> UPath:
        return self._folder(kind) / file_name(course) / (self.as_of.isoformat() + _SUFFIX)

    def _wanted(self, courses: Collection[str] | None, kind: str) -> dict[str, UPath]:
        """Return the day's file of each course, in order of course."""
        folder = self._folder(kind)
        names = _courses_in(folder) if courses is None else courses
        stored = {name: self._newest(dict(_stored(folder, name))) for name in sorted({*names})}
        known = {name: path for name, path in stored.items() if path is not None}
        missing = [] if courses is None else sorted(stored.keys() - known.keys())
        if missing or not known:
            raise NotReadyError(
                f"No features of {', '.join(missing) or 'any course'} have been computed for "
                f"{self.as_of} or a day before.",
                f"Materialize {kind} with as_of {self.as_of}, or run GRADE_ML_AS_OF={self.as_of} "
                f"grade-ml run {_JOBS[kind]}.",
            )
        return known

    def _newest(self, stored: Mapping[date, UPath]) -> UPath | None:
        days = [day for day in stored if day <= self.as_of]
        return stored[max(days)] if days else None


def outdated(root: str, as_of: date) -> tuple[list[UPath], int]:
    """Return the files of frames that no day from `as_of` on needs, and how many files stay.

    `Frames.write` removes those of the course that it writes; here are those of courses of which
    no more are written. The newest frame that `as_of` knows stays, however old.
    """
    removable, count = list[UPath](), 0
    oldest = as_of - timedelta(days=KEPT_DAYS)
    for kind in (SNAPSHOTS, SEQUENCES):
        folder = UPath(root) / "features" / kind
        for own in folder.iterdir() if folder.exists() else ():
            # One file of a course is of a former version, and its only one.
            files = [own] if own.name.endswith(_SUFFIX) else [*filter(_is_frame, own.iterdir())]
            days = [date.fromisoformat(file.stem) for file in files if file != own]
            newest = max((day for day in days if day <= as_of), default=None)
            count += len(files)
            removable += [
                file
                for file, day in zip(files, days, strict=False)
                if day < oldest and day != newest
            ]
    return sorted(removable, key=str), count - len(removable)


def _stored(folder: UPath, course: str) -> Iterator[tuple[date, UPath]]:
    """Yield the files of `course` and their days, first the one file of a former version."""
    for name in (_quoted(course), file_name(course)):
        former = _kept_in(folder, name + _SUFFIX)
        if former:
            yield _day_of(former), former
    own = folder / file_name(course)
    for path in filter(_is_frame, own.iterdir() if own.exists() else ()):
        yield date.fromisoformat(path.stem), path


def _is_frame(path: UPath) -> bool:
    """Return whether a file is no draft of one; drafts begin with a dot."""
    return path.name.endswith(_SUFFIX) and not path.name.startswith(".")


def _kept_in(folder: UPath, name: str) -> UPath | None:
    """Return the file of exactly that name, which a file system may not compare."""
    path = folder / name
    # A longer name was never stored, and looking for it would be an error of its own.
    exists = len(name) <= 255 and path.exists()
    return path if exists and name in {entry.name for entry in folder.iterdir()} else None


def _quoted(course: str) -> str:
    """Return the name that the first versions gave a course's file."""
    return quote(course, safe="")


def _courses_in(folder: UPath) -> set[str]:
    """Return the courses that have a frame of any day."""
    courses = set()
    for entry in folder.iterdir() if folder.exists() else ():
        files = [entry] if entry.name.endswith(_SUFFIX) else entry.iterdir()
        courses |= {_course_of(path) for path in islice(filter(_is_frame, files), 1)}
    return courses


def _course_of(path: UPath) -> str:
    stored: bytes | None = (_described(path).metadata or {}).get(_COURSE)
    return unquote(path.name.removesuffix(_SUFFIX)) if stored is None else stored.decode()


def _day_of(path: UPath) -> date:
    return date.fromisoformat(_described(path).metadata[_AS_OF].decode())


def _read(path: UPath, columns: Collection[str] | None, student: str | None = None) -> pa.Table:
    import pyarrow as pa
    from pyarrow import compute, parquet

    file = parquet.ParquetFile(pa.BufferReader(path.read_bytes()))
    stored = file.schema_arrow.names
    chosen = stored if columns is None else {*columns, *protected_columns(stored).values()}
    table = file.read([name for name in stored if name in chosen])
    if student is None:
        return table
    return table.filter(compute.equal(table["student_id"].cast(pa.string()), student))


def _described(path: UPath) -> FileMetaData:
    from pyarrow import parquet

    with path.open("rb") as file:
        return parquet.read_metadata(file)


def _notes(described: FileMetaData) -> dict[str, Any]:
    notes: dict[str, Any] = json.loads(described.metadata.get(_NOTES, b"{}"))
    return notes


def _drawn(table: pa.Table, share: float, seed: int) -> pa.Table:
    if share == 1:
        return table
    import numpy as np

    drawn = np.random.default_rng(seed).random(table.num_rows) < share
    return table.filter(drawn)


def _only_used(snapshots: pd.DataFrame) -> pd.DataFrame:
    """Return the frame with the categories that occur: the file is of one course only."""
    used = {
        str(name): column.cat.remove_unused_categories()
        for name, column in snapshots.items()
        if isinstance(column.dtype, pd.CategoricalDtype)
    }
    return snapshots.assign(**used)


def _together(tables: list[pa.Table]) -> pd.DataFrame:
    """Return all rows; an attribute of numbers here and of texts there becomes one of texts."""
    import pyarrow as pa

    texts = {
        field.name
        for table in tables
        for field in table.schema
        if pa.types.is_dictionary(field.type)
    }
    aligned = [_with_texts(table, texts) for table in tables]
    joined = pa.concat_tables(aligned, promote_options="default").unify_dictionaries()
    frame: pd.DataFrame = joined.to_pandas(ignore_metadata=True)
    return frame


def _with_texts(table: pa.Table, texts: set[str]) -> pa.Table:
    """Return the table with the columns `texts` as categories, whose codes have one width."""
    import pyarrow as pa

    kind = pa.dictionary(pa.int32(), pa.string())
    for place, field in enumerate(table.schema):
        if field.name in texts:
            column = table.column(place)
            if not pa.types.is_dictionary(field.type):
                numbers = column.to_pandas().map("{:g}".format, na_action="ignore")
                column = pa.array(numbers.astype(object), from_pandas=True).cast(pa.string())
            table = table.set_column(place, field.name, column.cast(pa.string()).cast(kind))
    return table
