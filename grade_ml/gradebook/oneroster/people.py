"""Students: users with that role, and their attributes from demographics and metadata."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pandas as pd

from grade_ml.gradebook.csv_files import CsvRows
from grade_ml.gradebook.declared import METADATA

Facts = dict[str, dict[str, Any]]


def demographics(kept: CsvRows, deleted: CsvRows) -> Facts:
    """Return the facts of each user in demographics.csv; None marks a fact to be deleted."""
    facts: Facts = {}
    for rows, forget in ((kept, False), (deleted, True)):
        names = [n for n in rows.names if n not in ("sourcedId", "status", "dateLastModified")]
        frame = pd.DataFrame({name: rows.text(name) for name in names}, dtype=object)
        if "birthDate" in frame:
            frame["birthYear"] = frame.pop("birthDate").str[:4]
        ids = rows.identifier("sourcedId")
        facts |= {
            str(id_): dict.fromkeys(fact) if forget else fact
            for id_, fact in zip(ids, _records(frame), strict=True)
            if not pd.isna(id_)
        }
    return facts


def own_attributes(rows: CsvRows) -> list[dict[str, Any]]:
    """Return the source's own columns of users.csv, in order; None marks a fact to be deleted."""
    names = {n: n.removeprefix(METADATA) for n in rows.names if n.startswith(METADATA)}
    if not names:
        return [{} for _ in rows.lines]
    return _records(pd.DataFrame({own: rows.text(name) for name, own in names.items()}))


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return rows as dicts, None for a missing value."""
    return [
        {str(name): None if pd.isna(value) else value for name, value in row.items()}
        for row in frame.to_dict("records")
    ]


def merged(*news: dict[str, Any]) -> str:
    """Return attributes as JSON; later values replace earlier values, and None deletes.

    >>> merged({"housing": "campus", "sex": "female"}, {"housing": None})
    '{"sex": "female"}'
    """
    attributes: dict[str, Any] = {}
    for new in news:
        attributes |= new
    return json.dumps({k: attributes[k] for k in sorted(attributes) if attributes[k] is not None})


def table(ids: Iterable[str], attributes: Iterable[str]) -> dict[str, pd.Series]:
    """Return the columns of students."""
    return {
        "student_id": pd.Series(list(ids), dtype="string[pyarrow]"),
        "attributes": pd.Series(list(attributes), dtype="string[pyarrow]"),
    }
