"""Where snapshots and sequences are kept: a Parquet file per course, always of the newest run."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

import pandas as pd
from upath import UPath

from grade_ml.core.errors import NotReadyError
from grade_ml.core.storage import file_name, write_whole
from grade_ml.features.attributes import protected_columns
from grade_ml.features.hashing import section_hashes

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow.parquet import FileMetaData

#: The kinds of frames, named as the assets that make them.
SNAPSHOTS, SEQUENCES = "grade_snapshots", "score_sequences"

_SUFFIX = ".parquet"
_COURSE, _AS_OF, _HASHES = b"course_id", b"as_of", b"section_hashes"


def write_snapshots(
    root: str, course: str, snapshots: pd.DataFrame, as_of: date, *, kind: str = SNAPSHOTS
) -> None:
    """Replace the stored frame of `course`; a reader sees the old one or the new one.

    Parameters
    ----------
    root
        A path or URL for `universal_pathlib`.
    as_of
        The day of the computation, kept in the file.
    kind
        What the frame is: `SNAPSHOTS` or `SEQUENCES`; each has a column section_id.
    """
    import pyarrow as pa
    from pyarrow import parquet

    table = pa.Table.from_pandas(_only_used(snapshots), preserve_index=False)
    metadata = {
        **(table.schema.metadata or {}),
        _COURSE: course.encode(),
        _AS_OF: as_of.isoformat().encode(),
        _HASHES: json.dumps(section_hashes(snapshots)).encode(),
    }
    buffer = pa.BufferOutputStream()
    parquet.write_table(table.replace_schema_metadata(metadata), buffer, compression="zstd")
    folder = _folder(root, kind)
    write_whole(folder / (file_name(course) + _SUFFIX), buffer.getvalue().to_pybytes())
    former = _stored(folder).get(_former_name(course))
    if former is not None:
        former.unlink()


def read_snapshots(  # noqa: PLR0913 - which rows and columns
    root: str,
    courses: Collection[str] | None,
    *,
    most: int | None = None,
    seed: int = 0,
    kind: str = SNAPSHOTS,
    columns: Collection[str] | None = None,
) -> pd.DataFrame:
    """Return the stored frames of `courses`, or of all courses, in order of course.

    A column that only some courses have is missing in the rows of the others. Where there are more
    rows than `most`, the same share of each course's is drawn. With `columns` only those are read,
    of them that there are, and the protected attributes.

    Raises
    ------
    NotReadyError
        No frame of a course, or none at all, has been computed; the error names the courses.
    """
    wanted = _wanted(root, courses, kind)
    if most is None:
        return _together([_read(path, columns) for path in wanted.values()])
    share = min(1.0, most / max(sum(_described(path).num_rows for path in wanted.values()), 1))
    return _together([_drawn(_read(path, columns), share, seed) for path in wanted.values()])


def stored_hashes(
    root: str, courses: Collection[str] | None, kind: str = SNAPSHOTS
) -> dict[str, dict[str, int]]:
    """Return the `section_hashes` of the stored frames of `courses`, or of all, by course.

    Only the files' ends are read.

    Raises
    ------
    NotReadyError
        As in `read_snapshots`.
    """
    return {
        course: json.loads(_described(path).metadata[_HASHES])
        for course, path in _wanted(root, courses, kind).items()
    }


def _wanted(root: str, courses: Collection[str] | None, kind: str) -> dict[str, UPath]:
    stored = _stored(_folder(root, kind))
    if courses is None:
        courses = [_course_of(path) for path in stored.values()]
    found = {
        course: stored.get(file_name(course) + _SUFFIX) or stored.get(_former_name(course))
        for course in sorted({*courses})
    }
    missing = [course for course, path in found.items() if path is None]
    wanted = {course: path for course, path in found.items() if path is not None}
    if missing or not wanted:
        raise NotReadyError(
            f"No features have been computed of {', '.join(missing) or 'any course'}.",
            f"Materialize {kind}, or run grade-ml run train_traditional_models.",
        )
    return wanted


def _stored(folder: UPath) -> dict[str, UPath]:
    """Return the frames in `folder` by their exact names, which a file system may not compare."""
    paths = folder.iterdir() if folder.exists() else ()
    return {path.name: path for path in paths if path.name.endswith(_SUFFIX)}


def _former_name(course: str) -> str:
    """Return the name under which earlier versions kept the frame of `course`."""
    return quote(course, safe="") + _SUFFIX


def _course_of(path: UPath) -> str:
    kept: bytes | None = (_described(path).metadata or {}).get(_COURSE)
    return unquote(path.name.removesuffix(_SUFFIX)) if kept is None else kept.decode()


def _folder(root: str, kind: str) -> UPath:
    return UPath(root) / "features" / kind


def _read(path: UPath, columns: Collection[str] | None) -> pa.Table:
    import pyarrow as pa
    from pyarrow import parquet

    file = parquet.ParquetFile(pa.BufferReader(path.read_bytes()))
    there = file.schema_arrow.names
    if columns is None:
        return file.read()
    wanted = {*columns, *protected_columns(there).values()}
    return file.read([one for one in there if one in wanted])


def _described(path: UPath) -> FileMetaData:
    from pyarrow import parquet

    with path.open("rb") as file:
        return parquet.read_metadata(file)


def _drawn(table: pa.Table, share: float, seed: int) -> pa.Table:
    if share == 1:
        return table
    import numpy as np

    kept = np.random.default_rng(seed).random(table.num_rows) < share
    return table.filter(kept)


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


@dataclass(frozen=True)
class Frames:
    """The stored frames of one installation as a day knows them."""

    root: str
    as_of: date

    def snapshots(
        self,
        courses: Collection[str] | None,
        *,
        columns: Collection[str] | None = None,
        most: int | None = None,
        seed: int = 0,
    ) -> pd.DataFrame:
        """Return the snapshots of `courses`, as `read_snapshots` does."""
        return read_snapshots(self.root, courses, columns=columns, most=most, seed=seed)

    def sequences(self, courses: Collection[str] | None) -> pd.DataFrame:
        """Return the score sequences of `courses`, as `read_snapshots` does."""
        return read_snapshots(self.root, courses, kind=SEQUENCES)

    def hashes(
        self, courses: Collection[str] | None, kind: str = SNAPSHOTS
    ) -> dict[str, dict[str, int]]:
        """Return the `section_hashes` of the frames of `courses`, or of all, by course."""
        return stored_hashes(self.root, courses, kind)
