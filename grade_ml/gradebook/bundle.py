"""What a source hands to the loader: typed batches of rows, and where each row came from.

Reading files belongs to the sources (`oulad`, `oneroster`, `csv_folder`, `simulated`), judging and
storing rows to `loading`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from enum import StrEnum

import numpy as np
import pandas as pd
from sqlalchemy import Connection

from grade_ml.gradebook import schema
from grade_ml.gradebook.schema import Status

#: Columns that a batch may have beside those of its table: the line in the file (the header is
#: line 1), and the order of rows of one key (see `Repeats.FIRST` and `Repeats.LATEST`).
ROW, RANK = "row", "rank"

#: Replaces a result that cannot be read: it must not be taken for missing.
UNKNOWN_SCORE = {"status": Status.GRADED.value, "score": None}

#: Characters of a value that a problem shows: longer values are texts.
SHOWN = 100
#: The columns of a frame of problems. `personal` is true if the value identifies a student.
PROBLEM_COLUMNS = ("file", ROW, "column", "value", "reason", "personal")


class Repeats(StrEnum):
    """What several rows of one key in one table mean."""

    CONFLICT = "conflict"
    """Equal rows count once; of differing rows the first is kept, the others are quarantined."""
    FIRST = "first"
    """The row of the lowest rank is kept; the others contain nothing new."""
    SUM = "sum"
    """Counts are added up."""
    LATEST = "latest"
    """The row of the latest date, then of the highest rank, counts; others are its history."""


@dataclass(frozen=True)
class Origin:
    """Where the rows of one table come from: the file and its names for the table's columns."""

    file: str
    columns: Mapping[str, str] = field(default_factory=dict)
    repeats: Repeats = Repeats.CONFLICT

    def name(self, column: str) -> str:
        """Return the source's name of a gradebook column."""
        return self.columns.get(column, column)


@dataclass(frozen=True)
class Batch:
    """Some rows of one table, and the rows of the file that could not become any.

    Parameters
    ----------
    table
        Name of a gradebook table.
    rows
        Columns of the table (those left out are NULL or the default) and `row`: the line in the
        file. Texts are `string[pyarrow]`, dates `datetime64`, `attributes` JSON text.
    problems
        Frame with `PROBLEM_COLUMNS`.
    delete
        The rows, of which only the keys matter, are to be removed from the gradebook.
    notes
        Sentences for the summary, besides counts; they name no student.
    unchanged
        Further rows of the source, left out because they contain nothing new.
    """

    table: str
    rows: pd.DataFrame
    problems: pd.DataFrame | None = None
    delete: bool = False
    notes: tuple[str, ...] = ()
    unchanged: int = 0


@dataclass(frozen=True)
class Bundle:
    """One delivery of one source, loaded in one transaction.

    Parameters
    ----------
    source
        `oulad`, `oneroster`, `csv` or `simulated`.
    origins
        Origin per table that the bundle may carry.
    batches
        Yields the batches, in any order of tables. The connection, inside the load's transaction,
        gives access to what earlier deliveries brought.
    delivered_on
        The day of the delivery: results that it removes were to be seen until then. None: they
        were never true.
    """

    source: str
    origins: Mapping[str, Origin]
    batches: Callable[[Connection], Iterator[Batch]]
    delivered_on: date | None = None


def followed_by(bundle: Bundle, action: Callable[[Connection], None]) -> Bundle:
    """Return the bundle with something to be done in the transaction of its load, once it is read.

    What `action` raises undoes the load.
    """

    def batches(connection: Connection) -> Iterator[Batch]:
        yield from bundle.batches(connection)
        action(connection)

    return replace(bundle, batches=batches)


def from_frames(source: str, frames: Callable[[], Iterable[tuple[str, pd.DataFrame]]]) -> Bundle:
    """Return typed frames, each with the name of its table, as a bundle.

    Rows of a table are numbered in the order in which they come, as if below a header.
    """

    def batches(connection: Connection) -> Iterator[Batch]:
        lines = dict.fromkeys(origins, 2)
        for table, frame in frames():
            start = lines[table]
            lines[table] += len(frame)
            yield Batch(table, frame.assign(**{ROW: np.arange(start, start + len(frame))}))

    origins = {table.name: Origin(table.name) for table in schema.TABLES}
    origins["result"] = Origin("result", repeats=Repeats.LATEST)
    return Bundle(source, origins, batches)


def problems(  # noqa: PLR0913 - the parts of one message
    file: str,
    rows: Sequence[int] | np.ndarray | pd.Series,
    column: str,
    values: pd.Series,
    reason: str | Sequence[str],
    *,
    personal: bool = False,
) -> pd.DataFrame:
    """Return problems of one kind, one per line in `rows`, as a frame with `PROBLEM_COLUMNS`.

    `reason` is that of all, or one for each. Long values are cut, and of several lines none is
    shown: behind a quote that is never closed, a value holds the columns and lines that follow.
    """
    texts = values.astype("string[pyarrow]")
    shown = texts.str[:SHOWN].where(texts.str.len() <= SHOWN, texts.str[:SHOWN] + "…")
    shown = shown.mask(texts.str.contains("\n", na=False), "(several lines)")
    frame = pd.DataFrame(
        {
            ROW: np.asarray(rows, dtype="int64"),
            "value": shown.to_numpy(),
        }
    )
    return frame.assign(file=file, column=column, reason=reason, personal=personal)[
        list(PROBLEM_COLUMNS)
    ]
