"""Computes the health score (0-100) of each course's model from six parts, which are stored too.

The score orders courses by need; the parts show what is wrong. A part that cannot be judged is
left out of the score, and its reason is given.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

from grade_ml.core.degradation import faults
from grade_ml.core.optional import absent_in
from grade_ml.core.scores import Part, between, mean, worst
from grade_ml.monitoring.retraining import Decision


@dataclass(frozen=True)
class HealthSettings:
    """The settings of health, each with its reason."""

    #: The weight of each part: errors, which people see, weigh most, then calibration; the rest
    #: shows how far both can be trusted.
    performance: float = 35
    calibration: float = 15
    drift: float = 15
    quality: float = 15
    freshness: float = 10
    serving: float = 10
    #: 100 points: the error is that on record; 0 points: it is larger by half.
    worst_rise: float = 0.5
    #: 100 points: OULAD's worst cut; 0 points: five times that.
    fair_ece: float = 0.03
    worst_ece: float = 0.15
    #: Days. Predictions are made daily; after a week they belong to another week of term.
    fresh_days: int = 1
    stale_days: int = 8
    #: A lower score sends an alert.
    alert_below: float = 60


SETTINGS = HealthSettings()


@dataclass(frozen=True)
class Health:
    """A course's score (0-100; None if no part can be judged) and its parts by name."""

    score: float | None
    parts: Mapping[str, Part]
    decision: Decision

    @property
    def needs(self) -> bool:
        """Whether the course needs attention."""
        return self.score is not None and self.score < SETTINGS.alert_below

    @property
    def worst(self) -> str:
        """The part that costs most points."""
        name = worst(self.parts)
        return f"{name}: {self.parts[name].says}" if name else ""


@dataclass(frozen=True)
class Serving:
    """How a course is served: its newest predictions, and the reasons if they are degraded."""

    enrolled: int
    predicted: int
    newest: date | None
    degraded: tuple[str, ...]


def health(
    performance: Mapping[str, Any],
    drift: Mapping[str, Any],
    serving: Serving,
    decision: Decision,
    as_of: date,
) -> Health:
    """Return the health of a course's model.

    Parameters
    ----------
    performance, drift
        Bodies of the stored reports of the day; empty if there is none.
    """
    parts = {
        "performance": _performance(performance),
        "calibration": _calibration(performance),
        "drift": _drift(drift),
        "quality": _quality(drift.get("quality") or {}),
        "freshness": _freshness(serving, as_of),
        "serving": _serving(serving),
    }
    return Health(mean(parts.values()), parts, decision)


def _performance(body: Mapping[str, Any]) -> Part:
    loss = body.get("loss")
    if not loss:
        reason = body.get("reason") or "no error is known or can be estimated"
        return Part(None, SETTINGS.performance, reason)
    rise = loss["value"] / loss["baseline"] - 1 if loss["baseline"] else 0.0
    text = f"error {rise:+.0%} against {loss['baseline']:.1f} points on record ({loss['basis']})"
    return Part(between(rise, 0, SETTINGS.worst_rise), SETTINGS.performance, text)


def _calibration(body: Mapping[str, Any]) -> Part:
    ece = body.get("ece")
    if ece is None:
        return Part(None, SETTINGS.calibration, "no section of the last year has outcomes")
    points = between(ece, SETTINGS.fair_ece, SETTINGS.worst_ece)
    return Part(points, SETTINGS.calibration, f"risks are off by {ece:.2f} on average")


def _drift(body: Mapping[str, Any]) -> Part:
    features = body.get("features") or []
    if body.get("status") != "tested" or not features:
        return Part(None, SETTINGS.drift, body.get("reason") or "nothing was compared")
    drifted = sum(bool(feature["drifted"]) for feature in features)
    share = drifted / len(features)
    points = 100.0 if not body["drifted"] else 60 * (1 - min(share / 0.5, 1.0))
    return Part(points, SETTINGS.drift, f"{drifted} of {len(features)} features drifted")


def _quality(body: Mapping[str, Any]) -> Part:
    tested, broken = body.get("tested", 0), len(body.get("violations", ()))
    if not tested:
        return Part(None, SETTINGS.quality, body.get("reason") or "nothing could be tested")
    points = 100 * (1 - min(broken / max(0.25 * tested, 1), 1.0))
    return Part(points, SETTINGS.quality, f"{broken} of {tested} expectations broken")


def _freshness(serving: Serving, as_of: date) -> Part:
    if not serving.enrolled:
        return Part(None, SETTINGS.freshness, "no section runs")
    if serving.newest is None:
        return Part(0.0, SETTINGS.freshness, "nothing was ever predicted")
    age = (as_of - serving.newest).days
    points = between(age, SETTINGS.fresh_days, SETTINGS.stale_days)
    return Part(points, SETTINGS.freshness, f"predictions are {age} days old")


def _serving(serving: Serving) -> Part:
    if not serving.enrolled:
        return Part(None, SETTINGS.serving, "no section runs")
    share = min(serving.predicted / serving.enrolled, 1.0)
    text = f"{share:.0%} of those enrolled have a prediction"
    # A missing library concerns the installation, whose health and alerts name it once.
    if problems := [why for why in faults(serving.degraded) if not absent_in(why)]:
        text += f"; {problems[0]}"
    return Part(100 * share * (0.5 if problems else 1.0), SETTINGS.serving, text)


def by_need(by_course: Mapping[str, Health]) -> list[str]:
    """Return the courses in order of need, neediest first; those without a score come last."""

    def need(course: str) -> tuple[bool, bool, float, str]:
        own = by_course[course]
        return own.score is None, not own.decision.retrain, own.score or 0.0, course

    return sorted(by_course, key=need)
