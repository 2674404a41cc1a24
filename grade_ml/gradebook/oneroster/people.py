"""Students: users with the role of one, and the attributes that demographics and metadata give."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pandas as pd

from grade_ml.gradebook.csv_files import CsvRows
from grade_ml.gradebook.institution import Use
from grade_ml.gradebook.oneroster.reading import METADATA

#: What each column of demographics may be used for. Age, sex, race, ethnicity and national origin
#: are protected by law in most places, and so is where who lives: it tells who is homeless.
ATTRIBUTES = {
    "birthYear": Use.PROTECTED,
    "sex": Use.PROTECTED,
    "americanIndianOrAlaskaNative": Use.PROTECTED,
    "asian": Use.PROTECTED,
    "blackOrAfricanAmerican": Use.PROTECTED,
    "nativeHawaiianOrOtherPacificIslander": Use.PROTECTED,
    "white": Use.PROTECTED,
    "demographicRaceTwoOrMoreRaces": Use.PROTECTED,
    "hispanicOrLatinoEthnicity": Use.PROTECTED,
    "countryOfBirthCode": Use.PROTECTED,
    "stateOfBirthAbbreviation": Use.PROTECTED,
    "publicSchoolResidenceStatus": Use.PROTECTED,
    "birthDate": Use.IDENTIFYING,
    "cityOfBirth": Use.IDENTIFYING,
}
Facts = dict[str, dict[str, Any]]


def demographics(kept: CsvRows, gone: CsvRows) -> Facts:
    """Return what demographics.csv says of each user; None is to be forgotten."""
    facts: Facts = {}
    for rows, forget in ((kept, False), (gone, True)):
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
    """Return what the source's own columns of users.csv say, in order; None is to be forgotten."""
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
    """Return attributes as JSON, the later ones in place of the earlier; None forgets.

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
