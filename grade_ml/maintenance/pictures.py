"""Draws pictures of the installation's health; every number comes from facts and health."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from grade_ml.core.figures import (
    BLUE,
    COLOURS,
    GREY,
    Nothing,
    Picture,
    as_sentence,
    blank,
    canvas,
    dated,
)
from grade_ml.maintenance.facts import JobRuns
from grade_ml.maintenance.health import SETTINGS, SystemHealth

_UNITS = ((3600, "h"), (60, "min"), (1, "s"))
#: The most scores that are drawn with dots.
_FEW = 48
#: Seconds that an axis of durations names.
_TICKS = (0.1, 1, 10, 60, 600, 3600, 36_000)


def trend(scores: Sequence[tuple[datetime, float | None]]) -> Picture:
    """Draw the score over time, and the value below which an alert is sent."""
    known = [(at, score) for at, score in scores if score is not None]
    if nothing := as_sentence("Score", known, " of 100", "hour"):
        return nothing
    figure, axes = canvas("Health of the installation", "", "score (0-100)")
    moments: list[Any] = [at for at, _ in known]
    axes.axhline(SETTINGS.alert_below, color=GREY, linestyle="--", linewidth=1)
    axes.annotate(
        "an alert below",
        (0, SETTINGS.alert_below),
        xytext=(4, 2),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        fontsize=7,
        color="dimgrey",
    )
    # Dots of a month of hours double the size of the picture.
    marker = "." if len(known) < _FEW else ""
    axes.plot(moments, [score for _, score in known], color=BLUE, marker=marker, linewidth=1)
    axes.set_ylim(0, 105)
    dated(axes)
    return figure


def points(health: SystemHealth) -> Picture:
    """Draw the points of each part; a part that is not yet known has none."""
    if not any(part.points is not None for part in health.parts.values()):
        return Nothing("No part is known yet.")
    names = list(health.parts)[::-1]
    figure = blank((6, 0.9 + 0.26 * len(names)))
    axes = figure.add_subplot()
    axes.set_title("Points of each part", fontsize=11, loc="left")
    for place, name in enumerate(names):
        value = health.parts[name].points
        if value is None:
            axes.text(1, place, "not yet known", va="center", fontsize=7, color="dimgrey")
        else:
            colour = COLOURS[1] if value < SETTINGS.alert_below else BLUE
            axes.barh(place, value, color=colour)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlim(0, 100)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def durations(jobs: Mapping[str, JobRuns]) -> Picture:
    """Draw how long each job's runs took in the last week; the newest is blue."""
    from matplotlib.ticker import FixedLocator, NullLocator

    names = sorted((name for name, job in jobs.items() if job.durations), reverse=True)
    if not names:
        return Nothing("No run has ended in the last week.")
    figure = blank((7, 1.3 + 0.26 * max(len(names), 2)))
    axes = figure.add_subplot()
    axes.set_title("Durations of the last week's runs; the newest is blue", fontsize=11, loc="left")
    for place, name in enumerate(names):
        # A logarithmic axis has no place for 0 seconds.
        seconds = [max(took, 0.1) for took in jobs[name].durations]
        axes.plot(seconds[:-1], [place] * (len(seconds) - 1), "|", color=GREY, markersize=9)
        axes.plot(seconds[-1:], [place], "o", color=BLUE, markersize=5)
    axes.set_xscale("log")
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.xaxis.set_major_locator(FixedLocator(_TICKS))
    axes.xaxis.set_major_formatter(lambda value, _: duration(value))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(axis="x", color=GREY, alpha=0.3, linewidth=0.5)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def duration(seconds: float) -> str:
    """Return seconds in the unit that reads best.

    >>> [duration(seconds) for seconds in (0.31, 30, 320, 10_800)]
    ['0.3 s', '30 s', '5.3 min', '3 h']
    """
    size, unit = next((scale for scale in _UNITS if seconds >= scale[0]), _UNITS[-1])
    return f"{seconds / size:.1f}".removesuffix(".0") + f" {unit}"
