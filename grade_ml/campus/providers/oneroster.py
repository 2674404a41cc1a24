"""A OneRoster 1.1 and 1.2 server for a small college, which is not part of the campus.

The college is a school of its own, because OneRoster has neither days of submission nor outcomes
nor activity: records of the campus, read by OneRoster, would be worse than those of its own load.
Rows that change on a day have that day as `dateLastModified`.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, datetime
from functools import lru_cache
from threading import Lock
from typing import Any
from urllib.parse import parse_qs, urlencode

import numpy as np
import pandas as pd

from grade_ml.campus.providers.answers import Answer, Query, RefusedError, as_json
from grade_ml.campus.providers.misbehaviour import Mode
from grade_ml.campus.providers.world import World
from grade_ml.campus.simulated import Campus, CampusConfig
from grade_ml.campus.simulated.calendar import AGE_AT_LEAST
from grade_ml.core.hashing import checksum

#: The path of all endpoints, and the credentials of a client.
ROOT = "/oneroster"
CLIENT_ID, CLIENT_SECRET = "grade_ml", "simulated"
#: Rows of a page: the standard's default, and the most that a request gets.
USUAL, MOST = 100, 10_000

_ORG = "college"
_NAMES = (("sim-", "college-"), ("SIM-", "COLLEGE-"))


def settings(url: str, version: str = "1.2") -> dict[str, str]:
    """Return the environment variables that point grade_ml at the server of `url`."""
    return {
        "GRADE_ML_ONEROSTER_URL": url + ROOT,
        "GRADE_ML_ONEROSTER_TOKEN_URL": f"{url}{ROOT}/token",
        "GRADE_ML_ONEROSTER_CLIENT_ID": CLIENT_ID,
        "GRADE_ML_ONEROSTER_CLIENT_SECRET": CLIENT_SECRET,
        "GRADE_ML_ONEROSTER_VERSION": version,
    }


def bearer(world: World) -> str:
    """Return the token of the day; tokens of other days have expired."""
    identity = f"{world.college}/{world.today}"
    return f"simulated-{checksum(identity.encode())[:32]}"


def token(world: World, query: Query) -> Answer:
    """Answer a request for a token by OAuth 2 client credentials."""
    form = parse_qs(query.body.decode())
    known = base64.b64encode(f"{CLIENT_ID}:{CLIENT_SECRET}".encode()).decode()
    if query.headers.get("authorization") != f"Basic {known}":
        raise RefusedError(as_json({"error": "invalid_client (simulated)"}, 401))
    if form.get("grant_type") != ["client_credentials"]:
        raise RefusedError(as_json({"error": "unsupported_grant_type (simulated)"}, 400))
    return as_json({"access_token": bearer(world), "token_type": "Bearer", "expires_in": 3600})


def v1p1(world: World, query: Query) -> Answer:
    """Answer a request of OneRoster 1.1."""
    return _page(world, query, "1.1")


def v1p2(world: World, query: Query) -> Answer:
    """Answer a request of OneRoster 1.2."""
    return _page(world, query, "1.2")


@dataclass(frozen=True)
class _Collection:
    """The rows of an endpoint in the order of `sourcedId`, and the days of their last change."""

    rows: pd.DataFrame
    days: np.ndarray

    def since(self, moment: np.datetime64 | None) -> np.ndarray:
        """Return the positions of the rows that were changed later than `moment`."""
        if moment is None:
            return np.arange(len(self.days))
        return np.flatnonzero(self.days.astype("datetime64[s]") > moment)


def _page(world: World, query: Query, version: str) -> Answer:
    if query.headers.get("authorization") != f"Bearer {bearer(world)}":
        raise _refused("unauthorisedrequest", 401)
    name = query.parts[0] if len(query.parts) == 1 else ""
    if name not in _ROWS:
        raise _refused("unknownobject", 404)
    moment = _moment(query.parameters.get("filter", ""))
    if query.parameters.get("sort", "sourcedId") != "sourcedId":
        raise _refused("invalid_sort_field", 400)
    places = _places(world.college, world.today, name, moment)
    limit = min(_number(query, "limit", USUAL), MOST)
    offset = _number(query, "offset", 0)
    total, start, stop = len(places), offset, offset + limit
    match query.mode:
        case Mode.REPEATED_ROWS:
            start = max(0, offset - max(1, limit // 2))
        case Mode.VANISHING_ROWS if offset:
            places, total = places[1:], total - 1
        case Mode.ENDLESS_PAGES:
            start, stop = 0, limit
    collection = _collections(world.college, world.today)[name]
    chosen = collection.rows.iloc[places[start:stop]]
    days = collection.days[places[start:stop]].astype(str)
    as_row = _ROWS[name]
    rows = [
        {"status": "active", "dateLastModified": f"{day}T00:00:00.000Z", **as_row(row, version)}
        for row, day in zip(_records(chosen), days, strict=True)
    ]
    if query.mode is Mode.UNKNOWN_WORDS and rows:
        rows[0] |= {"status": "dormant", "scoreStatus": "pondered"}
    answer = as_json({name: rows})
    return Answer(answer.body, headers=tuple(_headers(query, offset, limit, total)))


def _headers(query: Query, offset: int, limit: int, total: int) -> Iterator[tuple[str, str]]:
    if query.mode is Mode.WRONG_TOTAL:
        total += 7
    if query.mode not in (Mode.ENDLESS_PAGES, Mode.WITHOUT_TOTAL):
        yield "X-Total-Count", str(total)
    if offset + limit < total or query.mode is Mode.ENDLESS_PAGES:
        more = urlencode({**query.parameters, "limit": limit, "offset": offset + limit})
        yield "Link", f'<{query.url}?{more}>; rel="next"'


def _refused(code: str, status: int) -> RefusedError:
    minor = {"imsx_codeMinorFieldName": "TargetEndSystem", "imsx_codeMinorFieldValue": code}
    return RefusedError(
        as_json(
            {
                "imsx_codeMajor": "failure",
                "imsx_severity": "error",
                "imsx_description": f"{code} (simulated)",
                "imsx_codeMinor": {"imsx_codeMinorField": [minor]},
            },
            status,
        )
    )


def _number(query: Query, name: str, usual: int) -> int:
    value = query.parameters.get(name, str(usual))
    if not value.isdecimal():
        raise _refused("invalid_data", 400)
    return int(value)


def _moment(condition: str) -> np.datetime64 | None:
    """Return the moment of a filter dateLastModified>'…'; other filters are refused."""
    if not condition:
        return None
    match = re.fullmatch(r"dateLastModified\s*>\s*'([^']+)'", condition)
    try:
        if match:
            moment = datetime.fromisoformat(match[1].replace("Z", ""))
            return np.datetime64(moment.replace(tzinfo=None), "s")
    except ValueError:
        pass
    raise _refused("invalid_filter_field", 400)


_making = Lock()


@lru_cache(maxsize=32)
def _places(
    college: CampusConfig, today: date, name: str, moment: np.datetime64 | None
) -> np.ndarray:
    return _collections(college, today)[name].since(moment)


def _collections(college: CampusConfig, today: date) -> dict[str, _Collection]:
    # Requests arrive concurrently; the college is drawn once.
    with _making:
        return _draw(college, today)


@lru_cache(maxsize=2)
def _draw(college: CampusConfig, today: date) -> dict[str, _Collection]:
    parts: dict[str, list[pd.DataFrame]] = {name: [] for name in _ROWS}
    for shown, table, frame in _with_appearance(Campus(college, today)):
        for name, rows, changed in _split(table, frame):
            days = np.maximum(changed.to_numpy().astype("datetime64[D]"), shown)
            days = np.where(np.isnat(days), shown, days)
            parts[name].append(rows.assign(day=days.astype("datetime64[s]")))
    parts["orgs"].append(pd.DataFrame({"sourcedId": [_ORG], "day": [pd.Timestamp("2020-01-01")]}))
    nothing = pd.DataFrame({"sourcedId": [], "day": pd.to_datetime([])})
    parts["scoreScales"].append(nothing)
    return {name: _collection(pd.concat(frames)) for name, frames in parts.items()}


def _with_appearance(campus: Campus) -> Iterator[tuple[np.datetime64, str, pd.DataFrame]]:
    """Yield the day on which the term of a batch appears, with all that has happened in it."""
    before: list[tuple[str, pd.DataFrame]] = []
    shown = np.datetime64("NaT", "D")
    for table, frame in campus.batches():
        if table == "student":
            # The students who come with a term precede it.
            before.append((table, frame))
            continue
        if table == "term":
            shown = np.datetime64(frame["starts_on"].iloc[0].date(), "D") + AGE_AT_LEAST
        yield from ((shown, *batch) for batch in (*before, (table, frame)))
        before.clear()


def _collection(rows: pd.DataFrame) -> _Collection:
    for column in rows.columns:
        if rows[column].dtype == "string[pyarrow]":
            for old, new in _NAMES:
                rows[column] = rows[column].str.replace(old, new, regex=False)
    rows = rows.drop_duplicates("sourcedId").sort_values("sourcedId", ignore_index=True)
    return _Collection(rows.drop(columns="day"), rows["day"].to_numpy().astype("datetime64[D]"))


def _split(table: str, frame: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame, pd.Series]]:
    """Yield endpoint, rows and the day of each row's last change; missing if it never changed."""
    never = pd.Series(pd.NaT, frame.index)
    match table:
        case "student":
            people = frame.rename(columns={"student_id": "sourcedId"})
            yield "users", people[["sourcedId"]], never
            yield "demographics", people, never
        case "term" | "course" | "section":
            name = {"term": "academicSessions", "course": "courses", "section": "classes"}[table]
            yield name, frame.rename(columns={f"{table}_id": "sourcedId"}), never
        case "enrollment":
            known = frame[frame["enrolled_on"].notna()]
            ids = known["section_id"] + "-" + known["student_id"]
            changed = known["withdrawn_on"].fillna(known["enrolled_on"])
            yield "enrollments", known.assign(sourcedId=ids), changed
        case "assignment":
            titles = frame[["category"]].drop_duplicates()
            yield "categories", titles.assign(sourcedId=titles["category"]), never[: len(titles)]
            yield "lineItems", frame.rename(columns={"assignment_id": "sourcedId"}), never
        case "result":
            ids = frame["assignment_id"] + "-" + frame["student_id"]
            changed = frame["graded_on"].fillna(frame["submitted_on"])
            rows = frame.assign(sourcedId=ids, day_scored=changed)
            yield "results", rows, changed


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return rows with dates as text and None for missing values."""
    columns: dict[str, list[Any]] = {}
    for name in frame.columns:
        column = frame[name]
        if column.dtype.kind == "M":
            column = column.dt.strftime("%Y-%m-%d")
        columns[str(name)] = [None if pd.isna(value) else value for value in column.tolist()]
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _link(kind: str, sourced_id: str) -> dict[str, str]:
    return {"href": f"{_PLURALS[kind]}/{sourced_id}", "sourcedId": sourced_id, "type": kind}


_PLURALS = {
    "academicSession": "academicSessions",
    "category": "categories",
    "class": "classes",
    "course": "courses",
    "lineItem": "lineItems",
    "org": "orgs",
    "user": "users",
}
Row = dict[str, Any]


def _org(row: Row, _: str) -> Row:
    return {"sourcedId": row["sourcedId"], "name": "College (simulated)", "type": "school"}


def _session(row: Row, _: str) -> Row:
    return {
        "sourcedId": row["sourcedId"],
        "title": f"{row['title']} (simulated)",
        "type": "term",
        "startDate": row["starts_on"],
        "endDate": row["ends_on"],
        "parent": None,
        "schoolYear": row["ends_on"][:4],
    }


def _course(row: Row, _: str) -> Row:
    return {
        "sourcedId": row["sourcedId"],
        "title": f"{row['title']} (simulated college)",
        "courseCode": row["sourcedId"],
        "org": _link("org", _ORG),
        "subjects": [row["subject"]],
    }


def _class(row: Row, _: str) -> Row:
    return {
        "sourcedId": row["sourcedId"],
        "title": f"{row['sourcedId']} (simulated)",
        "classType": "scheduled",
        "course": _link("course", row["course_id"]),
        "school": _link("org", _ORG),
        "terms": [_link("academicSession", row["term_id"])],
    }


def _user(row: Row, version: str) -> Row:
    user: Row = {
        "sourcedId": row["sourcedId"],
        "enabledUser": "true",
        "username": row["sourcedId"],
        "givenName": "Student",
        "familyName": f"{row['sourcedId']} (simulated)",
    }
    if version == "1.1":
        return user | {"role": "student", "orgs": [_link("org", _ORG)]}
    role = {"roleType": "primary", "role": "student", "org": _link("org", _ORG)}
    return user | {"roles": [role], "primaryOrg": _link("org", _ORG)}


def _person(row: Row, _: str) -> Row:
    sex = "female" if '"gender": "F"' in row["attributes"] else "male"
    return {"sourcedId": row["sourcedId"], "sex": sex}


def _enrollment(row: Row, _: str) -> Row:
    return {
        "sourcedId": row["sourcedId"],
        "user": _link("user", row["student_id"]),
        "class": _link("class", row["section_id"]),
        "school": _link("org", _ORG),
        "role": "student",
        "primary": "false",
        "beginDate": row["enrolled_on"],
        "endDate": row["withdrawn_on"],
    }


def _category(row: Row, _: str) -> Row:
    return {"sourcedId": row["sourcedId"], "title": row["category"]}


def _line_item(row: Row, _: str) -> Row:
    return {
        "sourcedId": row["sourcedId"],
        "title": f"{row['title']} (simulated)",
        "dueDate": row["due_on"],
        "class": _link("class", row["section_id"]),
        "school": _link("org", _ORG),
        "category": _link("category", row["category"]),
        "resultValueMin": 0.0,
        "resultValueMax": row["max_score"],
        "metadata": {"weight": row["weight"]},
    }


def _result(row: Row, _: str) -> Row:
    scored = row["score"] is not None
    return {
        "sourcedId": row["sourcedId"],
        "lineItem": _link("lineItem", row["assignment_id"]),
        "student": _link("user", row["student_id"]),
        "scoreStatus": "fully graded" if scored else "submitted",
        "score": row["score"],
        "scoreDate": row["day_scored"],
    }


_ROWS: dict[str, Callable[[Row, str], Row]] = {
    "orgs": _org,
    "academicSessions": _session,
    "courses": _course,
    "classes": _class,
    "users": _user,
    "demographics": _person,
    "enrollments": _enrollment,
    "categories": _category,
    "lineItems": _line_item,
    "scoreScales": _org,
    "results": _result,
}
