"""A small OneRoster source, its deliveries as folders, and what the gradebook then holds."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pandas as pd
from sqlalchemy import Engine, text

from grade_ml.gradebook import frames, oneroster
from grade_ml.gradebook.frames import Gradebook
from grade_ml.gradebook.institution import Institution
from grade_ml.gradebook.loading import LoadReport, load
from grade_ml.gradebook.outcomes import outcomes

Row = Mapping[str, Any]
#: Rows by file.
Rows = dict[str, list[Row]]

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
#: In the middle of the term of `source`, and after it.
DURING, AFTER = date(2025, 10, 14), date(2026, 2, 1)
START, END = "2025-08-18", "2025-12-19"
REQUIRED = {
    "academicSessions": "sourcedId title type startDate endDate parentSourcedId",
    "courses": "sourcedId title",
    "classes": "sourcedId courseSourcedId termSourcedIds",
    "users": "sourcedId role",
    "enrollments": "sourcedId classSourcedId userSourcedId role beginDate endDate",
    "categories": "sourcedId title",
    "lineItems": "sourcedId title dueDate classSourcedId categorySourcedId resultValueMin "
    "resultValueMax",
    "results": "sourcedId lineItemSourcedId studentSourcedId scoreStatus score scoreDate",
}


def session(id_: str = "t1", start: str = START, end: str = END, kind: str = "term") -> Row:
    """Return an academic session."""
    return {"sourcedId": id_, "title": id_, "type": kind, "startDate": start, "endDate": end}


def class_(id_: str, course: str, sessions: str = "t1") -> Row:
    """Return a class."""
    return {"sourcedId": id_, "courseSourcedId": course, "termSourcedIds": sessions}


def stint(id_: str, class_id: str, user: str, begin: str = START, end: str = END) -> Row:
    """Return an enrollment of a student."""
    return {
        "sourcedId": id_,
        "classSourcedId": class_id,
        "userSourcedId": user,
        "role": "student",
        "beginDate": begin,
        "endDate": end,
    }


def item(id_: str, class_id: str, category: str = "hw", highest: object = 10, **more: Any) -> Row:
    """Return a line item."""
    return {
        "sourcedId": id_,
        "title": id_,
        "dueDate": "2025-09-08",
        "classSourcedId": class_id,
        "categorySourcedId": category,
        "resultValueMin": 0,
        "resultValueMax": highest,
        **more,
    }


def result(
    id_: str, item_id: str, user: str, score: object, on: str = "2025-09-09", **more: Any
) -> Row:
    """Return a result, fully graded unless `more` says otherwise."""
    return {
        "sourcedId": id_,
        "lineItemSourcedId": item_id,
        "studentSourcedId": user,
        "scoreStatus": "fully graded",
        "score": score,
        "scoreDate": on,
        **more,
    }


def source(**changed: Sequence[Row]) -> Rows:
    """Return two classes, Algebra (u1, u2) and Biology (u1, u3), each with 10 and 100 points.

    `changed` replaces the rows of files.
    """
    rows: Rows = {
        "academicSessions": [session("y", "2025-08-18", "2026-05-29", "schoolYear"), session()],
        "courses": [{"sourcedId": id_, "title": id_} for id_ in ("algebra", "biology")],
        "classes": [class_("alg", "algebra"), class_("bio", "biology")],
        "users": [{"sourcedId": id_, "role": "student"} for id_ in ("u1", "u2", "u3")],
        "enrollments": [
            stint("e1", "alg", "u1"),
            stint("e2", "alg", "u2"),
            stint("e3", "bio", "u1"),
            stint("e4", "bio", "u3"),
        ],
        "categories": [
            {"sourcedId": "hw", "title": "Homework"},
            {"sourcedId": "ts", "title": "Tests"},
        ],
        "lineItems": [
            item("l1", "alg"),
            item("l2", "alg", "ts", 100),
            item("l3", "bio"),
            item("l4", "bio", "ts", 100),
        ],
        "results": [
            result("r1", "l1", "u1", 9),
            result("r2", "l2", "u1", 85, "2025-10-09"),
            result("r3", "l1", "u2", 8),
            result("r4", "l2", "u2", 70, "2025-10-09"),
            result("r5", "l3", "u1", 9),
            result("r6", "l4", "u1", 90, "2025-10-09"),
            result("r7", "l3", "u3", 8),
            result("r8", "l4", "u3", 75, "2025-10-09"),
        ],
    }
    return rows | {name: list(new) for name, new in changed.items()}


def as_text(rows: Sequence[Row], name: str, *, delta: bool = False) -> str:
    """Return rows as a CSV file; missing values are empty."""
    names = dict.fromkeys(REQUIRED.get(name, "sourcedId").split())
    if delta:
        names |= {"status": None, "dateLastModified": None}
    names |= dict.fromkeys(column for row in rows for column in row)
    file = io.StringIO()
    writer = csv.DictWriter(file, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def manifest(modes: Mapping[str, str], version: str = "1.2") -> str:
    """Return a manifest."""
    lines = ["propertyName,value", "manifest.version,1.0", f"oneroster.version,{version}"]
    return "\n".join([*lines, *(f"file.{name},{mode}" for name, mode in modes.items())]) + "\n"


def write(folder: Path, rows: Rows, mode: str = "bulk", **texts: str) -> Path:
    """Write rows as a delivery; `texts` are files written as they are."""
    folder.mkdir(parents=True)
    files = {name: as_text(new, name, delta=mode == "delta") for name, new in rows.items()} | texts
    for name, content in files.items():
        (folder / f"{name}.csv").write_text(content, encoding="utf-8")
    (folder / "manifest.csv").write_text(manifest(dict.fromkeys(files, mode)))
    return folder


def delta(folder: Path, rows: Rows) -> Path:
    """Write rows as changes; those without a status are active."""
    active = {"status": "active", "dateLastModified": "2025-10-13T00:00:00Z"}
    return write(
        folder, {n: [{**active, **row} for row in new] for n, new in rows.items()}, "delta"
    )


def gone(row: Row) -> Row:
    """Return the row as a delta deletes it."""
    return {**row, "status": "tobedeleted"}


def load_path(
    engine: Engine,
    path: Path,
    day: date = DURING,
    institution: Institution | None = None,
    **more: Any,
) -> LoadReport:
    """Load a delivery."""
    bundle = oneroster.bundle(path, day, institution or Institution(), **more)
    return load(engine, bundle, loaded_at=NOW)


def read(engine: Engine) -> Gradebook:
    """Return the gradebook."""
    with engine.connect() as connection:
        return frames.read(connection)


def grades(engine: Engine, as_of: date = AFTER) -> dict[tuple[str, str], float | None]:
    """Return the final grade of each enrollment (class, student), None where it is unknown."""
    return {
        (row.section_id, row.student_id): None if pd.isna(row.final_grade) else row.final_grade
        for row in outcomes(read(engine), as_of, Institution()).itertuples()
    }


def at_risk(engine: Engine, as_of: date = AFTER) -> dict[tuple[str, str], bool | None]:
    """Return of each enrollment (class, student) whether it was at risk, None where unknown."""
    return {
        (row.section_id, row.student_id): None if pd.isna(row.at_risk) else bool(row.at_risk)
        for row in outcomes(read(engine), as_of, Institution()).itertuples()
    }


def empty(engine: Engine) -> None:
    """Take everything out of the gradebook and the mirror."""
    with engine.begin() as connection:
        names = connection.execute(
            text(
                "select string_agg(format('%I.%I', schemaname, tablename), ', ') from pg_tables "
                "where schemaname = 'gradebook'"
            )
        ).scalar_one()
        connection.execute(text(f"truncate {names} cascade"))
