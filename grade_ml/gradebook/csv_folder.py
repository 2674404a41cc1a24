"""A folder of CSV files, one per gradebook table with the table's column names, as a bundle.

The format for sources that no other loader reads: `students.csv`, `terms.csv`, `courses.csv`,
`sections.csv`, `enrollments.csv`, `assignments.csv`, `results.csv` and `activity.csv`, plain or
gzipped. Further columns of students and enrollments become their attributes. Several results of one
assignment and student are attempts, of which the latest counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any

import pandas as pd
import sqlalchemy as sa
from sqlalchemy import Connection, Table

from grade_ml.core.errors import SourceError
from grade_ml.gradebook import csv_files, schema
from grade_ml.gradebook.bundle import UNKNOWN_SCORE, Batch, Bundle, Origin, Repeats
from grade_ml.gradebook.csv_files import CsvRows
from grade_ml.gradebook.institution import Institution

FILES = {
    table.name: "activity.csv" if table is schema.activity else f"{table.name}s.csv"
    for table in schema.TABLES
}


def _itself(words: type[StrEnum]) -> dict[str, str]:
    return {word.value: word.value for word in words}


#: The words that a column may hold, and what they mean.
_WORDS: dict[str, dict[str, str]] = {
    "outcome": {
        **_itself(schema.Outcome),
        **dict.fromkeys(("passed", "p"), schema.Outcome.PASS.value),
        **dict.fromkeys(("failed", "f"), schema.Outcome.FAIL.value),
        **dict.fromkeys(("withdrew", "w"), schema.Outcome.WITHDRAWN.value),
    },
    "status": _itself(schema.Status),
    "grading_policy": _itself(schema.GradingPolicy),
}


def bundle(folder: Path, institution: Institution | None = None) -> Bundle:
    """Return the CSV files of a folder as a bundle.

    A file may be left out where the gradebook already holds rows of its table (activity: always),
    a column where the gradebook allows NULL or has a default. Dates are ISO dates, scores per cent
    of the maximum, or a text that the institution defines. An assignment whose maximum is 0 is
    extra credit, its scores points.

    Raises
    ------
    SourceError
        `folder` is no folder, or holds a CSV file of another name.
    """
    csv_files.require_folder(folder)
    allowed = {name for file in FILES.values() for name in (file, f"{file}.gz")}
    present = [p.name for p in folder.iterdir() if p.name.lower().endswith((".csv", ".csv.gz"))]
    unknown = sorted(set(present) - allowed)
    if unknown:
        raise SourceError(
            f"The folder {folder} holds {', '.join(unknown)}, which is no file of this format.",
            f"Rename or remove it; the names are {', '.join(FILES.values())}.",
        )
    paths = {table: csv_files.find(folder, file) for table, file in FILES.items()}
    delivered = {table: path for table, path in paths.items() if path is not None}
    if not delivered:
        raise SourceError(
            f"The folder {folder} holds no CSV file of this format.",
            f"The names are {', '.join(FILES.values())}.",
        )
    origins = {
        table: Origin(
            path.name,
            repeats=Repeats.LATEST if table == schema.result.name else Repeats.CONFLICT,
        )
        for table, path in delivered.items()
    }
    texts = (institution or Institution()).per_cent
    return Bundle("csv", origins, lambda connection: _batches(connection, folder, delivered, texts))


def _batches(
    connection: Connection, folder: Path, paths: dict[str, Path], texts: dict[str, float]
) -> Iterator[Batch]:
    for table in schema.TABLES:
        path = paths.get(table.name)
        if path is not None:
            yield from _table(table, path, texts)
        elif table is not schema.activity and not _has_rows(connection, table):
            raise SourceError(
                f"The folder {folder} has no {FILES[table.name]}, and the gradebook has no "
                f"{table.name} yet.",
                "Add the file.",
            )


def _has_rows(connection: Connection, table: Table) -> bool:
    return bool(connection.execute(sa.select(sa.exists(sa.select(table)))).scalar())


def _table(table: Table, path: Path, texts: dict[str, float]) -> Iterator[Batch]:
    columns = [column for column in table.columns if column.name != "attributes"]
    required = [c.name for c in columns if not c.nullable and c.server_default is None]
    for rows in csv_files.read(
        csv_files.opener(path), path.name, required, optional=None, personal=("student_id",)
    ):
        extra = [name for name in rows.names if name not in {c.name for c in columns}]
        _check_extra(table, path.name, extra)
        values = {
            column.name: _values(rows, column, texts)
            for column in columns
            if column.name in rows.names
        }
        if "attributes" in table.columns:
            values["attributes"] = rows.attributes(extra)
        if table is schema.assignment:
            bonus = values["max_score"] == 0
            given = values.get("extra_credit", pd.Series(False, bonus.index))
            values["extra_credit"] = given.astype("boolean").mask(bonus, True)
            values["max_score"] = values["max_score"].mask(bonus, 100.0)
        keys = [column.name for column in table.primary_key]
        unknown = UNKNOWN_SCORE if table is schema.result else None
        yield Batch(
            table.name,
            rows.frame(values, keys=keys, unknown=unknown),
            rows.problems,
            notes=rows.notes,
        )


def _scores(rows: CsvRows, texts: dict[str, float]) -> pd.Series:
    scores, words = rows.number_or_text("score")
    known = words.str.casefold().map(texts).astype("float64")
    rows.reject(
        words.notna() & known.isna(),
        "score",
        "is no number, and the institution's file gives this text no per cent; add it to [texts]",
    )
    return scores.fillna(known)


def _check_extra(table: Table, file: str, extra: list[str]) -> None:
    names = ", ".join(column.name for column in table.columns if column.name != "attributes")
    if "attributes" in extra:
        raise SourceError(
            f"{file} has a column attributes.", "Write each attribute as a column of its own."
        )
    if extra and "attributes" not in table.columns:
        raise SourceError(
            f"{file} has the unknown column {', '.join(extra)}.",
            f"Rename or remove it; the columns are {names}.",
        )


def _values(rows: CsvRows, column: sa.Column[Any], texts: dict[str, float]) -> Any:
    name = column.name
    if column is schema.result.c.score:
        return _scores(rows, texts)
    if isinstance(column.type, sa.Date):
        return rows.date(name)
    if isinstance(column.type, sa.Double):
        return rows.number(name)
    if isinstance(column.type, sa.BigInteger):
        return rows.integer(name).astype("Int64")
    if isinstance(column.type, sa.Boolean):
        return rows.boolean(name)
    words = _WORDS.get(name)
    return rows.choice(name, words) if words else rows.text(name)
