"""One section's students computed anew: their rows, from their own records and those of the class.

What is read is the section with its activity, the course's other sections without theirs (its past
makes features of every student), and the students' own records elsewhere. The class of a section
stays in memory until a load changes the course, so that the next student costs only his or her own
rows. Nothing here holds a connection while it computes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pandas as pd
import sqlalchemy as sa

from grade_ml.engine.answers import GradePrediction, Level
from grade_ml.engine.bounds import Once
from grade_ml.engine.errors import NoModel
from grade_ml.engine.standing import courses_of
from grade_ml.engine.stored import level_of
from grade_ml.ensemble.rows import NAIVE, PREDICTED
from grade_ml.external.protocol import Window
from grade_ml.features.snapshots import grade_snapshots, with_histories
from grade_ml.features.surroundings import surroundings, with_surroundings
from grade_ml.gradebook import frames
from grade_ml.gradebook.frames import Gradebook
from grade_ml.gradebook.outcomes import outcomes
from grade_ml.registry.registry import Alias
from grade_ml.serving.scoring import reservations

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from grade_ml.engine.loads import Loads
    from grade_ml.gradebook.attributes import Declarations
    from grade_ml.gradebook.institution import Institution
    from grade_ml.serving.models import Served

_NOT_ALLOWED = "the records do not allow a prediction on this day"


#: Opens one transaction for reading, and tells the loads up to it.
Reading = Callable[[], AbstractContextManager[tuple["Connection", "Loads"]]]


class Classes:
    """Computes rows of students; safe to share between threads."""

    def __init__(self, declared: Declarations, most: int) -> None:
        self._declared = declared
        self._classes: Once[pd.DataFrame] = Once(most)

    def rows(
        self, reading: Reading, asked: Sequence[GradePrediction], served: Served
    ) -> tuple[pd.DataFrame, Loads]:
        """Return the snapshots of students of one section, with all columns that a model reads.

        Beside them the loads that they know.
        """
        one = asked[0]
        students = sorted({other.student_id for other in asked})
        with reading() as (connection, loads):
            version = loads.version(one.course_id)
            key = (one.section_id, one.as_of, version)
            known = self._classes.known(key) if version else None
            book = None if known is not None else frames.read_class(connection, one.section_id)
            courses = courses_of(connection, students)
            # Of others the class tells everything; half of an answer's time goes into histories.
            elsewhere = [name for name in students if courses[name] - {one.course_id}]
            own = frames.read_histories(connection, elsewhere) if elsewhere else None
            wide = surroundings(connection, Window(one.as_of, one.as_of), served.model.features)
        if known is None:
            assert book is not None
            make = _Making(book, one, self._declared)
            known = self._classes.of(key, make) if version else make()
        mine = known[known["student_id"].astype(object).isin(students)].reset_index(drop=True)
        if mine.empty:
            return mine, loads
        rows = mine if own is None else with_histories(mine, own)
        return (rows if wide is None else with_surroundings(rows, wide)), loads


@dataclass(frozen=True)
class _Making:
    book: Gradebook
    one: GradePrediction
    declared: Declarations

    def __call__(self) -> pd.DataFrame:
        """Return the snapshots of the section's class, without what other courses tell."""
        day = float((self.one.as_of - self.one.starts_on).days)
        cuts = pd.DataFrame({"section_id": [self.one.section_id], "cut_day": [day]})
        return grade_snapshots(self.book, cuts, self.one.as_of, self.declared)


def predicted(
    asked: Sequence[GradePrediction], served: Served, rows: pd.DataFrame, figures: pd.DataFrame
) -> list[GradePrediction]:
    """Return the enrollments, in order, with what the model says of those that have a row."""
    place = {str(name): number for number, name in enumerate(rows["student_id"])}
    return [
        _with(one, served, rows.iloc[place[one.student_id]], figures.iloc[place[one.student_id]])
        if one.student_id in place
        else replace(one, degraded=(_NOT_ALLOWED,))
        for one in asked
    ]


def _with(
    one: GradePrediction, served: Served, row: pd.Series[Any], figures: pd.Series[Any]
) -> GradePrediction:
    numbers: dict[str, Any] = {name: number(figures[name]) for name in PREDICTED}
    told = reservations(served.model, one.section_id, figures["grade"])
    return replace(
        one,
        **numbers,
        naive=number(row[NAIVE]),
        level=level_of(served.version.name),
        model_name=served.version.name,
        model_version=served.version.version,
        model_stage=str(Alias.CHAMPION),
        degraded=(*served.degraded, *told),
    )


def by_mean(
    connection: Connection,
    asked: Sequence[GradePrediction],
    institution: Institution,
    why: str,
) -> list[GradePrediction]:
    """Return the enrollments with what became of the course's earlier students, on average.

    The bounds hold 80% and 95% of their final grades.

    Raises
    ------
    NoModel
        No section of the course has ended.
    """
    one = asked[0]
    book = frames.read_class(connection, one.section_id)
    known = outcomes(book, one.as_of, institution)
    # Of a section that still runs, those who left early would be all that is known.
    over = book.sections["section_id"][book.sections["ends_on"] < pd.Timestamp(one.as_of)]
    ended = known[known["section_id"].isin(over)]
    grades, risks = ended["final_grade"].dropna(), ended["at_risk"].dropna()
    if ended.empty or (grades.empty and risks.empty):
        raise NoModel(
            f"{why} No section of the course {one.course_id} has ended either, so there is no mean "
            "to answer with.",
            "Run grade-ml run train_traditional_models once a term has ended.",
        )
    bounds = {"lower80": 0.1, "upper80": 0.9, "lower95": 0.025, "upper95": 0.975}
    figures: dict[str, Any] = {name: number(grades.quantile(q)) for name, q in bounds.items()}
    figures |= {"grade": number(grades.mean()), "risk": number(risks.astype(float).mean())}
    reason = f"the mean of the course's ended sections answers: {why}"
    return [
        replace(other, **figures, level=Level.COURSE_MEAN, degraded=(reason,)) for other in asked
    ]


def recorded(
    connection: Connection, one: GradePrediction, institution: Institution
) -> GradePrediction:
    """Add the final grade and the outcome, where they are visible on the day of the question."""
    from grade_ml.gradebook.schema import enrollment

    outcome = connection.execute(
        sa.select(enrollment.c.outcome).where(
            enrollment.c.section_id == one.section_id, enrollment.c.student_id == one.student_id
        )
    ).scalar()
    book = frames.read_histories(connection, [one.student_id], exams=True)
    known = outcomes(book, one.as_of, institution)
    mine = known[
        (known["section_id"].astype(str) == one.section_id)
        & (known["student_id"].astype(str) == one.student_id)
    ]
    grade = number(mine["final_grade"].iloc[0]) if len(mine) else None
    return replace(one, recorded_grade=grade, recorded_outcome=outcome)


def number(value: float) -> float | None:
    """Return a plain number; not-a-number becomes None."""
    return None if pd.isna(value) else float(value)
