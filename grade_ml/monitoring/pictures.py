"""Pictures of stored reports. Only drawing lives here; every number is in the reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

from grade_ml.core.figures import BLUE, COLOURS, GREY, blank, canvas, heading
from grade_ml.core.texts import line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from grade_ml.monitoring.store import Stored

#: Features that one picture shows: the most suspicious.
_MOST = 15


def shapes(body: Mapping[str, Any]) -> Figure:
    """Draw one panel per drifted feature: the reference's shape in grey, the current one in blue.

    Parameters
    ----------
    body
        Of a drift report.
    """
    found = body.get("shapes") or {}
    rows = max(-(-len(found) // 2), 1)
    figure = blank((7, 1.0 + 1.7 * rows))
    figure.suptitle("Drifted features: same week in training terms (grey), now (blue)", fontsize=10)
    panels = figure.subplots(rows, 2, squeeze=False).ravel()
    for axes in panels:
        axes.set_axis_off()
    for axes, (name, one) in zip(panels, found.items(), strict=False):
        axes.set_axis_on()
        axes.set_title(heading(name), fontsize=8, loc="left")
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
        if "labels" in one:
            places = range(len(one["labels"]))
            axes.bar(places, one["reference"], color=GREY, alpha=0.6)
            axes.step(places, one["current"], where="mid", color=BLUE)
            axes.set_xticks(list(places), [heading(str(n)) for n in one["labels"]], rotation=30)
        else:
            axes.stairs(one["reference"], one["edges"], fill=True, color=GREY, alpha=0.6)
            axes.stairs(one["current"], one["edges"], color=BLUE)
    if not found:
        panels[0].text(0, 0.5, "No feature drifted.", fontsize=9, color="dimgrey")
    return figure


def significance(body: Mapping[str, Any]) -> Figure:
    """Draw adjusted p-value and effect of the features that look most unlike before."""
    import numpy as np

    tested = [one for one in body.get("features") or [] if one["p_adjusted"] is not None]
    chosen = sorted(tested, key=lambda one: (one["p"], one["feature"]))[:_MOST][::-1]
    figure = blank((7, 1.2 + 0.22 * max(len(chosen), 1)))
    left, right = figure.subplots(1, 2, sharey=True)
    names = [line(one["feature"]) for one in chosen]
    colours = [BLUE if one["drifted"] else GREY for one in chosen]
    floor = [max(one["p_adjusted"], 1e-6) for one in chosen]
    left.barh(names, -np.log10(floor), color=colours)
    left.set_xlabel("-log10 of adjusted p", fontsize=8)
    right.barh(names, [one["effect"] or 0.0 for one in chosen], color=colours)
    right.set_xlabel("effect (blue: drifted)", fontsize=8)
    for axes in (left, right):
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def errors(history: Sequence[Stored]) -> Figure:
    """Draw each basis' error over time with its interval, and its baseline.

    Parameters
    ----------
    history
        Performance reports of one course, oldest first.
    """
    figure, axes = canvas("Error over time (lines), on record at promotion (dashed)", "", "points")
    found: dict[str, list[tuple[date, Mapping[str, float]]]] = {}
    for one in history:
        for loss in one.body.get("losses") or []:
            found.setdefault(loss["basis"], []).append((one.as_of, loss))
    for colour, (basis, rows) in zip(COLOURS, sorted(found.items()), strict=False):
        days: list[Any] = [day for day, _ in rows]
        low, high, value, base = (
            [loss[name] for _, loss in rows] for name in ("low", "high", "value", "baseline")
        )
        axes.plot(days, value, color=colour, marker=".", label=basis)
        axes.fill_between(days, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.plot(days, base, color=colour, linestyle="--", linewidth=1)
    if found:
        axes.legend(frameon=False, fontsize=8)
    axes.set_ylim(bottom=0)
    _days(axes, bool(found))
    return figure


def scores(history: Sequence[Stored]) -> Figure:
    """Draw the health score over time.

    Parameters
    ----------
    history
        Health reports of one course, oldest first.
    """
    figure, axes = canvas("Health over time", "", "score (0-100)")
    known = [(one.as_of, one.body["score"]) for one in history if one.body["score"] is not None]
    days: list[Any] = [day for day, _ in known]
    axes.plot(days, [score for _, score in known], color=BLUE, marker=".")
    axes.set_ylim(0, 100)
    _days(axes, bool(days))
    return figure


def stream(body: Mapping[str, Any]) -> Figure:
    """Draw the matured rows of the error stream and the alarms.

    Parameters
    ----------
    body
        Of a concept drift report.
    """
    figure, axes = canvas("Scores against what predictions implied", "", "standard deviations")
    rows = body.get("rows") or []
    days: list[Any] = [date.fromisoformat(one["matured_on"]) for one in rows]
    axes.axhline(0, color=GREY, linewidth=1)
    axes.plot(days, [one["z"] for one in rows], ".", color=BLUE)
    for alarm in body.get("alarms") or []:
        on: Any = date.fromisoformat(alarm["on"])
        axes.axvline(on, color=COLOURS[1], linewidth=1)
    _days(axes, bool(days))
    return figure


def _days(axes: Axes, any_known: bool) -> None:
    """Let the days below be readable, or say that there are none."""
    axes.tick_params(axis="x", labelrotation=30, labelsize=8)
    if not any_known:
        axes.set_axis_off()
        axes.text(0, 0.9, "Nothing yet.", fontsize=9, color="dimgrey", transform=axes.transAxes)
