"""OneRoster 1.1 and 1.2 CSV (1EdTech), a zip file or a folder, bulk or delta, as a bundle.

How the terms meet: class = section, lineItem = assignment, academicSession = term, category title =
category. OneRoster names a score's date, not a submission's: that date serves for both. Names,
addresses and other columns of people that no prediction needs are not read. What a later delta
refers to (sessions, categories, line items) is remembered in `gradebook.oneroster_row`.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import sqlalchemy as sa
from sqlalchemy import Connection, text

from grade_ml.core.errors import SourceError
from grade_ml.gradebook import csv_files, schema
from grade_ml.gradebook.bundle import ROW, Batch, Bundle, Origin
from grade_ml.gradebook.csv_files import CsvRows, Opener
from grade_ml.gradebook.institution import Use

VERSIONS = ("1.1", "1.2")
#: An enrollment that ends more than this many days before its class was left, not finished;
#: schools let enrollments end with the last lesson, up to two weeks before the session does.
LEFT_EARLY_DAYS = 14
#: Types of academic sessions that are terms; others count by their parent, school years as such.
TERM_TYPES = ("term", "semester")

#: The columns of each file that must be there in either version, and those that may be.
_COLUMNS: dict[str, tuple[list[str], list[str]]] = {
    "academicSessions": (
        ["sourcedId", "title", "type", "startDate", "endDate"],
        ["parentSourcedId"],
    ),
    "courses": (["sourcedId", "title"], ["subjects"]),
    "classes": (["sourcedId", "courseSourcedId", "termSourcedIds"], []),
    "roles": (["userSourcedId", "role"], []),
    "enrollments": (["classSourcedId", "userSourcedId", "role"], ["beginDate", "endDate"]),
    "categories": (["sourcedId", "title"], ["weight"]),
    "lineItems": (
        ["sourcedId", "title", "dueDate", "classSourcedId", "categorySourcedId"],
        ["resultValueMin", "resultValueMax", "metadata.weight"],
    ),
    "results": (
        ["lineItemSourcedId", "studentSourcedId", "scoreStatus", "score", "scoreDate"],
        ["missing"],
    ),
}
#: How the names of a source's own columns begin.
METADATA = "metadata."
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
_STATUS = ["status", "dateLastModified"]
_ORIGINS = {
    "term": Origin(
        "academicSessions.csv",
        {"term_id": "sourcedId", "starts_on": "startDate", "ends_on": "endDate"},
    ),
    "course": Origin("courses.csv", {"course_id": "sourcedId"}),
    "section": Origin(
        "classes.csv",
        {"section_id": "sourcedId", "course_id": "courseSourcedId", "term_id": "termSourcedIds"},
    ),
    "student": Origin("users.csv", {"student_id": "sourcedId"}),
    "enrollment": Origin(
        "enrollments.csv",
        {
            "section_id": "classSourcedId",
            "student_id": "userSourcedId",
            "enrolled_on": "beginDate",
            "withdrawn_on": "endDate",
        },
    ),
    "assignment": Origin(
        "lineItems.csv",
        {
            "assignment_id": "sourcedId",
            "section_id": "classSourcedId",
            "due_on": "dueDate",
            "max_score": "resultValueMax",
            "weight": "metadata.weight",
        },
    ),
    "result": Origin(
        "results.csv",
        {
            "assignment_id": "lineItemSourcedId",
            "student_id": "studentSourcedId",
            "submitted_on": "scoreDate",
            "graded_on": "scoreDate",
        },
    ),
}


def bundle(path: Path) -> Bundle:
    """Return a OneRoster delivery as a bundle.

    `manifest.csv` says of each file whether it is bulk (all rows), delta (changed rows, with
    `status` active or tobedeleted) or absent. Rows marked tobedeleted are removed by a delta and
    left out of a bulk file; a bulk file removes nothing by leaving rows out.

    Raises
    ------
    SourceError
        `path` is neither a folder nor a zip file, the manifest is missing or of another version,
        or a file that it names is missing.
    """
    files = _files(path)
    modes = _modes(files)
    for name in (*_COLUMNS, "users", "demographics"):
        if modes.get(name, "absent") != "absent" and files(f"{name}.csv") is None:
            raise SourceError(
                f"{path} has no {name}.csv, which its manifest.csv announces.",
                f"Add the file, or write file.{name},absent into the manifest.",
            )
    return Bundle(
        "oneroster", _ORIGINS, lambda connection: _Delivery(files, modes, connection).batches()
    )


#: Gives an opener for the file of a name, None if the delivery has no such file.
_Files = Callable[[str], Opener | None]


def _files(path: Path) -> _Files:
    if path.is_dir():

        def in_folder(name: str) -> Opener | None:
            found = csv_files.find(path, name)
            return None if found is None else csv_files.opener(found)

        return in_folder
    if not path.exists():
        raise SourceError(f"{path} does not exist.", "Name a OneRoster folder or zip file.")
    if not zipfile.is_zipfile(path):
        raise SourceError(
            f"{path} ({path.stat().st_size:,} bytes) is neither a folder nor a whole zip file; "
            "it was not read.",
            "Name a OneRoster folder or zip file.",
        )
    archive = zipfile.ZipFile(path)
    entries = {Path(info.filename).name: info for info in archive.infolist() if not info.is_dir()}
    if any(info.flag_bits & 1 for info in entries.values()):
        raise SourceError(f"{path} is encrypted.", "Unpack it and name the folder.")

    def in_archive(name: str) -> Opener | None:
        info = entries.get(name)
        return None if info is None else lambda: archive.open(info)

    return in_archive


def _modes(files: _Files) -> dict[str, str]:
    """Return bulk, delta or absent per file of the manifest."""
    opener = files("manifest.csv")
    if opener is None:
        raise SourceError(
            "There is no manifest.csv.", "A OneRoster delivery has one; export it again."
        )
    properties: dict[str, str] = {}
    for rows in csv_files.read(opener, "manifest.csv", ["propertyName", "value"]):
        properties |= zip(rows.text("propertyName"), rows.text("value"), strict=True)
    version = properties.get("oneroster.version")
    if version not in VERSIONS:
        raise SourceError(
            f"manifest.csv says oneroster.version {version}.",
            f"Export the data as OneRoster {' or '.join(VERSIONS)}.",
        )
    modes = {
        name.removeprefix("file."): str(mode)
        for name, mode in properties.items()
        if isinstance(name, str) and name.startswith("file.")
    }
    for name, mode in modes.items():
        if mode not in ("bulk", "delta", "absent"):
            raise SourceError(
                f"manifest.csv says file.{name} is {mode}.", "Write bulk, delta or absent."
            )
    return modes


class _Delivery:
    """One delivery being read; small files are held, those of people and results stream through."""

    def __init__(self, files: _Files, modes: dict[str, str], connection: Connection) -> None:
        self._files, self._modes, self._connection = files, modes, connection
        self.section_ends: dict[str, Any] = {}

    def batches(self) -> Iterator[Batch]:
        """Yield every batch of the delivery."""
        sessions = yield from self._overlay("academicSessions", "term", "term_id", _session)
        spans = {name: _span(name, sessions) for name in sessions}
        used = yield from self._sections(spans)
        used |= set(self._known(schema.term.c.term_id))
        terms = {
            id_: fields
            for id_, fields in sessions.items()
            if id_ in used or (fields[ROW] and fields["type"] in TERM_TYPES)
        }
        yield Batch("term", _table("term_id", terms, ["title", "starts_on", "ends_on"]))
        yield from self._courses()
        yield from self._students()
        yield from self._enrollments()
        categories = yield from self._overlay("categories", None, "", _category)
        items = yield from self._overlay("lineItems", "assignment", "assignment_id", _line_item)
        if {self._modes.get(name, "absent") for name in ("lineItems", "categories")} != {"absent"}:
            yield self._assignments(items, categories)
        yield from self._results(items)

    def _read(self, name: str, personal: str = "") -> Iterator[tuple[CsvRows, pd.Series]]:
        """Yield the rows of a file, and which of them are to be deleted."""
        mode = self._modes.get(name, "absent")
        opener = None if mode == "absent" else self._files(f"{name}.csv")
        if opener is None:
            return
        required, optional = _COLUMNS.get(name, (["sourcedId"], None))
        for rows in csv_files.read(
            opener,
            f"{name}.csv",
            [*required, "status"] if mode == "delta" else required,
            optional=None if optional is None else [*optional, "status"],
            personal=[personal],
        ):
            status = rows.text("status").str.lower()
            if mode == "delta":
                strange = ~status.isin(["active", "tobedeleted"])
                rows.reject(strange, "status", "is no status; write active or tobedeleted")
            yield rows, status.eq("tobedeleted").fillna(False).astype(bool)

    def _split(
        self,
        table: str,
        rows: CsvRows,
        gone: pd.Series,
        columns: dict[str, Any],
        chosen: pd.Series | bool = True,
    ) -> Iterator[Batch]:
        """Yield the chosen rows: those to keep and, of a delta, those to delete."""
        yield Batch(table, rows.frame(columns, ~gone & chosen), rows.problems)
        if self._modes[rows.file.removesuffix(".csv")] == "delta":
            yield Batch(table, rows.frame(columns, gone & chosen), delete=True)

    def _overlay(
        self, name: str, table: str | None, key: str, read: Callable[[CsvRows], dict[str, Any]]
    ) -> Generator[Batch, None, dict[str, dict[str, Any]]]:
        """Return the rows of a small file, delivered now or before, by id; remember them.

        Rows of this delivery have their line under `row`. Problems and deletions are yielded.
        """
        query = text("select sourced_id, fields from gradebook.oneroster_row where file = :name")
        rows_by_id = {
            row.sourced_id: row.fields for row in self._connection.execute(query, {"name": name})
        }
        for rows, gone in self._read(name):
            columns = pd.DataFrame({"id": rows.required("sourcedId"), **read(rows)})
            differs = columns.duplicated("id") & ~columns.duplicated()
            rows.reject(differs, "sourcedId", "stands in an earlier row, which was kept")
            for record in _records(rows.frame({str(n): c for n, c in columns.items()}, ~gone)):
                rows_by_id[record.pop("id")] = record
            deleted = rows.frame({key: columns["id"]}, gone & columns.get("is_row", True))
            for id_ in deleted[key]:
                rows_by_id.pop(id_, None)
            delete = self._modes[name] == "delta" and bool(table)
            yield Batch(
                table or "assignment", deleted[: None if delete else 0], rows.problems, delete
            )
        if name in self._modes:
            self._remember(name, rows_by_id)
        return rows_by_id

    def _remember(self, name: str, rows_by_id: dict[str, dict[str, Any]]) -> None:
        forget = text("delete from gradebook.oneroster_row where file = :name")
        self._connection.execute(forget, {"name": name})
        insert = text(
            "insert into gradebook.oneroster_row values (:name, :id, cast(:fields as jsonb))"
        )
        rows = [
            {"name": name, "id": id_, "fields": json.dumps({**fields, ROW: 0})}
            for id_, fields in rows_by_id.items()
        ]
        if rows:
            self._connection.execute(insert, rows)

    def _known(self, column: sa.Column[Any]) -> set[str]:
        return set(self._connection.execute(sa.select(column)).scalars())

    def _sections(self, spans: dict[str, tuple[str, str, str]]) -> Generator[Batch, None, set[str]]:
        """Yield the classes with term and dates of the sessions they name; return the terms."""
        used: set[str] = set()
        for rows, gone in self._read("classes"):
            named = rows.text("termSourcedIds").fillna("").str.split(",")
            found = [[spans[n.strip()] for n in names if n.strip() in spans] for names in named]
            unknown = pd.Series([not spans_ for spans_ in found], dtype=bool) & ~gone
            rows.reject(unknown, "termSourcedIds", "names no known session; deliver the session")
            terms = [spans_[0][0] if spans_ else None for spans_ in found]
            used |= {term for term in terms if term}
            columns = {
                "section_id": rows.required("sourcedId"),
                "course_id": rows.text("courseSourcedId"),
                "term_id": pd.Series(terms, dtype="string[pyarrow]"),
                "starts_on": _dates(min((s[1] for s in f if s[1]), default=None) for f in found),
                "ends_on": _dates(max((s[2] for s in f if s[2]), default=None) for f in found),
            }
            self.section_ends |= zip(columns["section_id"], columns["ends_on"], strict=True)
            yield from self._split("section", rows, gone, columns)
        return used

    def _courses(self) -> Iterator[Batch]:
        for rows, gone in self._read("courses"):
            columns = {
                "course_id": rows.required("sourcedId"),
                "title": rows.text("title"),
                "subject": rows.text("subjects").str.partition(",")[0],
            }
            yield from self._split("course", rows, gone, columns)

    def _students(self) -> Iterator[Batch]:
        """Yield users with the role of a student; other users are none of ours."""
        facts = yield from self._demographics()
        students: set[str] = set()
        for rows, gone in self._read("roles", personal="userSourcedId"):
            role = rows.text("role").str.lower().eq("student") & ~gone
            students |= set(rows.required("userSourcedId")[role.fillna(False).astype(bool)])
            yield Batch("student", pd.DataFrame(), rows.problems)
        for rows, gone in self._read("users", personal="sourcedId"):
            ids = rows.required("sourcedId")
            known = self._attributes(ids.dropna())
            student = rows.text("role").str.lower().eq("student").fillna(False).astype(bool)
            metadata = [name for name in rows.names if name.startswith(METADATA)]
            own = [
                {name.removeprefix(METADATA): value for name, value in json.loads(row).items()}
                for row in rows.attributes(metadata)
            ]
            merged = [
                _merged(known.get(id_), new, facts.pop(id_, {}))
                for id_, new in zip(ids, own, strict=True)
            ]
            columns = {"student_id": ids, "attributes": pd.Series(merged, dtype="string[pyarrow]")}
            chosen = student | ids.isin(students) | ids.isin(known)
            yield from self._split("student", rows, gone, columns, chosen)
        known = self._attributes(facts)
        merged = [_merged(attributes, facts[id_]) for id_, attributes in known.items()]
        yield Batch(
            "student", pd.DataFrame({"student_id": list(known), "attributes": merged, ROW: 0})
        )

    def _attributes(self, ids: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Return the attributes of those students that the gradebook has."""
        query = text(
            "select student_id, attributes from gradebook.student where student_id = any(:ids)"
        )
        return {
            row.student_id: row.attributes
            for row in self._connection.execute(query, {"ids": list(ids)})
        }

    def _demographics(self) -> Generator[Batch, None, dict[str, dict[str, Any]]]:
        """Return the demographics per user; a value of None is to be forgotten."""
        facts: dict[str, dict[str, Any]] = {}
        for rows, gone in self._read("demographics", personal="sourcedId"):
            names = [n for n in rows.names if n not in ("sourcedId", *_STATUS)]
            frame = pd.DataFrame({name: rows.text(name) for name in names}, dtype=object)
            if "birthDate" in frame:
                frame["birthYear"] = frame.pop("birthDate").str[:4]
            frame.loc[gone.to_numpy()] = None
            ids = rows.required("sourcedId")
            facts |= (
                (id_, fact)
                for id_, fact in zip(ids, _records(frame), strict=True)
                if not pd.isna(id_)
            )
            yield Batch("student", pd.DataFrame(), rows.problems)
        return facts

    def _enrollments(self) -> Iterator[Batch]:
        section = schema.section.c
        ends = dict(self._connection.execute(sa.select(section.section_id, section.ends_on)).all())
        self.section_ends |= {k: v for k, v in ends.items() if k not in self.section_ends}
        for rows, gone in self._read("enrollments", personal="userSourcedId"):
            student = rows.text("role").str.lower().eq("student").fillna(False).astype(bool)
            sections, left = rows.required("classSourcedId"), rows.date("endDate")
            last = pd.to_datetime(sections.map(self.section_ends))
            early = left < last - pd.Timedelta(days=LEFT_EARLY_DAYS)
            columns = {
                "section_id": sections,
                "student_id": rows.required("userSourcedId"),
                "enrolled_on": rows.date("beginDate"),
                "withdrawn_on": left.where(early),
                "outcome": early.map({True: schema.Outcome.WITHDRAWN.value}),
                "attributes": "{}",
            }
            yield from self._split("enrollment", rows, gone, columns, student)

    def _assignments(
        self, items: dict[str, dict[str, Any]], categories: dict[str, dict[str, Any]]
    ) -> Batch:
        """Return the line items with category and weight.

        The weight is `metadata.weight`, else the category's (1.2) in equal parts for its items in
        the class, else the points.
        """
        frame = _table("assignment_id", items, [*_line_item_columns(), ROW])
        known = self._known(schema.assignment.c.assignment_id)
        frame = frame[(frame[ROW] > 0) | frame["assignment_id"].isin(known)]
        titles = {id_: fields["title"] for id_, fields in categories.items()}
        weights = {id_: fields["weight"] for id_, fields in categories.items()}
        parts = frame.groupby(["section_id", "category_id"])["assignment_id"].transform("count")
        by_category = frame["category_id"].map(weights).astype("float64") / parts
        weighted = any(weight is not None for weight in weights.values())
        share = by_category.fillna(0.0) if weighted else frame["max_score"] - frame["min_score"]
        return Batch(
            "assignment",
            frame.assign(
                category=frame["category_id"].map(titles).fillna(frame["category_id"]),
                weight=frame["weight"].astype("float64").fillna(share),
                max_score=frame["max_score"] - frame["min_score"],
                due_on=pd.to_datetime(frame["due_on"]),
            ).drop(columns=["category_id", "min_score"]),
        )

    def _results(self, items: dict[str, dict[str, Any]]) -> Iterator[Batch]:
        lowest = pd.Series({id_: f["min_score"] for id_, f in items.items()}, dtype="float64")
        highest = pd.Series({id_: f["max_score"] for id_, f in items.items()}, dtype="float64")
        for rows, gone in self._read("results", personal="studentSourcedId"):
            ids = rows.required("lineItemSourcedId")
            score, scored_on = rows.number("score"), rows.date("scoreDate")
            low, high = ids.map(lowest), ids.map(highest)
            status = rows.text("scoreStatus").str.lower().fillna("")
            absent = status.eq("not submitted") | rows.text("missing").str.lower().eq("true")
            absent = absent.fillna(False).astype(bool)
            rows.reject(
                ~gone & ~absent & ((score < low) | (score > high)),
                "score",
                "is outside the line item's resultValueMin and resultValueMax; correct one of them",
            )
            rows.reject(
                ~gone & status.eq("exempt"),
                "scoreStatus",
                "cannot be kept: the gradebook has no exemption and counts the item as missing",
            )
            columns = {
                "assignment_id": ids,
                "student_id": rows.required("studentSourcedId"),
                "score": 100 * (score - low) / (high - low),
                "submitted_on": scored_on,
                "graded_on": scored_on.where(score.notna()),
                "carried_over": False,
            }
            yield from self._split("result", rows, gone, columns, gone | ~absent)
            missing = self._stored_results(rows.frame(columns, ~gone & absent))
            yield Batch("result", missing, delete=True)

    def _stored_results(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Return those of `rows` that the gradebook holds: results since declared missing."""
        keys = ["assignment_id", "student_id"]
        query = text(
            "select assignment_id, student_id from gradebook.result join unnest(cast(:items as "
            "text[]), cast(:students as text[])) named (assignment_id, student_id) "
            "using (assignment_id, student_id)"
        )
        stored = self._connection.execute(
            query, {"items": rows[keys[0]].tolist(), "students": rows[keys[1]].tolist()}
        )
        index = pd.MultiIndex.from_tuples([tuple(row) for row in stored], names=keys)
        return rows[pd.MultiIndex.from_frame(rows[keys]).isin(index)] if len(index) else rows[:0]


def _session(rows: CsvRows) -> dict[str, Any]:
    kind = rows.text("type")
    return {
        "title": rows.text("title"),
        "type": kind,
        "starts_on": _iso(rows.date("startDate")),
        "ends_on": _iso(rows.date("endDate")),
        "parent": rows.text("parentSourcedId"),
        "is_row": kind.isin(TERM_TYPES),
    }


def _category(rows: CsvRows) -> dict[str, Any]:
    return {"title": rows.text("title"), "weight": rows.number("weight")}


def _line_item(rows: CsvRows) -> dict[str, Any]:
    return {
        "section_id": rows.required("classSourcedId"),
        "title": rows.text("title"),
        "due_on": _iso(rows.date("dueDate")),
        "category_id": rows.text("categorySourcedId").fillna("uncategorized"),
        "min_score": rows.number("resultValueMin").fillna(0.0),
        "max_score": rows.number("resultValueMax").fillna(100.0),
        "weight": rows.number("metadata.weight"),
    }


def _line_item_columns() -> list[str]:
    return ["section_id", "title", "due_on", "category_id", "min_score", "max_score", "weight"]


def _span(name: str, sessions: dict[str, dict[str, Any]]) -> tuple[str, str, str]:
    """Return the term of a session (itself, or the first parent that is one) and its dates."""
    term, seen = name, {name}
    while sessions[term]["type"] not in TERM_TYPES:
        parent = sessions[term]["parent"]
        if parent not in sessions or parent in seen:
            break
        seen.add(parent)
        term = parent
    if sessions[term]["type"] not in TERM_TYPES:
        term = name
    return term, sessions[name]["starts_on"], sessions[name]["ends_on"]


def _merged(known: dict[str, Any] | None, *news: dict[str, Any]) -> str:
    """Return attributes as JSON: the known ones, overwritten by each of `news`; None forgets."""
    merged = dict(known or {})
    for new in news:
        merged |= new
    return json.dumps({k: merged[k] for k in sorted(merged) if merged[k] is not None})


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return rows as dicts, None for a missing value."""
    return [
        {str(k): None if pd.isna(v) else v for k, v in row.items()}
        for row in frame.to_dict("records")
    ]


def _dates(texts: Iterable[str | None]) -> pd.Series:
    return pd.to_datetime(pd.Series(list(texts), dtype="string"))


def _table(key: str, rows_by_id: dict[str, dict[str, Any]], columns: list[str]) -> pd.DataFrame:
    """Return rows held by id as a frame with `key`, `columns` and the line number."""
    frame = pd.DataFrame(list(rows_by_id.values()), columns=list(dict.fromkeys([*columns, ROW])))
    frame.insert(0, key, list(rows_by_id))
    for name in frame.columns:
        if name.endswith("_on"):
            frame[name] = pd.to_datetime(frame[name])
    return frame


def _iso(dates: pd.Series) -> pd.Series:
    texts: pd.Series = dates.dt.strftime("%Y-%m-%d")
    return texts
