"""One number from 0 to 100 for each course's model, from six parts that stay visible.

The score orders courses by need; what is wrong is in the parts. A part that cannot be judged
counts neither way, and is named.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np

from grade_ml.monitoring.retraining import Decision


@dataclass(frozen=True)
class HealthSettings:
    """The judgements of health, each with its reason."""

    #: What each part counts: errors that people see most, then whether a probability is one; the
    #: rest says how far both can be trusted.
    performance: float = 35
    calibration: float = 15
    drift: float = 15
    quality: float = 15
    freshness: float = 10
    serving: float = 10
    #: From 100 to 0: an error as on record, and one half as large again.
    worst_rise: float = 0.5
    #: From 100 to 0: OULAD's worst cut, and five times that.
    fair_ece: float = 0.03
    worst_ece: float = 0.15
    #: Days: predictions are made daily; after a week they are of another week of term.
    fresh_days: int = 1
    stale_days: int = 8
    #: Below, someone is told.
    alert_below: float = 60


SETTINGS = HealthSettings()


@dataclass(frozen=True)
class Part:
    """One part: points of 100, or None where it cannot be judged, its weight, and what it says."""

    points: float | None
    weight: float
    says: str


@dataclass(frozen=True)
class Health:
    """A course's score (0-100; None where no part can be judged) and its parts by name."""

    score: float | None
    parts: Mapping[str, Part]
    decision: Decision

    @property
    def needs(self) -> bool:
        """Whether someone should look."""
        return self.score is not None and self.score < SETTINGS.alert_below

    @property
    def worst(self) -> str:
        """The part that costs most points."""
        lost = {
            name: (100 - part.points) * part.weight
            for name, part in self.parts.items()
            if part.points is not None
        }
        name = max(lost, key=lambda one: lost[one], default="")
        return f"{name}: {self.parts[name].says}" if name and lost[name] else ""


@dataclass(frozen=True)
class Serving:
    """How a course is served: its newest predictions, and why they are less than they could be."""

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
        Bodies of the stored reports of the day; empty: there is none.
    """
    parts = {
        "performance": _performance(performance),
        "calibration": _calibration(performance),
        "drift": _drift(drift),
        "quality": _quality(drift.get("quality") or {}),
        "freshness": _freshness(serving, as_of),
        "serving": _serving(serving),
    }
    known = [part for part in parts.values() if part.points is not None]
    weight = sum(part.weight for part in known)
    total = sum((part.points or 0.0) * part.weight for part in known)
    return Health(min(total / weight, 100.0) if weight else None, parts, decision)


def _between(value: float, best: float, worst: float) -> float:
    """Return 100 at `best` or better, 0 at `worst` or worse, and a straight line between."""
    return float(np.interp((value - best) / (worst - best), [0, 1], [100, 0]))


def _performance(body: Mapping[str, Any]) -> Part:
    loss = body.get("loss")
    if not loss:
        reason = body.get("reason") or "no error is known or can be estimated"
        return Part(None, SETTINGS.performance, reason)
    rise = loss["value"] / loss["baseline"] - 1 if loss["baseline"] else 0.0
    says = f"error {rise:+.0%} against {loss['baseline']:.1f} points on record ({loss['basis']})"
    return Part(_between(rise, 0, SETTINGS.worst_rise), SETTINGS.performance, says)


def _calibration(body: Mapping[str, Any]) -> Part:
    ece = body.get("ece")
    if ece is None:
        return Part(None, SETTINGS.calibration, "no section of the last year has outcomes")
    points = _between(ece, SETTINGS.fair_ece, SETTINGS.worst_ece)
    return Part(points, SETTINGS.calibration, f"risks are off by {ece:.2f} on average")


def _drift(body: Mapping[str, Any]) -> Part:
    features = body.get("features") or []
    if body.get("status") != "tested" or not features:
        return Part(None, SETTINGS.drift, body.get("reason") or "nothing was compared")
    drifted = sum(bool(one["drifted"]) for one in features)
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
    points = _between(age, SETTINGS.fresh_days, SETTINGS.stale_days)
    return Part(points, SETTINGS.freshness, f"predictions are {age} days old")


def _serving(serving: Serving) -> Part:
    if not serving.enrolled:
        return Part(None, SETTINGS.serving, "no section runs")
    share = min(serving.predicted / serving.enrolled, 1.0)
    says = f"{share:.0%} of those enrolled have a prediction"
    if serving.degraded:
        says += f"; {serving.degraded[0]}"
    return Part(100 * share * (0.5 if serving.degraded else 1.0), SETTINGS.serving, says)


def by_need(found: Mapping[str, Health]) -> list[str]:
    """Return the courses, the one in most need first; those that cannot be judged come last."""

    def need(course: str) -> tuple[bool, bool, float, str]:
        one = found[course]
        return one.score is None, not one.decision.retrain, one.score or 0.0, course

    return sorted(found, key=need)
