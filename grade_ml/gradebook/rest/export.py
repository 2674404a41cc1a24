"""Writes the answers of a OneRoster server as OneRoster CSV, so that one reader serves both.

It writes only the columns of the CSV binding that the gradebook reads; it does not write names,
addresses and comments.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from upath import UPath

from grade_ml.core.errors import ServiceError
from grade_ml.core.storage import write_whole
from grade_ml.gradebook.rest.client import Client, Row

if TYPE_CHECKING:
    import pyarrow as pa

#: An endpoint whose rows come and go while it is read is read so often.
READINGS = 3
#: Rows of more columns than this have metadata that is no metadata.
MOST_METADATA = 100

_HEAD = ("sourcedId", "status", "dateLastModified")
#: The columns of each file and where a row has them: `a` is a value or a list of values, `a.b`
#: a value of the object `a`, `a[].b` one of each object in the list `a`.
COLUMNS: dict[str, dict[str, str]] = {
    "academicSessions": {
        "title": "title",
        "type": "type",
        "startDate": "startDate",
        "endDate": "endDate",
        "parentSourcedId": "parent.sourcedId",
        "schoolYear": "schoolYear",
    },
    "courses": {
        "schoolYearSourcedId": "schoolYear.sourcedId",
        "title": "title",
        "courseCode": "courseCode",
        "grades": "grades",
        "orgSourcedId": "org.sourcedId",
        "subjects": "subjects",
        "subjectCodes": "subjectCodes",
    },
    "classes": {
        "title": "title",
        "grades": "grades",
        "courseSourcedId": "course.sourcedId",
        "classCode": "classCode",
        "classType": "classType",
        "schoolSourcedId": "school.sourcedId",
        "termSourcedIds": "terms[].sourcedId",
        "subjects": "subjects",
        "subjectCodes": "subjectCodes",
    },
    "users": {
        "enabledUser": "enabledUser",
        "orgSourcedIds": "orgs[].sourcedId",
        "role": "role",
        "grades": "grades",
    },
    "demographics": {
        name: name
        for name in (
            "birthDate",
            "sex",
            "americanIndianOrAlaskaNative",
            "asian",
            "blackOrAfricanAmerican",
            "nativeHawaiianOrOtherPacificIslander",
            "white",
            "demographicRaceTwoOrMoreRaces",
            "hispanicOrLatinoEthnicity",
            "countryOfBirthCode",
            "publicSchoolResidenceStatus",
        )
    },
    "enrollments": {
        "classSourcedId": "class.sourcedId",
        "schoolSourcedId": "school.sourcedId",
        "userSourcedId": "user.sourcedId",
        "role": "role",
        "primary": "primary",
        "beginDate": "beginDate",
        "endDate": "endDate",
    },
    "scoreScales": {
        "title": "title",
        "type": "type",
        "courseSourcedId": "course.sourcedId",
        "classSourcedId": "class.sourcedId",
        "scoreScaleValue": "scoreScaleValue",
    },
    "categories": {"title": "title", "weight": "weight"},
    "lineItems": {
        "title": "title",
        "assignDate": "assignDate",
        "dueDate": "dueDate",
        "classSourcedId": "class.sourcedId",
        "categorySourcedId": "category.sourcedId",
        "resultValueMin": "resultValueMin",
        "resultValueMax": "resultValueMax",
        "scoreScaleSourcedId": "scoreScale.sourcedId",
    },
    "results": {
        "lineItemSourcedId": "lineItem.sourcedId",
        "studentSourcedId": "student.sourcedId",
        "scoreScaleSourcedId": "scoreScale.sourcedId",
        "scoreStatus": "scoreStatus",
        "score": "score",
        "textScore": "textScore",
        "scoreDate": "scoreDate",
        "inProgress": "inProgress",
        "incomplete": "incomplete",
        "late": "late",
        "missing": "missing",
    },
}
#: Without these there is something to be loaded all the same.
OPTIONAL = ("demographics", "scoreScales", "categories")
#: Columns that only 1.2 has; 1.1 also has the role of a user, and 1.2 the file of roles.
_ONLY_12 = {
    "categories": ("weight",),
    "lineItems": ("scoreScaleSourcedId",),
    "results": ("scoreScaleSourcedId", "textScore", "inProgress", "incomplete", "late", "missing"),
}
_ROLE_COLUMNS = ("userSourcedId", "roleType", "role", "beginDate", "endDate", "orgSourcedId")


def endpoints(version: str) -> list[str]:
    """Return the endpoints that are read, those first to which others refer."""
    return [name for name in COLUMNS if version == "1.2" or name != "scoreScales"]


@dataclass
class _File:
    """The rows of one CSV file so far, page by page."""

    pages: list[pa.Table] = field(default_factory=list)

    def add(self, columns: Mapping[str, list[str | None]]) -> None:
        import pyarrow as pa

        self.pages.append(
            pa.table({name: pa.array(texts, pa.string()) for name, texts in columns.items()})
        )

    def write(self, path: Path) -> None:
        """Write the last row of each `sourcedId`."""
        import pyarrow as pa
        from pyarrow import csv

        table = pa.concat_tables(self.pages, promote_options="default")
        ids = pd.Series(table["sourcedId"].to_pandas())
        again = ids.duplicated(keep="last") & ids.notna()
        if again.any():
            table = table.filter(pa.array(~again))
        draft = path.with_suffix(".part")
        csv.write_csv(table, draft, csv.WriteOptions(quoting_style="needed"))
        draft.replace(path)


class _Reading:
    """One reading of an endpoint: its files so far, and how many rows they have."""

    def __init__(self, endpoint: str, version: str) -> None:
        self._endpoint, self._version = endpoint, version
        self._seen: set[str] = set()
        self._nameless = 0
        self._rows, self._roles = _File(), _File()

    def __len__(self) -> int:
        return len(self._seen) + self._nameless

    @property
    def is_nameless(self) -> bool:
        """Whether there are rows and none of them has a sourcedId."""
        return bool(self._nameless) and not self._seen

    def take(self, rows: list[Row]) -> int:
        """Add a page; return how many of its rows are new."""
        before = len(self._seen)
        ids = [row.get("sourcedId") for row in rows]
        self._seen.update(str(id_) for id_ in ids if id_)
        self._nameless += sum(not id_ for id_ in ids)
        if rows:
            self._rows.add(_columns(rows, self._endpoint, self._version))
            if self._endpoint == "users" and self._version == "1.2":
                self._roles.add(_roles(rows))
        return len(self._seen) - before

    def write(self, folder: Path) -> None:
        """Write the files that have a row."""
        for name, file in ((self._endpoint, self._rows), ("roles", self._roles)):
            if file.pages:
                file.write(folder / f"{name}.csv")


def download(
    client: Client, version: str, endpoint: str, since: datetime | None, folder: Path
) -> int | None:
    """Write the rows of an endpoint into `folder`; return how many, None if it is not offered.

    Parameters
    ----------
    since
        Only rows that were changed later; `None` means all. Without any row no file is written.

    Raises
    ------
    ServiceError
        The server does not send all rows that it counts.
    """
    problem = ""
    for _ in range(READINGS):
        reading = _Reading(endpoint, version)
        counts = client.read(endpoint, since, reading.take)
        if counts is None:
            return None
        if reading.is_nameless:
            raise ServiceError(
                f"No row of {endpoint} on the OneRoster server has a sourcedId.",
                "Report it to the server's administrator; nothing was loaded.",
            )
        if counts.fit(len(reading)):
            reading.write(folder)
            return len(reading)
        problem = f"states that there are {counts.first} {endpoint} and sends {len(reading)}"
    raise ServiceError(
        f"The OneRoster server {problem}, at each of {READINGS} readings.",
        "Report it to the server's administrator, or sync when fewer records change; nothing was "
        "loaded.",
    )


def write_manifest(folder: Path, version: str, modes: Mapping[str, str], system: str) -> None:
    """Write the manifest; `modes` is bulk, delta or absent for each file."""
    lines = [
        "propertyName,value",
        "manifest.version,1.0",
        f"oneroster.version,{version}",
        *(f"file.{name},{mode}" for name, mode in modes.items()),
        f"source.systemName,{system}",
    ]
    write_whole(UPath(folder / "manifest.csv"), ("\n".join(lines) + "\n").encode())


def _columns(rows: list[Row], endpoint: str, version: str) -> dict[str, list[str | None]]:
    places = {name: name for name in _HEAD} | COLUMNS[endpoint]
    if version == "1.1":
        places = {n: p for n, p in places.items() if n not in _ONLY_12.get(endpoint, ())}
    elif endpoint == "users":
        places.pop("role")
    columns = {name: _texts(rows, place) for name, place in places.items()}
    if endpoint == "scoreScales":
        columns["scoreScaleValue"] = [_scale(row.get("scoreScaleValue")) for row in rows]
    keys = dict.fromkeys(key for row in rows for key in _metadata(row))
    for key in list(keys)[:MOST_METADATA]:
        columns[f"metadata.{_text(key)}"] = [_text(_metadata(row).get(key)) for row in rows]
    return columns


def _metadata(row: Row) -> Row:
    metadata = row.get("metadata")
    return metadata if isinstance(metadata, dict) else {}


def _roles(rows: list[Row]) -> dict[str, list[str | None]]:
    """Return the roles of users, which have a file of their own in the CSV binding."""
    role_rows = []
    for row in rows:
        roles = row.get("roles") or ([{"role": row["role"]}] if row.get("role") else [])
        for number, role in enumerate(item for item in roles if isinstance(item, dict)):
            org = role.get("org")
            role_rows.append(
                {
                    **{name: row.get(name) for name in _HEAD},
                    **{name: role.get(name) for name in _ROLE_COLUMNS},
                    "sourcedId": f"{row.get('sourcedId')}-role-{number}",
                    "userSourcedId": row.get("sourcedId"),
                    "orgSourcedId": org.get("sourcedId") if isinstance(org, dict) else None,
                }
            )
    return {
        name: [_text(role_row[name]) for role_row in role_rows]
        for name in dict.fromkeys((*_HEAD, *_ROLE_COLUMNS))
    }


def _texts(rows: list[Row], place: str) -> list[str | None]:
    name, _, inner = place.partition(".")
    if name.endswith("[]"):
        lists = (row.get(name[:-2]) for row in rows)
        return [
            _text([_inner(o, inner) for o in a] if isinstance(a, list) else None) for a in lists
        ]
    if inner:
        return [_text(_inner(row.get(name), inner)) for row in rows]
    return [_text(row.get(name)) for row in rows]


def _scale(value: Any) -> str | None:
    """Return a scale as the CSV binding writes it.

    >>> _scale([{"itemValueLHS": "A", "itemValueRHS": "90-100"}, {"itemValueLHS": "B"}])
    '{A:90-100},{B:}'
    """
    if not isinstance(value, list):
        return _text(value)
    sides = ("itemValueLHS", "itemValueRHS")
    return ",".join("{" + ":".join(_text(_inner(a, s)) or "" for s in sides) + "}" for a in value)


def _inner(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else None


def _text(value: Any) -> str | None:
    """Return a value as the CSV binding writes it.

    >>> _text(True), _text(7.5), _text(["a", "b"]), _text(None)
    ('true', '7.5', 'a,b', None)
    """
    if value is None:
        return None
    if isinstance(value, str):
        # JSON may hold half a character (\ud800), which no file and no database can.
        return value if value.isascii() else value.encode(errors="replace").decode()
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return ",".join(_text(item) or "" for item in value)
    return json.dumps(value) if isinstance(value, dict) else str(value)
