"""The conditions of becoming challenger or champion: pure functions of models and figures."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from grade_ml.core import quantities
from grade_ml.ensemble.baseline import BaselineModel, may_become_champion
from grade_ml.ensemble.pooled import PooledModel
from grade_ml.training.comparison import Comparison
from grade_ml.training.settings import SETTINGS

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Verdict:
    """Whether one condition of becoming champion is met, with the figures that decided it."""

    name: str
    passed: bool
    figures: dict[str, float]
    #: The same as a sentence; empty if the figures speak for themselves.
    text: str = ""


def of_baseline(model: BaselineModel, champion: BaselineModel | None) -> tuple[Verdict, ...]:
    """Return the conditions of the baseline; a condition whose figure is unknown is met."""
    everywhere = model.evaluation.metrics["all"]
    figures = {name: value for name, value in everywhere.items() if value is not None}
    errors = {name: value for name, value in figures.items() if name in ("rmse", "naive_rmse")}
    better = len(errors) < 2 or errors["rmse"] < errors["naive_rmse"]
    keeps_up = model is champion or may_become_champion(model, champion)
    return (
        Verdict("better_than_naive", better, errors),
        covers(figures),
        Verdict("keeps_up_with_champion", keeps_up, {}),
    )


def of_pooled(
    model: PooledModel, comparison: Comparison | None, rows: pd.DataFrame | None
) -> tuple[Verdict, ...]:
    """Return the conditions of the pooled model; a condition whose figure is unknown is met.

    Except that it has to show that it is better than the baseline, which costs less and serves
    otherwise.

    Parameters
    ----------
    comparison
        With the baseline's champion; None if there is none that can serve.
    rows
        Snapshots on which explanations are added up; None if they are not.
    """
    metrics = {name: value for name, value in model.evaluation.metrics["all"].items() if value}
    naive: dict[str, float] = {}
    naive |= {name: metrics[name] for name in ("rmse", "naive_rmse") if name in metrics}
    gap = _additivity(model, rows.head(200)) if rows is not None else 0.0
    ece, most_ece = metrics.get("ece", 0.0), float(np.hypot(SETTINGS.most_ece, _chance(model)))
    return (
        Verdict("better_than_naive", len(naive) < 2 or naive["rmse"] < naive["naive_rmse"], naive),
        better_than_baseline(comparison),
        covers(metrics),
        Verdict("calibrated", ece <= most_ece, {"ece": ece, "most": most_ece}),
        Verdict("explanations_add_up", gap <= SETTINGS.additivity, {"largest_gap": gap}),
    )


def better_than_baseline(comparison: Comparison | None) -> Verdict:
    """Return whether the ensemble may take the baseline's place.

    One of the errors has to be smaller by a standard error over sections, and the other no larger,
    nearly.
    """
    name = "better_than_baseline"
    if comparison is None:
        return Verdict(name, True, {}, "No baseline could serve in its place.")
    if comparison.sections < SETTINGS.min_sections or not comparison.ratios:
        text = (
            f"There is too little data to tell: {comparison.sections} sections were predicted "
            f"unseen by both, and {SETTINGS.min_sections} are needed. The baseline serves."
        )
        return Verdict(name, False, comparison.figures, text)
    highs = [ratio.high for ratio in comparison.ratios.values()]
    better = min(highs) <= 0 and max(highs) <= SETTINGS.most_worse
    told = ", ".join(
        f"{quantities.quantity(error).name} {np.expm1(ratio.mean):+.1%} "
        f"(standard error {ratio.standard_error:.1%})"
        for error, ratio in comparison.ratios.items()
    )
    text = f"Against the baseline, in the mean of {comparison.sections} unseen sections: {told}."
    return Verdict(name, better, comparison.figures, text)


def covers(figures: Mapping[str, float]) -> Verdict:
    """Return whether the intervals hold what they promise."""
    floors = {"coverage80": SETTINGS.coverage80, "coverage95": SETTINGS.coverage95}
    shares = {name: figures[name] for name in floors if name in figures}
    cover = all(share >= floors[name] for name, share in shares.items())
    return Verdict("intervals_cover", cover, shares)


def _chance(model: PooledModel) -> float:
    """Return the ECE (15 bins) that a calibrated risk shows by chance; a student's rows agree."""
    at_risk = model.held_out["at_risk"].mean()
    students = max(model.held_out["student"].nunique(), 15)
    return float(np.sqrt(2 / np.pi * at_risk * (1 - at_risk) * 15 / students))


def _additivity(model: PooledModel, rows: pd.DataFrame) -> float:
    """Return the largest difference between a member's number and the sum of its contributions.

    A member whose explanation needs a library that is missing (the forest's: lightgbm) is left out.
    """
    gaps = [0.0]
    for part in model.parts.values():
        for member in part.members.values():
            matrix = part.encoders[member.view(part.task)].transform(rows)
            try:
                added = member.contributions(matrix).sum(axis=1)
            except (ImportError, OSError) as error:  # missing, or missing what it is linked to
                logger.warning("%s (%s) cannot be explained: %s", member.name, part.task, error)
                continue
            gaps.append(float(np.abs(added - member.predict(matrix)).max()))
    return max(gaps)
