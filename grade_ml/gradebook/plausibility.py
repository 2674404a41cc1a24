"""Whether grades look as grades usually do: what a load may have got wrong without any bad row.

Each finding names a section and its likely causes, so that a user checks it before models learn
from it. Nothing is changed here, and no student is named.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from datetime import date

import numpy as np
import pandas as pd
from sqlalchemy import Connection, Engine

from grade_ml.core import database
from grade_ml.gradebook import frames
from grade_ml.gradebook.frames import Gradebook
from grade_ml.gradebook.grading import counting_weights, is_exam
from grade_ml.gradebook.institution import Institution
from grade_ml.gradebook.loading import LoadReport
from grade_ml.gradebook.outcomes import exempt_on, outcomes, scored_on, submission_seen_on

_ENROLLMENT = ["section_id", "student_id"]


@dataclass(frozen=True)
class PlausibilitySettings:
    """From where on something is odd, each with its reason."""

    #: Below this many students two equal grades are chance.
    least_students: int = 2
    #: A single assignment that everyone passes is ordinary.
    least_due: int = 2
    #: Sections of fewer students than this vary too much to be compared.
    compared_students: int = 10
    #: Shares differ by less than this between ordinary terms: in OULAD (15 sections) shares at risk
    #: lie within .07 of the course's earlier ones, shares missing within .18 of the earlier ones.
    far_share: float = 0.35
    #: Teachers grade within three weeks.
    late_days: int = 21
    #: Sections that ended longer ago were checked before.
    recent_days: int = 366


SETTINGS = PlausibilitySettings()


@dataclass(frozen=True)
class Finding:
    """What is odd about one section, with likely causes, in one sentence."""

    section_id: str
    says: str

    def __str__(self) -> str:
        return f"{self.section_id}: {self.says}"


def with_findings(
    engine: Engine, report: LoadReport, as_of: date, institution: Institution
) -> LoadReport:
    """Return the report of a load with a note for each finding of the courses that it changed."""
    if not report.courses:
        return report
    with database.reachable(engine) as connection:
        noted = look(connection, as_of, institution, report.courses)
    return replace(
        report, notes=(*report.notes, *(f"Please look at {finding}." for finding in noted))
    )


def look(
    connection: Connection,
    as_of: date,
    institution: Institution,
    courses: Collection[str] | None = None,
) -> list[Finding]:
    """Return the `findings` of the stored sections of `courses`, or of all."""
    known = frames.read(connection, courses, without=["student", "activity"])
    chosen = known.sections
    if courses is not None:
        chosen = chosen[chosen["course_id"].isin(courses)]
    of_courses = set(chosen["section_id"])
    return [
        finding
        for finding in findings(known, as_of, institution)
        if finding.section_id in of_courses
    ]


def findings(gradebook: Gradebook, as_of: date, institution: Institution) -> list[Finding]:
    """Return what is odd about the sections that had begun by `as_of`, in order of section.

    The checks are whether all students of a section have the same grade, whether grades are
    unknown, whether the shares at risk or missing are far from those of earlier sections of the
    course (of all courses if it has none), and whether assignments have no results long after
    they were due.
    """
    today = pd.Timestamp(as_of)
    sections = gradebook.sections[gradebook.sections["starts_on"] <= today]
    ended = sections["ends_on"] < today
    due = _due(gradebook, sections, today)
    standing = _standing(gradebook, due, today)
    known = outcomes(gradebook, as_of, institution)
    of_ended = known[known["section_id"].isin(sections.loc[ended, "section_id"])]
    labels = of_ended.assign(at_risk=of_ended["at_risk"].astype("Float64").astype("float64"))
    recent = sections["ends_on"] >= today - pd.Timedelta(days=SETTINGS.recent_days)
    looked_at = set(sections.loc[recent, "section_id"])
    all_findings = [
        *_same_grades(standing),
        *_unknown_grades(of_ended),
        *_far(labels, "at_risk", sections, "failed or withdrew"),
        *_far(standing, "missing_share", sections, "of what was due is missing"),
        *_without_results(due, today),
    ]
    chosen = [finding for finding in all_findings if finding.section_id in looked_at]
    return sorted(chosen, key=lambda finding: (finding.section_id, finding.says))


def _due(gradebook: Gradebook, sections: pd.DataFrame, today: pd.Timestamp) -> pd.DataFrame:
    """Return the coursework that counts and was due, with its share, dates and results."""
    work = gradebook.assignments[gradebook.assignments["section_id"].isin(sections["section_id"])]
    work = work.assign(personal=False)
    share = counting_weights(work, sections, graded_exams=[])
    work = work.assign(share=work["assignment_id"].map(share).fillna(0.0)).merge(
        sections[["section_id", "ends_on"]], on="section_id"
    )
    counts = (work["share"] > 0) & ~work["extra_credit"] & ~is_exam(work["category"])
    work = work[counts & (work["due_on"].fillna(work["ends_on"]) <= today)]
    results = gradebook.results[gradebook.results["assignment_id"].isin(work["assignment_id"])]
    seen = results["assignment_id"].value_counts()
    return work.assign(results=work["assignment_id"].map(seen).fillna(0).astype("int64"))


def _standing(gradebook: Gradebook, due: pd.DataFrame, today: pd.Timestamp) -> pd.DataFrame:
    """Return each enrollment's grade so far (NaN: unknown) and its share missing of what was due.

    Who withdrew is left out.
    """
    people = gradebook.enrollments[~(gradebook.enrollments["withdrawn_on"] <= today)]
    totals = due.groupby("section_id").agg(share=("share", "sum"), due=("share", "size"))
    rows = people[_ENROLLMENT].merge(totals.reset_index(), on="section_id")
    results = gradebook.results.merge(
        due[["assignment_id", "section_id", "share", "due_on", "ends_on"]], on="assignment_id"
    )
    scored, exempt = (day <= today for day in (scored_on(results), exempt_on(results)))
    came = submission_seen_on(results) <= today
    sums = (
        results.assign(
            points=(results["score"] * results["share"]).where(scored, 0.0),
            waiting=came & ~scored,
            came=came,
            left_out=results["share"].where(exempt, 0.0),
            exempt=exempt,
        )
        .groupby(_ENROLLMENT)[["points", "waiting", "came", "left_out", "exempt"]]
        .sum()
    )
    rows = rows.merge(sums, on=_ENROLLMENT, how="left")
    # A student without any result has handed nothing in.
    rows = rows.fillna(dict.fromkeys(sums.columns, 0.0))
    weight, number = rows["share"] - rows["left_out"], rows["due"] - rows["exempt"]
    grade = (rows["points"] / weight.where(weight > 0)).where(rows["waiting"] == 0)
    missing = 1 - rows["came"] / number.where(number > 0)
    return rows[[*_ENROLLMENT, "due"]].assign(grade=grade, missing_share=missing)


def _same_grades(standing: pd.DataFrame) -> Iterator[Finding]:
    for section, rows in standing.groupby("section_id"):
        grades = rows["grade"].dropna()
        enough = len(grades) >= SETTINGS.least_students and len(grades) == len(rows)
        if not enough or np.ptp(grades) > 1e-6:
            continue
        if grades.iloc[0] == 0 or rows["due"].iloc[0] >= SETTINGS.least_due:
            yield Finding(
                str(section),
                f"every student ({len(grades)}) has {grades.iloc[0]:.0f} of 100 so far; likely "
                "causes: the results were not delivered, the scores or their maximum are wrong",
            )


def _unknown_grades(known: pd.DataFrame) -> Iterator[Finding]:
    for section, rows in known.groupby("section_id"):
        unknown = int(rows["at_risk"].isna().sum())
        if 2 * unknown > len(rows):
            yield Finding(
                str(section),
                f"it is over, and {unknown} of {len(rows)} students have no known outcome; likely "
                "causes: scores that could not be read (see the quarantine) or are not published",
            )


def _far(rows: pd.DataFrame, column: str, sections: pd.DataFrame, words: str) -> Iterator[Finding]:
    """Yield the sections whose mean is far from that of the sections before them."""
    figures = rows.groupby("section_id")[column].agg(["mean", "count"]).reset_index()
    figures = figures[figures["count"] >= SETTINGS.compared_students].merge(
        sections[["section_id", "course_id", "starts_on"]], on="section_id"
    )
    for section in figures.to_dict("records"):
        before = figures[figures["starts_on"] < section["starts_on"]]
        own = before[before["course_id"] == section["course_id"]]
        usual = (own if len(own) else before)["mean"]
        if len(usual) and abs(section["mean"] - usual.mean()) > SETTINGS.far_share:
            yield Finding(
                str(section["section_id"]),
                f"{section['mean']:.0%} {words}, in earlier sections {usual.mean():.0%}; likely "
                "causes: results or enrollments that were not delivered, or another pass mark",
            )


def _without_results(due: pd.DataFrame, today: pd.Timestamp) -> Iterator[Finding]:
    late = due["due_on"].fillna(due["ends_on"]) < today - pd.Timedelta(days=SETTINGS.late_days)
    for section, rows in due[late & (due["results"] == 0)].groupby("section_id"):
        yield Finding(
            str(section),
            f"{len(rows)} assignments have no result more than {SETTINGS.late_days} days after "
            "they were due and count 0 for everyone; likely causes: they were never set, or their "
            "results were not delivered",
        )
