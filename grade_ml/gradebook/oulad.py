"""The Open University Learning Analytics Dataset (OULAD): a folder of CSV files as a bundle.

Source: Kuzilek, Hlosta, Zdrahal (2017), Scientific Data 4:170171. A section is a presentation of a
module; dates are days from its start. OULAD has no date of grading: a scored submission counts as
graded on the day it was submitted. Studies' facts that OULAD repeats in every enrollment are taken
from the student's earliest one, so that the past does not learn from the future.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd

from grade_ml.gradebook import csv_files
from grade_ml.gradebook.bundle import (
    RANK,
    ROW,
    UNKNOWN_SCORE,
    Batch,
    Bundle,
    Origin,
    Repeats,
    problems,
)
from grade_ml.gradebook.csv_files import CsvRows
from grade_ml.gradebook.declared import OULAD_ENROLLMENTS, OULAD_STUDENTS
from grade_ml.gradebook.schema import EXAM_CATEGORY, Outcome

#: The kind of activity if the folder has no vle.csv, which names what was clicked.
CLICK = "click"
#: Presentations start on the first of these months.
START_MONTHS = {"B": 2, "J": 10}
#: Days further from a presentation's start than this are typing errors; the longest lasts 269.
FARTHEST_DAY = 3650

_PRESENTATION = ["code_module", "code_presentation"]
_FILES = {
    "courses": [*_PRESENTATION, "module_presentation_length"],
    "assessments": [*_PRESENTATION, "id_assessment", "assessment_type", "date", "weight"],
    "studentInfo": [
        *_PRESENTATION,
        "id_student",
        *OULAD_STUDENTS,
        *OULAD_ENROLLMENTS,
        "final_result",
    ],
    "studentRegistration": [
        *_PRESENTATION,
        "id_student",
        "date_registration",
        "date_unregistration",
    ],
    "studentAssessment": ["id_assessment", "id_student", "date_submitted", "is_banked", "score"],
    "studentVle": [*_PRESENTATION, "id_student", "id_site", "date", "sum_click"],
    "vle": ["id_site", "activity_type"],
}
_OPTIONAL_FILES = ("studentVle", "vle")
_SECTION = {"section_id": ", ".join(_PRESENTATION)}
_ENROLLMENT = {**_SECTION, "student_id": "id_student"}
_WITHDRAWN = Outcome.WITHDRAWN.value
_OUTCOMES = {outcome.value: outcome.value for outcome in Outcome}


def bundle(folder: Path, running_on: date | None = None) -> Bundle:
    """Return the OULAD files of a folder, plain or gzipped, as a bundle.

    Parameters
    ----------
    folder
        Holds courses, assessments, studentInfo, studentRegistration and studentAssessment, and
        may hold studentVle and vle, each `.csv` or `.csv.gz`.
    running_on
        Shift all dates by one whole number of days so that the newest presentation is half over
        on this date. What has not happened by then is left out: later submissions, activity,
        registrations and withdrawals, and the outcomes of presentations that still run.

    Raises
    ------
    SourceError
        `folder` is no folder, or lacks a file.
    """
    csv_files.require_folder(folder)
    paths = {}
    for name in _FILES:
        look_up = csv_files.find if name in _OPTIONAL_FILES else csv_files.require
        path = look_up(folder, f"{name}.csv")
        if path is not None:
            paths[name] = path
    return Bundle("oulad", _origins(paths), lambda connection: _batches(paths, running_on))


def _origins(paths: dict[str, Path]) -> dict[str, Origin]:
    def origin(file: str, columns: dict[str, str], repeats: Repeats = Repeats.CONFLICT) -> Origin:
        return Origin(paths[file].name if file in paths else file, columns, repeats)

    return {
        "term": origin("courses", {"term_id": "code_presentation"}),
        "course": origin("courses", {"course_id": "code_module"}),
        "section": origin("courses", {**_SECTION, "ends_on": "module_presentation_length"}),
        "student": origin("studentInfo", {"student_id": "id_student"}, Repeats.FIRST),
        "enrollment": origin("studentInfo", _ENROLLMENT),
        "assignment": origin(
            "assessments",
            {**_SECTION, "assignment_id": "id_assessment", "category": "assessment_type"},
        ),
        "result": origin(
            "studentAssessment",
            {
                "assignment_id": "id_assessment",
                "student_id": "id_student",
                "carried_over": "is_banked",
            },
        ),
        "activity": origin(
            "studentVle", {**_ENROLLMENT, "day": "date", "count": "sum_click"}, Repeats.SUM
        ),
    }


@dataclass(frozen=True)
class _Calendar:
    """Start and end of each section, and the date after which nothing has happened yet."""

    starts: pd.Series
    ends: pd.Series
    today: pd.Timestamp | None

    def read(self, rows: CsvRows, name: str, sections: pd.Series) -> pd.Series:
        """Return the dates of a column of days from the section's start; reject wild days."""
        days = rows.integer(name)
        wild = days.abs() > FARTHEST_DAY
        rows.reject(wild, name, f"is more than {FARTHEST_DAY} days from the start; correct the day")
        return sections.map(self.starts) + pd.to_timedelta(days.mask(wild), unit="D")

    def future(self, dates: pd.Series) -> pd.Series:
        """Return which dates have not come yet."""
        never = pd.Series(False, index=dates.index)
        return never if self.today is None else dates > self.today


def _batches(paths: dict[str, Path], running_on: date | None) -> Iterator[Batch]:
    blocks = list(_read(paths, "courses"))
    sections = pd.concat([_presentations(rows) for rows in blocks], ignore_index=True)
    if running_on is not None:
        sections[["starts_on", "ends_on"]] += _shift(sections, running_on)
    yield from _section_batches(sections)
    for rows in blocks:
        yield Batch("section", sections[:0], rows.problems, notes=rows.notes)
    dates = sections.drop_duplicates("section_id").set_index("section_id")
    today = None if running_on is None else pd.Timestamp(running_on)
    calendar = _Calendar(dates["starts_on"], dates["ends_on"], today)
    section_of: dict[str, str] = {}
    for rows in _read(paths, "assessments"):
        batch = _assignments(rows, calendar)
        section_of |= zip(batch.rows["assignment_id"], batch.rows["section_id"], strict=True)
        yield batch
    yield from _enrollments(paths, calendar)
    assigned = pd.Series(section_of, dtype="string[pyarrow]")
    for rows in _read(paths, "studentAssessment"):
        yield _results(rows, calendar, assigned)
    if "studentVle" in paths:
        kinds = _activity_kinds(paths)
        for rows in _read(paths, "studentVle"):
            yield _activity(rows, calendar, kinds)


def _read(paths: dict[str, Path], name: str) -> Iterator[CsvRows]:
    path = paths[name]
    return csv_files.read(
        csv_files.opener(path), path.name, _FILES[name], missing="?", personal=("id_student",)
    )


def _section_ids(rows: CsvRows) -> pd.Series:
    return rows.required("code_module") + "_" + rows.required("code_presentation")


def _presentations(rows: CsvRows) -> pd.DataFrame:
    """Return section, course and term ids with the section's first and last day."""
    sections, terms = _section_ids(rows), rows.text("code_presentation")
    known = terms.str.fullmatch(r"(19|20)\d\d[BJ]").fillna(False)
    rows.reject(
        ~known & terms.notna(), "code_presentation", "is no presentation; write a year and B or J"
    )
    length = rows.integer("module_presentation_length")
    rows.reject(
        ~length.between(1, FARTHEST_DAY),
        "module_presentation_length",
        f"is not between 1 and {FARTHEST_DAY} days; correct the length",
    )
    months = terms.str[4:].map(START_MONTHS).astype("Float64").fillna(1).astype("int64")
    years = terms.str[:4].where(known, "2000").astype("int64")
    starts = pd.to_datetime(pd.DataFrame({"year": years, "month": months, "day": 1}))
    return rows.frame(
        {
            "section_id": sections,
            "course_id": rows.text("code_module"),
            "term_id": terms,
            "starts_on": starts,
            "ends_on": starts + pd.to_timedelta(length.fillna(0), unit="D"),
        }
    )


def _shift(sections: pd.DataFrame, running_on: date) -> pd.Timedelta:
    """Return how far to shift dates so that the newest presentations are half over."""
    newest = sections[sections["starts_on"] == sections["starts_on"].max()]
    if newest.empty:
        return pd.Timedelta(0)
    start, end = newest["starts_on"].max(), newest["ends_on"].max()
    return pd.Timedelta((pd.Timestamp(running_on) - start).days - (end - start).days // 2, unit="D")


def _section_batches(sections: pd.DataFrame) -> Iterator[Batch]:
    terms = sections.groupby("term_id", as_index=False).agg(
        {"starts_on": "min", "ends_on": "max", ROW: "min"}
    )
    courses = sections.drop_duplicates("course_id")[["course_id", ROW]]
    yield Batch("term", terms.assign(title=terms["term_id"]))
    yield Batch("course", courses.assign(title=courses["course_id"]))
    yield Batch("section", sections)


def _assignments(rows: CsvRows, calendar: _Calendar) -> Batch:
    sections = _section_ids(rows)
    weight, category = rows.number("weight"), rows.required("assessment_type")
    columns = {
        "assignment_id": rows.whole("id_assessment"),
        "section_id": sections,
        "category": category,
        "title": rows.text("assessment_type"),
        "due_on": calendar.read(rows, "date", sections),
        # The 100 of an exam is a scale of its own, beside the 100 of the coursework; its results
        # are published for two modules of seven.
        "weight": weight.mask(category.str.lower() == EXAM_CATEGORY, 0.0),
        "max_score": 100.0,
    }
    return Batch("assignment", rows.frame(columns), rows.problems, notes=rows.notes)


def _enrollments(paths: dict[str, Path], calendar: _Calendar) -> Iterator[Batch]:
    """Yield students and enrollments; registrations (one per enrollment) are held in memory."""
    registered, faults, notes = _registrations(paths, calendar)
    keys = pd.MultiIndex.from_frame(registered[["section_id", "student_id"]])
    unused = np.ones(len(registered), dtype=bool)
    for rows in _read(paths, "studentInfo"):
        sections, students = _section_ids(rows), rows.whole("id_student")
        place = keys.get_indexer(pd.MultiIndex.from_arrays([sections, students]))
        unused[place[place >= 0]] = False
        dates = registered[["enrolled_on", "withdrawn_on"]].reindex(place).reset_index(drop=True)
        withdrawn = dates["withdrawn_on"].mask(calendar.future(dates["withdrawn_on"]))
        outcome = rows.choice("final_result", _OUTCOMES)
        running = calendar.future(sections.map(calendar.ends) + pd.Timedelta(days=1))
        student = rows.attributes(OULAD_STUDENTS)
        enrollment = {
            "section_id": sections,
            "student_id": students,
            "enrolled_on": dates["enrolled_on"],
            "withdrawn_on": withdrawn,
            "outcome": outcome.mask(running & (withdrawn.isna() | (outcome != _WITHDRAWN)), None),
            "attributes": rows.attributes((), OULAD_ENROLLMENTS),
        }
        starts = sections.map(calendar.starts).astype("datetime64[s]")
        ranks = starts.fillna(pd.Timestamp.max.floor("s")).astype("int64")
        yield Batch(
            "student", rows.frame({"student_id": students, "attributes": student, RANK: ranks})
        )
        begun = ~calendar.future(dates["enrolled_on"])
        yield Batch("enrollment", rows.frame(enrollment, begun), rows.problems, notes=rows.notes)
    reason = "is registered but studentInfo has no such enrollment; add it there"
    faults.append(_about_students(paths["studentRegistration"].name, registered[unused], reason))
    yield Batch("enrollment", registered[:0], _concat(faults), notes=notes)


def _registrations(
    paths: dict[str, Path], calendar: _Calendar
) -> tuple[pd.DataFrame, list[pd.DataFrame | None], tuple[str, ...]]:
    """Return one row per enrollment with its dates, and the problems and notes of the file."""
    frames, faults = [], []
    notes: tuple[str, ...] = ()
    for rows in _read(paths, "studentRegistration"):
        sections = _section_ids(rows)
        columns = {
            "section_id": sections,
            "student_id": rows.whole("id_student"),
            "enrolled_on": calendar.read(rows, "date_registration", sections),
            "withdrawn_on": calendar.read(rows, "date_unregistration", sections),
        }
        frames.append(rows.frame(columns))
        faults.append(rows.problems)
        notes = rows.notes
    registered = pd.concat(frames, ignore_index=True).drop_duplicates(list(columns))
    again = registered.duplicated(["section_id", "student_id"])
    file = paths["studentRegistration"].name
    reason = "has an earlier row with other dates, which was kept; deliver one row per enrollment"
    faults.append(_about_students(file, registered[again], reason))
    return registered[~again].reset_index(drop=True), faults, notes


def _about_students(file: str, rows: pd.DataFrame, reason: str) -> pd.DataFrame:
    return problems(file, rows[ROW], "id_student", rows["student_id"], reason, personal=True)


def _results(rows: CsvRows, calendar: _Calendar, section_of: pd.Series) -> Batch:
    assignments = rows.whole("id_assessment")
    submitted = calendar.read(rows, "date_submitted", assignments.map(section_of))
    score = rows.number("score")
    columns = {
        "assignment_id": assignments,
        "student_id": rows.whole("id_student"),
        "score": score,
        "submitted_on": submitted,
        "graded_on": submitted.where(score.notna()),
        "carried_over": rows.boolean("is_banked"),
    }
    frame = rows.frame(
        columns,
        ~calendar.future(submitted),
        keys=("id_assessment", "id_student"),
        unknown=UNKNOWN_SCORE,
    )
    return Batch("result", frame, rows.problems, notes=rows.notes)


def _activity_kinds(paths: dict[str, Path]) -> pd.Series:
    """Return the kind of activity per site, empty if the folder does not state it."""
    if "vle" not in paths:
        return pd.Series(dtype="string[pyarrow]")
    frames = [
        rows.frame({"site": rows.whole("id_site"), "kind": rows.text("activity_type")})
        for rows in _read(paths, "vle")
    ]
    return pd.concat(frames).drop_duplicates("site").set_index("site")["kind"]


def _activity(rows: CsvRows, calendar: _Calendar, kinds: pd.Series) -> Batch:
    sections = _section_ids(rows)
    kind = rows.whole("id_site").map(kinds).fillna(CLICK) if len(kinds) else CLICK
    days = calendar.read(rows, "date", sections)
    rows.reject(rows.text("date").isna(), "date", "is empty; every row needs a day")
    clicks = rows.integer("sum_click")
    rows.reject(~(clicks >= 0), "sum_click", "is no count; write a number of 0 or more")
    columns = {
        "section_id": sections,
        "student_id": rows.whole("id_student"),
        "day": days,
        "kind": kind,
        "count": clicks,
    }
    frame = rows.frame(columns, ~calendar.future(days))
    keys = ["section_id", "student_id", "day", "kind"]
    # Rows of an unknown section have no day; the loader names them.
    daily = frame.groupby(keys, as_index=False, sort=False, dropna=False).agg(
        {"count": "sum", ROW: "min"}
    )
    return Batch("activity", daily.astype({"count": "int64"}), rows.problems, notes=rows.notes)


def _concat(parts: Iterable[pd.DataFrame | None]) -> pd.DataFrame | None:
    frames = [frame for frame in parts if frame is not None and len(frame)]
    return pd.concat(frames, ignore_index=True) if frames else None
