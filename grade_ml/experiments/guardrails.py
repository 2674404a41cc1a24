"""What must not get worse while the metric gets better: calibration, and the error of no group.

A guardrail is broken where the treatment is worse than the control by more than a margin, and
surely so. What cannot be told yet is unknown: that blocks nothing, and is said. Repeated looks do
not inflate it, for it decides nothing by itself: it holds up what the metric has decided.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from grade_ml.ensemble.evaluation import expected_calibration_error
from grade_ml.experiments.comparison import paired
from grade_ml.experiments.labels import ARMS, Labels, means
from grade_ml.features.attributes import protected_columns

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class GuardrailSettings:
    """The judgements about guardrails, each with its reason."""

    #: Fewer students say nothing of an average; of a group, they would be about persons.
    least_students: int = 30
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
    #: The loss of a group, as a share of the control's: twice what a training has to gain.
    group: float = 0.05
    #: Two-sided; between groups by Benjamini and Hochberg, for there are a dozen.
    alpha: float = 0.05


SETTINGS = GuardrailSettings()


class State(StrEnum):
    """What is known of a guardrail."""

    OK = "ok"
    BROKEN = "broken"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Guardrail:
    """One thing that must not get worse: its state, why, and the figures of both arms."""

    name: str
    state: State
    says: str
    figures: dict[str, Any] = field(default_factory=dict)

    @property
    def row(self) -> dict[str, Any]:
        """What a report shows of it."""
        return {"state": str(self.state), "says": self.says, **self.figures}


def guardrails(labels: Labels) -> list[Guardrail]:
    """Return what is known of each guardrail on the day of the labels."""
    over = labels.outcomes
    known = over[over["at_risk"].notna()]
    graded = over[over["final_grade"].notna()]
    return [
        _bias(labels.rows),
        _bins(known),
        _brier(known),
        _coverage(graded),
        *_groups(labels),
    ]


def _bias(rows: pd.DataFrame) -> Guardrail:
    """Hold the mean error of what was said, without its sign."""
    errors = means(rows, [f"{arm}_error" for arm in ARMS]).dropna().to_numpy(np.float64)
    return _held("bias", errors, SETTINGS.bias, "mean error of what was predicted")


def _coverage(rows: pd.DataFrame) -> Guardrail:
    """Hold the distance to 80% of the share of grades inside the intervals."""
    inside = {
        arm: rows["final_grade"]
        .between(rows[f"{arm}_lower80"], rows[f"{arm}_upper80"])
        .where(rows[f"{arm}_lower80"].notna() & rows[f"{arm}_upper80"].notna())
        .astype("float64")
        - 0.8
        for arm in ARMS
    }
    told = means(rows[["student"]].assign(**inside), ARMS).dropna().to_numpy(np.float64)
    return _held("coverage80", told, SETTINGS.coverage, "share inside the 80% interval, less 80%")


def _held(name: str, values: Floats, margin: float, what: str) -> Guardrail:
    """Hold the distance from 0 of the mean of each arm's column; one row per student."""
    if len(values) < SETTINGS.least_students:
        return _unknown(name, len(values), SETTINGS.least_students)
    both = values.mean(axis=0)
    # Each arm's values by the side on which it lies: their difference is that of the distances.
    found = paired(*(values * np.where(both < 0, -1.0, 1.0)).T)
    broken = found.difference > margin and found.low > 0
    figures = {arm: float(value) for arm, value in zip(ARMS, both, strict=True)}
    return Guardrail(
        name,
        State.BROKEN if broken else State.OK,
        f"The {what} is {both[1]:+.3g} and was {both[0]:+.3g}",
        {**figures, "margin": margin, "students": len(values)},
    )


def _brier(rows: pd.DataFrame) -> Guardrail:
    """Hold the Brier score of the risk."""
    truth = rows["at_risk"].astype("float64")
    loss = {arm: (rows[f"{arm}_risk"] - truth) ** 2 for arm in ARMS}
    values = means(rows[["student"]].assign(**loss), ARMS).dropna().to_numpy(np.float64)
    if len(values) < SETTINGS.least_students:
        return _unknown("brier", len(values), SETTINGS.least_students)
    found = paired(*values.T)
    broken = found.difference > SETTINGS.brier and found.low > 0
    return Guardrail(
        "brier",
        State.BROKEN if broken else State.OK,
        f"The Brier score of the risk is {found.means[1]:.3f} and was {found.means[0]:.3f}",
        {
            **dict(zip(ARMS, found.means, strict=True)),
            "margin": SETTINGS.brier,
            "students": len(values),
        },
    )


def _bins(rows: pd.DataFrame) -> Guardrail:
    """Hold the expected calibration error of the risk."""
    told = rows[rows[[f"{arm}_risk" for arm in ARMS]].notna().all(axis=1)]
    students = told["student"].nunique()
    if students < SETTINGS.least_for_bins:
        return _unknown("calibration", students, SETTINGS.least_for_bins)
    control, treatment = (
        expected_calibration_error(told[f"{arm}_risk"], told["at_risk"].astype(bool))
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


def _groups(labels: Labels) -> Iterator[Guardrail]:
    """Hold the loss of each group of each protected attribute."""
    from scipy.stats import false_discovery_control

    found = {}
    told = labels.by_segment
    for attribute, column in protected_columns(told.columns).items():
        for group, rows in told.groupby(column, observed=True):
            losses = means(rows, ARMS).dropna()
            if len(losses) >= SETTINGS.least_students:
                found[attribute, str(group)] = paired(*losses[list(ARMS)].to_numpy(np.float64).T)
    if not found:
        yield _unknown("groups", 0, SETTINGS.least_students, "in any group")
        return
    # Where nothing varies there is no p-value, and nothing to find.
    chances = np.nan_to_num([one.p_mean for one in found.values()], nan=1.0)
    adjusted = false_discovery_control(chances)
    worse = {
        name: one
        for (name, one), p in zip(found.items(), adjusted, strict=True)
        if p < SETTINGS.alpha and one.difference > SETTINGS.group * one.means[0]
    }
    names = ", ".join(f"{attribute} {group}" for attribute, group in worse)
    yield Guardrail(
        "groups",
        State.BROKEN if worse else State.OK,
        f"The loss is surely higher by more than {SETTINGS.group:.0%} for: {names}"
        if worse
        else f"The loss is not surely higher by more than {SETTINGS.group:.0%} for any group",
        {"groups": len(found), "worse": len(worse), "margin": SETTINGS.group},
    )


def _unknown(name: str, students: int, least: int, where: str = "") -> Guardrail:
    return Guardrail(
        name,
        State.UNKNOWN,
        f"Too few students{' ' if where else ''}{where} have what it takes: {students} of {least}",
    )
