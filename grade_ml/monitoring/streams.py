"""What the streams of errors say of a course and of all courses together, in words and figures.

How rows of a stream and alarms come about is in `concept`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Any

import numpy as np
import pandas as pd

from grade_ml.core.frames import empty
from grade_ml.monitoring import concept
from grade_ml.monitoring.courses import Course, Scores


@dataclass(frozen=True, kw_only=True)
class Heard:
    """The alarms of a stream, and what the first of the last weeks says; empty: nothing.

    Attributes
    ----------
    alarm_on, since, direction
        Its day, the day from which on the change is likeliest to have been there, and whether
        scores went up (1) or down (-1).
    """

    alarms: tuple[concept.Alarm, ...] = ()
    says: str = ""
    alarm_on: date | None = None
    since: date | None = None
    direction: int = 0
    status: str = "not tested"
    reason: str = ""

    @property
    def told(self) -> dict[str, Any]:
        """The alarms and what they say."""
        names = ("alarms", "says", "alarm_on", "since", "direction")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, kw_only=True)
class OfCourse(Heard):
    """A course of which too little is known; `changed_on`: since when its model knows a change."""

    model: str
    changed_on: date | None
    reference: pd.DataFrame


@dataclass(frozen=True, kw_only=True)
class Concept(OfCourse):
    """A course whose stream was read: rows of training terms and since, and what is usual."""

    spread: float
    between: float
    rows: pd.DataFrame


@dataclass(frozen=True, kw_only=True)
class OfAll(Heard):
    """All courses together, of which there are too few rows."""

    courses: int


@dataclass(frozen=True, kw_only=True)
class ConceptOfAll(OfAll):
    """All courses together, whose streams were read as one."""

    rows: int


@dataclass(frozen=True)
class Streams:
    """Matured rows of a course before those stored earlier are known.

    Rows of the sections `seen` or up to `told_from` are no errors of the champion's own.
    """

    model: str
    changed_on: date | None
    reason: str
    reference: pd.DataFrame
    fresh: pd.DataFrame
    spread: float = 0.0
    between: float = 0.0
    seen: frozenset[str] = frozenset()
    told_from: pd.Timestamp = pd.Timestamp.min

    def heard(self, rows: pd.DataFrame, as_of: date) -> OfCourse:
        """Return what is said of the course where `rows` of it are stored."""
        about: dict[str, Any] = {"model": self.model, "changed_on": self.changed_on}
        if self.reason:
            return OfCourse(**about, reason=self.reason, reference=_SHOWN)
        rows = rows[~rows["section_id"].isin(self.seen) & (rows["matured_on"] > self.told_from)]
        found = heard(concept.alarms(self.reference["z"], rows), as_of, "of its own")
        return Concept(
            **about,
            **found.told,
            status="tested",
            spread=self.spread,
            between=self.between,
            reference=self.reference[["matured_on", "z"]].round({"z": 3}),
            rows=rows[["matured_on", "scores", "error", "z"]].round(3),
        )


_NOTHING = empty(concept.STREAM_TYPES)
_SHOWN = _NOTHING[["matured_on", "z"]]


def streams(course: Course, scored: Scores | None, as_of: date) -> Streams:
    """Return the errors of scores of the course, in training terms and since."""
    champion = course.champion
    if scored is None:
        reason = course.reason or (
            "too few scores of training terms can be compared with what was predicted of them"
        )
        return Streams(champion.name, champion.changed_on, reason, _NOTHING, _NOTHING)
    expectation = scored.expectation
    return Streams(
        champion.name,
        champion.changed_on,
        "",
        concept.stream(scored.before, expectation, None),
        concept.stream(scored.since, expectation, as_of),
        expectation.spread,
        expectation.between,
        champion.sections,
        course.told_from,
    )


def heard(alarms: Iterable[concept.Alarm], as_of: date, where: str) -> Heard:
    """Return what alarms say on the day; one that is old is no news."""
    alarms, oldest = tuple(alarms), as_of - timedelta(days=concept.SETTINGS.news_days)
    first = next((one for one in alarms if one.on >= oldest), None)
    if first is None:
        return Heard(alarms=alarms)
    way = "higher" if first.direction > 0 else "lower"
    return Heard(
        alarms=alarms,
        says=f"scores are {way} than predictions imply ({first.detector}, {where})",
        alarm_on=first.on,
        since=first.since,
        direction=first.direction,
    )


def everywhere(bodies: Iterable[Mapping[str, Any]], as_of: date) -> OfAll:
    """Read the streams of all courses as one: what all share shows in weeks, not in terms.

    Parameters
    ----------
    bodies
        The newest stored report of each course.
    """
    stored = list(bodies)
    reference, rows = (
        _merged(body.get(part) or [] for body in stored) for part in ("reference", "rows")
    )
    if len(reference) < concept.SETTINGS.least_rows:
        return OfAll(courses=len(stored), reason="too few scores of training terms")
    found = heard(concept.alarms(reference["z"], rows), as_of, "in all courses")
    return ConceptOfAll(**found.told, courses=len(stored), status="tested", rows=len(rows))


def _merged(parts: Iterable[list[Mapping[str, Any]]]) -> pd.DataFrame:
    rows = pd.DataFrame([row for part in parts for row in part], columns=["matured_on", "z"])
    rows["matured_on"] = pd.to_datetime(rows["matured_on"])
    return rows.sort_values(["matured_on", "z"], ignore_index=True).astype({"z": "float64"})


def together(one: OfCourse, all_courses: Heard) -> OfCourse:
    """Return the course with the alarm of all courses where it agrees with it.

    An alarm that a training knows of has been answered: each training looks at what is left of it.
    """
    is_told = one.changed_on is not None
    if not isinstance(one, Concept) or one.says or is_told or all_courses.alarm_on is None:
        return one
    since = pd.Timestamp(str(all_courses.since))
    z = one.rows[one.rows["matured_on"] >= since]["z"].to_numpy(np.float64)
    clear = all_courses.direction * z.sum() / np.sqrt(max(z.size, 1))
    if clear < concept.SETTINGS.agreement:
        return one
    same = {name: getattr(all_courses, name) for name in ("says", "alarm_on", "since")}
    return replace(one, **same)
