"""Pictures of experiments. This module only draws; every number comes from the looks."""

from __future__ import annotations

import math
from collections.abc import Sequence

from grade_ml.core.figures import BLUE, COLOURS, GREY, Nothing, Picture, canvas, thousands
from grade_ml.experiments.plan import Look, Metric, Plan

_BAD, _GOOD = COLOURS[1], COLOURS[2]
#: Points of a line through fewer looks are marked.
_MARKED = 30


def effect(plan: Plan, looks: Sequence[Look]) -> Picture:
    """Draw the difference at each look with its interval, and how far it must go to decide.

    Parameters
    ----------
    looks
        Oldest first. The bound is drawn if a look has a bound and a difference other than 0.
    """
    import numpy as np

    title = f"{plan.treatments[0].name} minus {plan.control.name}"
    if not any(math.isfinite(look.difference) for look in looks):
        return Nothing(f"{title}: no look has a difference yet.")
    figure, axes = canvas(title, "labels", f"difference, {unit(plan.metric)}")
    labels = np.array([look.labels for look in looks], dtype=float)
    difference, low, high, z, bound = (
        np.array([getattr(look, name) for look in looks], dtype=float)
        for name in ("difference", "low", "high", "z", "bound")
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        reach = np.abs(difference / z) * bound
    axes.axhline(0, color=GREY, linewidth=1)
    marker = "o" if len(looks) < _MARKED else ""
    if np.isfinite(low).any():
        axes.fill_between(labels, low, high, color=BLUE, alpha=0.18, linewidth=0, label="interval")
        # A ground between looks; the interval of one alone is no ground.
        axes.vlines(labels, low, high, color=BLUE, alpha=0.4, linewidth=1)
    axes.plot(labels, difference, color=BLUE, marker=marker, markersize=4, label="difference")
    if np.isfinite(reach).any():
        better = plan.metric.better
        for sign, colour, word in ((better, _GOOD, "better"), (-better, _BAD, "worse")):
            label = f"{word} from here"
            at = "_" if marker else ""
            axes.plot(labels, sign * reach, f"--{at}", color=colour, linewidth=1, label=label)
        # The first bounds are far out, and would flatten everything else.
        known = np.concatenate([low, high, [0.0]])
        known = known[np.isfinite(known)]
        far = 1.5 * np.abs(known).max() or np.nanmin(reach)
        axes.set_ylim(-far, far)
    if plan.planned_labels:
        axes.set_xlim(0, max(plan.planned_labels, labels.max()) * 1.02)
    axes.xaxis.set_major_formatter(thousands)
    axes.legend(frameon=False, fontsize=7)
    return figure


def unit(metric: Metric) -> str:
    """Return in which unit a difference of the metric is."""
    return {
        Metric.SCORE_ERROR: "points² of squared error",
        Metric.GRADE_ERROR: "points² of squared error",
        Metric.RISK_ERROR: "Brier score",
        Metric.SCORE: "points of 100",
        Metric.SUBMITTED: "share handed in",
        Metric.PASSED: "share passed",
    }[metric]
