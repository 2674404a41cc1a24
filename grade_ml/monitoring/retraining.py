"""Decides when a course is trained again: from reports to evidence, to a decision, to permission.

The orchestration requests the run.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from sqlalchemy import Connection

from grade_ml.monitoring import store
from grade_ml.monitoring.store import Kind, Signal
from grade_ml.training.requests import Request


@dataclass(frozen=True)
class DecisionSettings:
    """The settings of training again, each with its reason."""

    #: Two windows are as far apart as the scores of a window reach back (`performance`), so that
    #: one hard assignment does not count in both. Windows that are further apart than
    #: `longest_gap_days` are not consecutive.
    window_days: int = 14
    longest_gap_days: int = 28
    #: The effect of a training shows after some weeks of new scores; before, the same evidence
    #: would request another training.
    cooldown_days: int = 28
    #: More courses than this at once point to a fault of the data rather than of the courses.
    daily_cap: int = 20
    #: Older evidence is ignored.
    stale_days: int = 14


SETTINGS = DecisionSettings()


@dataclass(frozen=True)
class Evidence:
    """The evidence in the reports of one course and day.

    Attributes
    ----------
    drift
        Description of the drift; empty if there is none.
    loss
        Description of the rise of the loss, realised or estimated; empty if it has not risen.
    concept
        Description of the newest alarm on matured labels; empty if there is none.
    concept_on
        The day of that alarm.
    """

    as_of: date
    drift: str = ""
    loss: str = ""
    concept: str = ""
    concept_on: date | None = None


@dataclass(frozen=True)
class Decision:
    """Whether to train again, the reason, and the day of the evidence that decided."""

    retrain: bool
    reason: str
    evidence_on: date | None = None


def decide(evidence: Sequence[Evidence], as_of: date) -> Decision:
    """Return whether a course's model should be trained again.

    It should when an alarm was raised on labels that have matured, or when loss and drift agree in
    two consecutive windows.

    Parameters
    ----------
    evidence
        Of one course, in any order; evidence later than `as_of` is ignored.

    Examples
    --------
    >>> both = [Evidence(date(2025, 9, day), "score_mean drifted", "loss +20%") for day in (1, 15)]
    >>> decide(both, date(2025, 9, 15)).retrain, decide(both[1:], date(2025, 9, 15)).retrain
    (True, False)
    """
    oldest = as_of - timedelta(days=SETTINGS.stale_days)
    known = sorted(
        (report for report in evidence if report.as_of <= as_of), key=lambda report: report.as_of
    )
    fresh = [report for report in known if report.as_of >= oldest]
    if not fresh:
        return Decision(False, f"no report since {oldest}")
    newest = fresh[-1]
    if newest.concept and newest.concept_on:
        return Decision(True, newest.concept, newest.concept_on)
    if not (newest.drift and newest.loss):
        seen = newest.drift or newest.loss
        return Decision(False, f"{seen}; alone it confirms nothing" if seen else "nothing changed")
    window = timedelta(days=SETTINGS.window_days)
    longest = timedelta(days=SETTINGS.longest_gap_days)
    before = [report for report in known if window <= newest.as_of - report.as_of <= longest]
    if not before:
        return Decision(False, f"{newest.loss} and {newest.drift}; the next window has to confirm")
    if not (before[-1].drift and before[-1].loss):
        return Decision(
            False, f"{newest.loss} and {newest.drift}, but not yet on {before[-1].as_of}"
        )
    reason = f"{newest.loss} and {newest.drift}, in two windows ({before[-1].as_of} and after)"
    return Decision(True, reason, newest.as_of)


def permitted(
    decisions: Mapping[str, Decision],
    requests: Mapping[str, Request],
    in_flight: Collection[str],
    as_of: date,
) -> tuple[dict[str, Decision], dict[str, str]]:
    """Return the decisions to act on now, and why other courses wait, by course.

    A course waits while a training of it is in flight; until the next day if its training came to
    nothing; for `cooldown_days` after the request if it did not; and once `daily_cap` courses were
    requested on a day.

    Parameters
    ----------
    requests
        The last request of each course.
    in_flight
        The courses whose requested training has not ended.
    """
    today = {name for name, request in requests.items() if request.asked_on == as_of}
    act: dict[str, Decision] = {}
    wait: dict[str, str] = {}
    for course, decision in sorted(decisions.items()):
        if not decision.retrain:
            continue
        before = requests.get(course)
        trained_for = before.asked_on if before and before.is_answered else None
        if course in in_flight:
            wait[course] = "a training of it is in flight"
        elif trained_for and as_of < trained_for + timedelta(days=SETTINGS.cooldown_days):
            wait[course] = f"trained on request on {trained_for}"
        elif trained_for and decision.evidence_on and decision.evidence_on <= trained_for:
            wait[course] = f"the evidence is older than the training of {trained_for}"
        elif course in today:
            wait[course] = "its training was requested today"
        elif len(today | act.keys()) >= SETTINGS.daily_cap:
            wait[course] = f"training of {SETTINGS.daily_cap} courses was requested today"
        else:
            act[course] = decision
    return act, wait


def evidence(signals: Iterable[Signal]) -> dict[str, list[Evidence]]:
    """Return the evidence of each course, one for each day that has reports."""
    days: dict[tuple[str, date], dict[Kind, Signal]] = {}
    for signal in signals:
        days.setdefault((signal.course_id, signal.as_of), {})[signal.kind] = signal
    by_course: dict[str, list[Evidence]] = {}
    for (course, day), kinds in days.items():
        texts = {kind: signal.says for kind, signal in kinds.items()}
        labels = kinds.get(Kind.CONCEPT)
        by_course.setdefault(course, []).append(
            Evidence(
                day,
                texts.get(Kind.DRIFT, ""),
                texts.get(Kind.PERFORMANCE, ""),
                texts.get(Kind.CONCEPT, ""),
                labels.alarm_on if labels else None,
            )
        )
    return by_course


def decided(
    connection: Connection, as_of: date, courses: Sequence[str] | None = None
) -> dict[str, Decision]:
    """Return the decision for each course that has reports."""
    days = SETTINGS.stale_days + SETTINGS.longest_gap_days + 1
    by_course = evidence(store.signals(connection, as_of, days=days, courses=courses))
    return {course: decide(rows, as_of) for course, rows in by_course.items()}
