"""Courses with what their reports are computed from: champion, records, snapshots, scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from grade_ml.ensemble.course import name_of
from grade_ml.ensemble.rows import COLLECTED
from grade_ml.monitoring import concept
from grade_ml.monitoring.champion import Champion
from grade_ml.monitoring.records import Records
from grade_ml.serving.implied import events

#: The columns of snapshots from which `scores` reads.
COLUMNS = ("section_id", "student_id", "cut_on", COLLECTED, "weight_remaining")


@dataclass(frozen=True)
class Course:
    """One course with what its reports are computed from; `reason`: why nothing can be."""

    course_id: str
    champion: Champion
    records: Records
    snapshots: pd.DataFrame
    reason: str = ""

    @property
    def told_from(self) -> pd.Timestamp:
        """The first day of a champion that knows of a change; errors before are not its own."""
        days = self.records.predictions.loc[self._knows_change, "on"]
        return pd.Timestamp(days.min()) if len(days) else pd.Timestamp.min

    @property
    def predictions(self) -> pd.DataFrame:
        """The stored predictions, and by what share their model stretched points to come."""
        return self.records.predictions.assign(share=self.champion.share * self._knows_change)

    @cached_property
    def _knows_change(self) -> pd.Series:
        """Which predictions were made by a model of the course that knew of a change."""
        told, changed_on = self.records.predictions, self.champion.changed_on
        if changed_on is None:
            return pd.Series(False, told.index)
        own = told["model"].str.startswith(name_of(self.course_id) + " ")
        return own & (told["on"] >= pd.Timestamp(changed_on))


@dataclass(frozen=True)
class Scores:
    """Events of a course with their errors in training terms and since, and what was expected."""

    before: pd.DataFrame
    since: pd.DataFrame
    expectation: concept.Expectation


def scores(courses: Sequence[Course]) -> dict[str, Scores]:
    """Return the scores of those courses of which enough is known, by course."""
    known = [one for one in courses if len(one.champion.held_out) and not one.reason]
    if not known:
        return {}
    graded = pd.concat([one.records.scores for one in known])
    held_out = pd.concat([one.champion.held_out for one in known])
    before = _by_course(events(graded, held_out))
    since = _by_course(events(graded, _told(known)))
    found = {}
    for one in known:
        usual = before.get(one.course_id)
        expectation = None if usual is None else concept.learn(usual)
        if usual is not None and expectation is not None:
            fresh = since.get(one.course_id, usual.head(0))
            fresh = fresh[~fresh["section_id"].isin(one.champion.sections)]
            found[one.course_id] = Scores(
                usual.assign(error=expectation.errors(usual)),
                fresh.assign(error=expectation.errors(fresh)),
                expectation,
            )
    return found


def _by_course(found: pd.DataFrame) -> dict[str, pd.DataFrame]:
    return {str(name): rows for name, rows in found.groupby("course_id")}


def _told(courses: Sequence[Course]) -> pd.DataFrame:
    """Return the stored predictions beside what was collected and to come at that time."""
    rows = pd.concat([one.predictions for one in courses])
    some = pd.concat([one.snapshots[list(COLUMNS)] for one in courses])
    some = some.astype({"section_id": object})
    some = some[some["section_id"].isin(rows["section_id"].unique())]
    # Nothing scored yet means that no point is certain: a known 0.
    known = some.assign(collected=some[COLLECTED].fillna(0.0)).drop(columns=COLLECTED)
    rows = rows.astype({"student_id": known["student_id"].dtype})
    return pd.merge_asof(
        rows.sort_values("on", kind="stable"),
        known.sort_values("cut_on", kind="stable"),
        left_on="on",
        right_on="cut_on",
        by=["section_id", "student_id"],
        tolerance=pd.Timedelta(days=6),
    )
