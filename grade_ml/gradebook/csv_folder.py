"""A folder of CSV files, one per gradebook table with the table's column names, as a bundle.

The format for sources that no other loader reads: `students.csv`, `terms.csv`, `courses.csv`,
`sections.csv`, `enrollments.csv`, `assignments.csv`, `results.csv` and `activity.csv`, plain or
gzipped. Further columns of students and enrollments become their attributes.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Table

from grade_ml.core.errors import SourceError
from grade_ml.gradebook import csv_files, schema
from grade_ml.gradebook.bundle import Batch, Bundle, Origin
from grade_ml.gradebook.csv_files import CsvRows

FILES = {
    table.name: "activity.csv" if table is schema.activity else f"{table.name}s.csv"
    for table in schema.TABLES
}
_BOOLEANS = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}
#: The words that a column may hold.
_WORDS: dict[str, type[StrEnum]] = {
    "outcome": schema.Outcome,
    "status": schema.Status,
    "grading_policy": schema.GradingPolicy,
}


def bundle(folder: Path) -> Bundle:
    """Return the CSV files of a folder as a bundle.

    A file may be left out where the gradebook already holds rows of its table (activity: always),
    a column where the gradebook allows NULL or has a default. Dates are ISO dates, scores per cent
    of the maximum, `carried_over` true or false.

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
    found = {table: path for table, path in paths.items() if path is not None}
    if not found:
        raise SourceError(
            f"The folder {folder} holds no CSV file of this format.",
            f"The names are {', '.join(FILES.values())}.",
        )
    origins = {table: Origin(path.name) for table, path in found.items()}
    return Bundle("csv", origins, lambda connection: _batches(connection, folder, found))


def _batches(connection: Connection, folder: Path, paths: dict[str, Path]) -> Iterator[Batch]:
    for table in schema.TABLES:
        path = paths.get(table.name)
        if path is not None:
            yield from _table(table, path)
        elif table is not schema.activity and not _has_rows(connection, table):
            raise SourceError(
                f"The folder {folder} has no {FILES[table.name]}, and the gradebook has no "
                f"{table.name} yet.",
                "Add the file.",
            )


def _has_rows(connection: Connection, table: Table) -> bool:
    return bool(connection.execute(sa.select(sa.exists(sa.select(table)))).scalar())


def _table(table: Table, path: Path) -> Iterator[Batch]:
    columns = [column for column in table.columns if column.name != "attributes"]
    required = [c.name for c in columns if not c.nullable and c.server_default is None]
    for rows in csv_files.read(
        csv_files.opener(path), path.name, required, optional=None, personal=("student_id",)
    ):
        extra = [name for name in rows.names if name not in {c.name for c in columns}]
        _check_extra(table, path.name, extra)
        values = {
            column.name: _values(rows, column) for column in columns if column.name in rows.names
        }
        if "attributes" in table.columns:
            values["attributes"] = rows.attributes(extra)
        yield Batch(table.name, rows.frame(values), rows.problems)


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


def _values(rows: CsvRows, column: sa.Column[Any]) -> Any:
    name = column.name
    if isinstance(column.type, sa.Date):
        return rows.date(name)
    if isinstance(column.type, sa.Double):
        return rows.number(name)
    if isinstance(column.type, sa.BigInteger):
        return rows.integer(name).astype("Int64")
    if isinstance(column.type, sa.Boolean):
        return rows.choice(name, _BOOLEANS).astype("boolean")
    words = _WORDS.get(name)
    return rows.choice(name, {w.value: w.value for w in words}) if words else rows.text(name)
