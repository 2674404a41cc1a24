"""Reports of the error streams: of each course, and of all courses together.

`concept` computes the rows of a stream and the alarms.
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
class StreamAlarms:
    """The alarms of a stream, and a description of the first alarm of the last weeks, if any.

    Attributes
    ----------
    alarm_on, since, direction
        The day of that alarm, the day on which the change most likely began, and whether scores
        went up (1) or down (-1).
    """

    alarms: tuple[concept.Alarm, ...] = ()
    says: str = ""
    alarm_on: date | None = None
    since: date | None = None
    direction: int = 0
    status: str = "not tested"
    reason: str = ""

    def as_body(self) -> dict[str, Any]:
        """Return the alarms and the description of the first recent alarm by name of field."""
        names = ("alarms", "says", "alarm_on", "since", "direction")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, kw_only=True)
class OfCourse(StreamAlarms):
    """A course with too few rows; `changed_on` is the day of a change that its model knows."""

    model: str
    changed_on: date | None
    reference: pd.DataFrame


@dataclass(frozen=True, kw_only=True)
class Concept(OfCourse):
    """A course whose stream was read: rows of training terms and since, and the usual spreads."""

    spread: float
    between: float
    rows: pd.DataFrame


@dataclass(frozen=True, kw_only=True)
class OfAll(StreamAlarms):
    """All courses together, if they have too few rows."""

    courses: int


@dataclass(frozen=True, kw_only=True)
class ConceptOfAll(OfAll):
    """All courses together, whose streams were read as one."""

    rows: int


@dataclass(frozen=True)
class Streams:
    """Matured rows of a course, before those stored earlier are read.

    Rows of the sections `seen`, or up to `known_from`, are not errors of this champion.
    """

    model: str
    changed_on: date | None
    reason: str
    reference: pd.DataFrame
    fresh: pd.DataFrame
    spread: float = 0.0
    between: float = 0.0
    seen: frozenset[str] = frozenset()
    known_from: pd.Timestamp = pd.Timestamp.min

    def report(self, rows: pd.DataFrame, as_of: date) -> OfCourse:
        """Return the report of the course from its stored `rows`."""
        about: dict[str, Any] = {"model": self.model, "changed_on": self.changed_on}
        if self.reason:
            return OfCourse(**about, reason=self.reason, reference=_SHOWN)
        rows = rows[~rows["section_id"].isin(self.seen) & (rows["matured_on"] > self.known_from)]
        own = recent_alarm(concept.alarms(self.reference["z"], rows), as_of, "of its own")
        return Concept(
            **about,
            **own.as_body(),
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
        course.known_from,
    )


def recent_alarm(alarms: Iterable[concept.Alarm], as_of: date, place: str) -> StreamAlarms:
    """Return the alarms with a description of the first recent alarm; old alarms have none."""
    alarms, oldest = tuple(alarms), as_of - timedelta(days=concept.SETTINGS.news_days)
    first = next((alarm for alarm in alarms if alarm.on >= oldest), None)
    if first is None:
        return StreamAlarms(alarms=alarms)
    way = "higher" if first.direction > 0 else "lower"
    return StreamAlarms(
        alarms=alarms,
        says=f"scores are {way} than predictions imply ({first.detector}, {place})",
        alarm_on=first.on,
        since=first.since,
        direction=first.direction,
    )


def everywhere(bodies: Iterable[Mapping[str, Any]], as_of: date) -> OfAll:
    """Read the streams of all courses as one: a shared change shows in weeks, not in terms.

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
    alarm = recent_alarm(concept.alarms(reference["z"], rows), as_of, "in all courses")
    return ConceptOfAll(**alarm.as_body(), courses=len(stored), status="tested", rows=len(rows))


def _merged(parts: Iterable[list[Mapping[str, Any]]]) -> pd.DataFrame:
    rows = pd.DataFrame([row for part in parts for row in part], columns=["matured_on", "z"])
    rows["matured_on"] = pd.to_datetime(rows["matured_on"])
    return rows.sort_values(["matured_on", "z"], ignore_index=True).astype({"z": "float64"})


def together(course: OfCourse, all_courses: StreamAlarms) -> OfCourse:
    """Return the course with the alarm of all courses, if its own scores agree.

    A model that knows of a change already allows for it, so such a course stays as it is.
    """
    knows_change = course.changed_on is not None
    if (
        not isinstance(course, Concept)
        or course.says
        or knows_change
        or all_courses.alarm_on is None
    ):
        return course
    since = pd.Timestamp(str(all_courses.since))
    z = course.rows[course.rows["matured_on"] >= since]["z"].to_numpy(np.float64)
    clear = all_courses.direction * z.sum() / np.sqrt(max(z.size, 1))
    if clear < concept.SETTINGS.agreement:
        return course
    same = {name: getattr(all_courses, name) for name in ("says", "alarm_on", "since")}
    return replace(course, **same)
