"""Computes the rows of one section's students, from their own records and those of the class.

It reads the section with its activity, the course's other sections without theirs (the course's
past is in the features of every student), and the students' own records elsewhere. The class of a
section stays in memory until a load changes the course, so that the next student costs only his or
her own rows. Nothing here holds a connection while it computes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pandas as pd
import sqlalchemy as sa

from grade_ml.engine.answers import GradePrediction, Level
from grade_ml.engine.bounds import Once
from grade_ml.engine.enrollments import courses_of
from grade_ml.engine.errors import NoModel
from grade_ml.engine.stored import level_of
from grade_ml.ensemble.rows import NAIVE, PREDICTED
from grade_ml.external.protocol import Window
from grade_ml.features.sequences import score_sequences
from grade_ml.features.snapshots import grade_snapshots, with_histories
from grade_ml.features.surroundings import surroundings, with_surroundings
from grade_ml.forecasting.contract import Panel
from grade_ml.forecasting.panels import panels
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

Made = TypeVar("Made")
_NOT_ALLOWED = "the records do not allow a prediction on this day"


#: Opens one transaction for reading, and returns the loads up to it.
Reading = Callable[[], AbstractContextManager[tuple["Connection", "Loads"]]]


@dataclass(frozen=True)
class Known:
    """What was computed of some students of one section, and the loads that it knows.

    Attributes
    ----------
    rows
        Their snapshots, with all columns that a model reads.
    records
        The class's and their own, from which days to come are made; None if not requested.
    """

    rows: pd.DataFrame
    loads: Loads
    records: Gradebook | None


@dataclass(frozen=True)
class _Read:
    """What one transaction read; `key` identifies the class (None if its version is unknown)."""

    key: Hashable | None
    snapshots: pd.DataFrame | None
    panels: Sequence[Panel] | None
    of_class: Gradebook | None
    own: Gradebook | None
    loads: Loads


class Classes:
    """Computes rows and panels of students; safe to share between threads."""

    def __init__(self, declared: Declarations, institution: Institution, most: int) -> None:
        self._declared, self._institution = declared, institution
        self._snapshots: Once[pd.DataFrame] = Once(most)
        self._panels: Once[Sequence[Panel]] = Once(most)

    def rows(
        self,
        reading: Reading,
        enrollments: Sequence[GradePrediction],
        features: Collection[str],
        *,
        records: bool = False,
    ) -> Known:
        """Return the snapshots of students of one section, for a model that reads `features`.

        Parameters
        ----------
        records
            Whether the records are returned, too.
        """
        day = enrollments[0].as_of
        with reading() as (connection, loads):
            read = self._read(connection, loads, enrollments, records)
            wide = surroundings(connection, Window(day, day), features)
        rows = self._rows(read, enrollments)
        if wide is not None and len(rows):
            rows = with_surroundings(rows, wide)
        if not records:
            return Known(rows, loads, None)
        parts = [book for book in (read.of_class, read.own) if book is not None]
        return Known(rows, loads, frames.together(parts))

    def panel(
        self, reading: Reading, enrollments: Sequence[GradePrediction]
    ) -> tuple[Panel | None, Loads]:
        """Return the panel of students of one section, and the loads that it knows.

        The panel is None if nothing is due any more. Its figures of the class cover the whole
        class.
        """
        with reading() as (connection, loads):
            read = self._read(connection, loads, enrollments, records=False, panels=True)
        rows = self._rows(read, enrollments)
        of_class = read.panels
        if of_class is None:
            assert read.of_class is not None
            of_class = _once(
                self._panels, read.key, partial(self._panel, read.of_class, read, enrollments[0])
            )
        if rows.empty or not of_class:
            return None, loads
        (whole,) = of_class
        rows = rows.set_index(rows["student_id"].astype(object))
        places = np.flatnonzero(np.isin(whole.students, rows.index.to_numpy(object)))
        present = whole.of(places)
        own = rows.reindex(index=present.students, columns=list(whole.feature_names))
        features = own.to_numpy(np.float32)
        return (replace(present, features=features) if len(places) else None), loads

    def _read(
        self,
        connection: Connection,
        loads: Loads,
        enrollments: Sequence[GradePrediction],
        records: bool,
        panels: bool = False,
    ) -> _Read:
        first = enrollments[0]
        students = sorted({enrollment.student_id for enrollment in enrollments})
        version = loads.version(first.course_id)
        key = (first.section_id, first.as_of, version) if version else None
        snapshots, kept = self._snapshots.known(key), self._panels.known(key)
        missing = snapshots is None or (panels and kept is None)
        book = frames.read_class(connection, first.section_id) if missing or records else None
        courses = courses_of(connection, students)
        # The class holds all records of the others; histories take half of an answer's time.
        elsewhere = [name for name in students if courses[name] - {first.course_id}]
        own = frames.read_histories(connection, elsewhere) if elsewhere else None
        return _Read(key, snapshots, kept, book, own, loads)

    def _rows(self, read: _Read, enrollments: Sequence[GradePrediction]) -> pd.DataFrame:
        of_class = self._of_class(read, enrollments[0])
        students = {enrollment.student_id for enrollment in enrollments}
        of_students = of_class[of_class["student_id"].astype(object).isin(students)]
        of_students = of_students.reset_index(drop=True)
        return (
            of_students
            if of_students.empty or read.own is None
            else with_histories(of_students, read.own)
        )

    def _of_class(self, read: _Read, enrollment: GradePrediction) -> pd.DataFrame:
        if read.snapshots is not None:
            return read.snapshots
        assert read.of_class is not None
        return _once(self._snapshots, read.key, partial(self._snapshot, read.of_class, enrollment))

    def _snapshot(self, book: Gradebook, enrollment: GradePrediction) -> pd.DataFrame:
        """Return the snapshots of the section's class, without features from other courses."""
        day = float((enrollment.as_of - enrollment.starts_on).days)
        cuts = pd.DataFrame({"section_id": [enrollment.section_id], "cut_day": [day]})
        return grade_snapshots(book, cuts, enrollment.as_of, self._declared)

    def _panel(self, book: Gradebook, read: _Read, enrollment: GradePrediction) -> Sequence[Panel]:
        """Return the panel of the section's class; no panel if nothing is due any more."""
        own = book.sections[book.sections["section_id"] == enrollment.section_id]
        sequences = score_sequences(
            replace(book, sections=own), [enrollment.course_id], self._institution
        )
        return list(panels(sequences, self._of_class(read, enrollment), on=enrollment.as_of))


def _once(kept: Once[Made], key: Hashable | None, make: Callable[[], Made]) -> Made:
    return make() if key is None else kept.of(key, make)


def predicted(
    enrollments: Sequence[GradePrediction],
    served: Served,
    rows: pd.DataFrame,
    figures: pd.DataFrame,
    redesigned: Mapping[str, str],
) -> list[GradePrediction]:
    """Return the enrollments, in order, with the model's predictions for those that have a row.

    Parameters
    ----------
    redesigned
        As `Frames.redesigned` returns it.
    """
    place = {str(name): number for number, name in enumerate(rows["student_id"])}
    return [
        _with(
            enrollment,
            served,
            rows.iloc[place[enrollment.student_id]],
            figures.iloc[place[enrollment.student_id]],
            redesigned,
        )
        if enrollment.student_id in place
        else replace(enrollment, degraded=(_NOT_ALLOWED,))
        for enrollment in enrollments
    ]


def _with(
    enrollment: GradePrediction,
    served: Served,
    row: pd.Series[Any],
    figures: pd.Series[Any],
    redesigned: Mapping[str, str],
) -> GradePrediction:
    numbers: dict[str, Any] = {name: number(figures[name]) for name in PREDICTED}
    reasons = reservations(served.model, enrollment.section_id, figures["grade"], redesigned)
    return replace(
        enrollment,
        **numbers,
        naive=number(row[NAIVE]),
        level=level_of(served.version.name),
        model_name=served.version.name,
        model_version=served.version.version,
        model_stage=str(Alias.CHAMPION),
        degraded=(*served.degraded, *reasons),
    )


def by_mean(
    connection: Connection,
    enrollments: Sequence[GradePrediction],
    institution: Institution,
    why: str,
) -> list[GradePrediction]:
    """Return the enrollments with the mean outcome of the course's earlier students.

    The bounds hold 80% and 95% of their final grades.

    Raises
    ------
    NoModel
        No section of the course has ended.
    """
    first = enrollments[0]
    book = frames.read_class(connection, first.section_id)
    known = outcomes(book, first.as_of, institution)
    # In a section that still runs, only the outcomes of students who left early are known.
    over = book.sections["section_id"][book.sections["ends_on"] < pd.Timestamp(first.as_of)]
    ended = known[known["section_id"].isin(over)]
    grades, risks = ended["final_grade"].dropna(), ended["at_risk"].dropna()
    if ended.empty or (grades.empty and risks.empty):
        raise NoModel(
            f"{why} No section of the course {first.course_id} has ended either, so there is no "
            "mean to answer with.",
            "Run grade-ml run train_traditional_models once a term has ended.",
        )
    bounds = {"lower80": 0.1, "upper80": 0.9, "lower95": 0.025, "upper95": 0.975}
    figures: dict[str, Any] = {name: number(grades.quantile(q)) for name, q in bounds.items()}
    figures |= {"grade": number(grades.mean()), "risk": number(risks.astype(float).mean())}
    reason = f"the mean of the course's ended sections answers: {why}"
    return [
        replace(enrollment, **figures, level=Level.COURSE_MEAN, degraded=(reason,))
        for enrollment in enrollments
    ]


def recorded(
    connection: Connection, prediction: GradePrediction, institution: Institution
) -> GradePrediction:
    """Add the final grade and the outcome if they are visible on the as-of day."""
    from grade_ml.gradebook.schema import enrollment

    outcome = connection.execute(
        sa.select(enrollment.c.outcome).where(
            enrollment.c.section_id == prediction.section_id,
            enrollment.c.student_id == prediction.student_id,
        )
    ).scalar()
    book = frames.read_histories(connection, [prediction.student_id], exams=True)
    known = outcomes(book, prediction.as_of, institution)
    recorded_rows = known[
        (known["section_id"].astype(str) == prediction.section_id)
        & (known["student_id"].astype(str) == prediction.student_id)
    ]
    grade = number(recorded_rows["final_grade"].iloc[0]) if len(recorded_rows) else None
    return replace(prediction, recorded_grade=grade, recorded_outcome=outcome)


def number(value: float) -> float | None:
    """Return a plain number; not-a-number becomes None."""
    return None if pd.isna(value) else float(value)
