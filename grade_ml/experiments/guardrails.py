"""What must not get worse while the metric gets better: calibration, and the error of no group.

A guardrail is broken if the treatment is significantly worse than the control, and by more than a
margin. A guardrail without enough evidence is unknown: it blocks nothing, and is reported.
Repeated looks do not inflate it, because it decides nothing by itself: it only blocks a decision.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from grade_ml.ensemble.evaluation import expected_calibration_error
from grade_ml.experiments.comparison import LEAST_UNITS, paired
from grade_ml.experiments.labels import ARMS, Labels, means
from grade_ml.experiments.segments import Segment

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class GuardrailSettings:
    """The judgements about guardrails, each with its reason."""

    #: 15 bins of fewer students each are mostly noise, which adds to the calibration error.
    least_for_bins: int = 300
    #: Points of a score by which the mean may be further off: a rounding to grades hides it.
    bias: float = 2.0
    #: The calibration error of the risk, 0-1: a fifth of the least risk that is acted on.
    calibration: float = 0.03
    #: The Brier score of the risk, 0-1: about 4% of what the ensemble has on unseen terms.
    brier: float = 0.005
    #: The share of grades inside the 80% interval, further from 80%: the width of its target.
    coverage: float = 0.02
    #: The metric of a group, as a share of the control's mean: half of the rise of an error that
    #: requests a training.
    group: float = 0.05


SETTINGS = GuardrailSettings()


class State(StrEnum):
    """The state of a guardrail."""

    OK = "ok"
    BROKEN = "broken"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Guardrail:
    """One thing that must not get worse: its state, why, and the figures of both arms."""

    name: str
    state: State
    text: str
    figures: dict[str, Any] = field(default_factory=dict)

    @property
    def row(self) -> dict[str, Any]:
        """Its row in a report."""
        return {"state": str(self.state), "says": self.text, **self.figures}


def calibration(labels: Labels) -> list[Guardrail]:
    """Return the guardrails on bias, calibration and coverage of the predictions."""
    over = labels.outcomes
    known = over[over["at_risk"].notna()]
    graded = over[over["final_grade"].notna()]
    return [
        _bias(labels.rows),
        _bins(known),
        _brier(known),
        _coverage(graded),
    ]


def _bias(rows: pd.DataFrame) -> Guardrail:
    """Limit the rise of the absolute mean error of predictions."""
    errors = means(rows, [f"{arm}_error" for arm in ARMS]).dropna().to_numpy(np.float64)
    return _held("bias", errors, SETTINGS.bias, "mean error of what was predicted")


def _coverage(rows: pd.DataFrame) -> Guardrail:
    """Limit the distance from 80% of the share of grades inside the intervals."""
    inside = {
        arm: rows["final_grade"]
        .between(rows[f"{arm}_lower80"], rows[f"{arm}_upper80"])
        .where(rows[f"{arm}_lower80"].notna() & rows[f"{arm}_upper80"].notna())
        .astype("float64")
        - 0.8
        for arm in ARMS
    }
    distances = means(rows[["student"]].assign(**inside), ARMS).dropna().to_numpy(np.float64)
    return _held(
        "coverage80", distances, SETTINGS.coverage, "share inside the 80% interval, less 80%"
    )


def _held(name: str, values: Floats, margin: float, quantity: str) -> Guardrail:
    """Limit the distance from 0 of the mean of each arm's column; one row per student."""
    if len(values) < LEAST_UNITS:
        return _unknown(name, len(values), LEAST_UNITS)
    both = values.mean(axis=0)
    # Each arm's values by the side on which it lies: their difference is that of the distances.
    comparison = paired(*(values * np.where(both < 0, -1.0, 1.0)).T)
    broken = comparison.difference > margin and comparison.low > 0
    figures = {arm: float(value) for arm, value in zip(ARMS, both, strict=True)}
    return Guardrail(
        name,
        State.BROKEN if broken else State.OK,
        f"The {quantity} is {both[1]:+.3g} and was {both[0]:+.3g}",
        {**figures, "margin": margin, "students": len(values)},
    )


def _brier(rows: pd.DataFrame) -> Guardrail:
    """Limit the Brier score of the risk."""
    truth = rows["at_risk"].astype("float64")
    loss = {arm: (rows[f"{arm}_risk"] - truth) ** 2 for arm in ARMS}
    values = means(rows[["student"]].assign(**loss), ARMS).dropna().to_numpy(np.float64)
    if len(values) < LEAST_UNITS:
        return _unknown("brier", len(values), LEAST_UNITS)
    scores = paired(*values.T)
    broken = scores.difference > SETTINGS.brier and scores.low > 0
    return Guardrail(
        "brier",
        State.BROKEN if broken else State.OK,
        f"The Brier score of the risk is {scores.means[1]:.3f} and was {scores.means[0]:.3f}",
        {
            **dict(zip(ARMS, scores.means, strict=True)),
            "margin": SETTINGS.brier,
            "students": len(values),
        },
    )


def _bins(rows: pd.DataFrame) -> Guardrail:
    """Limit the expected calibration error of the risk."""
    predicted = rows[rows[[f"{arm}_risk" for arm in ARMS]].notna().all(axis=1)]
    students = predicted["student"].nunique()
    if students < SETTINGS.least_for_bins:
        return _unknown("calibration", students, SETTINGS.least_for_bins)
    control, treatment = (
        expected_calibration_error(predicted[f"{arm}_risk"], predicted["at_risk"].astype(bool))
        for arm in ARMS
    )
    return Guardrail(
        "calibration",
        State.BROKEN if treatment - control > SETTINGS.calibration else State.OK,
        f"The calibration error of the risk is {treatment:.3f} and was {control:.3f}",
        {
            "control": control,
            "treatment": treatment,
            "margin": SETTINGS.calibration,
            "students": students,
        },
    )


def group_gaps(
    segments: Sequence[Segment], attributes: Collection[str], control: float, better: int
) -> Guardrail:
    """Limit the metric of each group of each protected attribute.

    Parameters
    ----------
    segments
        The segments of a look, with the groups of `attributes` among them.
    control
        The mean of the control, of whom a share is the margin.
    better
        The sign of a difference that is good.
    """
    judged = [segment for segment in segments if segment.kind in attributes and not segment.reason]
    if not judged:
        return _unknown("groups", 0, LEAST_UNITS, "of any group")
    margin = SETTINGS.group * abs(control)
    worse = [
        segment for segment in judged if segment.claimed and -better * segment.difference > margin
    ]
    names = ", ".join(f"{segment.kind} {segment.name}" for segment in worse)
    far = f"surely worse by more than {margin:.3g}"
    return Guardrail(
        "groups",
        State.BROKEN if worse else State.OK,
        f"The treatment is {far} for {names}" if worse else f"No group is {far}",
        {"groups": len(judged), "worse": len(worse), "margin": margin},
    )


def _unknown(name: str, students: int, least: int, where: str = "") -> Guardrail:
    return Guardrail(
        name,
        State.UNKNOWN,
        f"Too few students{' ' if where else ''}{where} are known: {students} of {least}",
    )
