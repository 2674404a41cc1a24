"""Courses with the inputs of their reports: champion, records, snapshots and scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from grade_ml.ensemble.names import name_of
from grade_ml.ensemble.rows import COLLECTED
from grade_ml.monitoring import concept
from grade_ml.monitoring.champion import Champion
from grade_ml.monitoring.records import Records
from grade_ml.serving.implied import events

#: The columns of snapshots from which `scores` reads.
COLUMNS = ("section_id", "student_id", "cut_on", COLLECTED, "weight_remaining")


@dataclass(frozen=True)
class Course:
    """One course with the inputs of its reports; `reason` is why no report can be computed.

    `redesigned` states what its redesigned sections have other than before.
    """

    course_id: str
    champion: Champion
    records: Records
    snapshots: pd.DataFrame
    reason: str = ""
    redesigned: tuple[str, ...] = ()

    @property
    def known_from(self) -> pd.Timestamp:
        """The first day of a champion that knows of a change; earlier errors are not its own."""
        days = self.records.predictions.loc[self._knows_change, "on"]
        return pd.Timestamp(days.min()) if len(days) else pd.Timestamp.min

    @property
    def predictions(self) -> pd.DataFrame:
        """The stored predictions, with the share by which their model stretched points to come."""
        return self.records.predictions.assign(share=self.champion.share * self._knows_change)

    @cached_property
    def _knows_change(self) -> pd.Series:
        """Which predictions were made by a model of the course that knew of a change."""
        predictions, changed_on = self.records.predictions, self.champion.changed_on
        if changed_on is None:
            return pd.Series(False, predictions.index)
        own = predictions["model"].str.startswith(name_of(self.course_id) + " ")
        return own & (predictions["on"] >= pd.Timestamp(changed_on))


@dataclass(frozen=True)
class Scores:
    """Events of a course with their errors, in training terms and since, and the expectation."""

    before: pd.DataFrame
    since: pd.DataFrame
    expectation: concept.Expectation


def scores(courses: Sequence[Course]) -> dict[str, Scores]:
    """Return the scores by course, without courses that have too few."""
    known = [course for course in courses if len(course.champion.held_out) and not course.reason]
    if not known:
        return {}
    graded = pd.concat([course.records.scores for course in known])
    held_out = pd.concat([course.champion.held_out for course in known])
    before = _by_course(events(graded, held_out))
    since = _by_course(events(graded, _stored_predictions(known)))
    by_course = {}
    for course in known:
        usual = before.get(course.course_id)
        expectation = None if usual is None else concept.learn(usual)
        if usual is not None and expectation is not None:
            fresh = since.get(course.course_id, usual.head(0))
            fresh = fresh[~fresh["section_id"].isin(course.champion.sections)]
            by_course[course.course_id] = Scores(
                usual.assign(error=expectation.errors(usual)),
                fresh.assign(error=expectation.errors(fresh)),
                expectation,
            )
    return by_course


def _by_course(rows_of_all: pd.DataFrame) -> dict[str, pd.DataFrame]:
    return {str(name): rows for name, rows in rows_of_all.groupby("course_id")}


def _stored_predictions(courses: Sequence[Course]) -> pd.DataFrame:
    """Return the stored predictions with the points collected and still to come at that time."""
    rows = pd.concat([course.predictions for course in courses])
    snapshots = pd.concat([course.snapshots[list(COLUMNS)] for course in courses])
    snapshots = snapshots.astype({"section_id": object})
    snapshots = snapshots[snapshots["section_id"].isin(rows["section_id"].unique())]
    # Nothing scored yet means that no point is certain: a known 0.
    known = snapshots.assign(collected=snapshots[COLLECTED].fillna(0.0)).drop(columns=COLLECTED)
    rows = rows.astype({"student_id": known["student_id"].dtype})
    return pd.merge_asof(
        rows.sort_values("on", kind="stable"),
        known.sort_values("cut_on", kind="stable"),
        left_on="on",
        right_on="cut_on",
        by=["section_id", "student_id"],
        tolerance=pd.Timedelta(days=6),
    )
