"""Draws pictures of stored reports; every number comes from the reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

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
    heading,
)
from grade_ml.core.texts import line

if TYPE_CHECKING:
    from grade_ml.monitoring.store import Stored

#: Features that one picture shows: those with the smallest p-values.
_MOST = 15


def shapes(body: Mapping[str, Any]) -> Picture:
    """Draw one panel per drifted feature: the reference in grey, the current shape in blue.

    Parameters
    ----------
    body
        Of a drift report.
    """
    drifted = body.get("shapes") or {}
    if not drifted:
        return Nothing(_untested(body) or "No feature drifted.")
    rows = -(-len(drifted) // 2)
    figure = blank((7, 1.0 + 1.7 * rows))
    figure.suptitle("Drifted features: same week in training terms (grey), now (blue)", fontsize=10)
    panels = figure.subplots(rows, 2, squeeze=False).ravel()
    for axes in panels:
        axes.set_axis_off()
    for axes, (name, shape) in zip(panels, drifted.items(), strict=False):
        axes.set_axis_on()
        axes.set_title(heading(name), fontsize=8, loc="left")
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
        if "labels" in shape:
            places = range(len(shape["labels"]))
            axes.bar(places, shape["reference"], color=GREY, alpha=0.6)
            axes.step(places, shape["current"], where="mid", color=BLUE)
            axes.set_xticks(list(places), [heading(str(n)) for n in shape["labels"]], rotation=30)
        else:
            axes.stairs(shape["reference"], shape["edges"], fill=True, color=GREY, alpha=0.6)
            axes.stairs(shape["current"], shape["edges"], color=BLUE)
    return figure


def _untested(body: Mapping[str, Any]) -> str:
    """Return a sentence that no feature was tested, with the reason; empty if any was."""
    if _tested(body):
        return ""
    reason = body.get("reason")
    return f"No feature was tested{f': {reason}' if reason else ' yet'}."


def _tested(body: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [feature for feature in body.get("features") or [] if feature["p_adjusted"] is not None]


def significance(body: Mapping[str, Any]) -> Picture:
    """Draw adjusted p-value and effect of the features with the smallest p-values."""
    import numpy as np

    if untested := _untested(body):
        return Nothing(untested)
    tested = _tested(body)
    chosen = sorted(tested, key=lambda feature: (feature["p"], feature["feature"]))[:_MOST][::-1]
    figure = blank((7, 1.2 + 0.22 * len(chosen)))
    figure.suptitle(
        f"The {len(chosen)} of {len(tested)} features that look most unlike before", fontsize=10
    )
    left, right = figure.subplots(1, 2, sharey=True)
    names = [line(feature["feature"]) for feature in chosen]
    colours = [BLUE if feature["drifted"] else GREY for feature in chosen]
    floor = [max(feature["p_adjusted"], 1e-6) for feature in chosen]
    left.barh(names, -np.log10(floor), color=colours)
    left.set_xlabel("-log10 of adjusted p (longer: less likely chance)", fontsize=8)
    right.barh(names, [feature["effect"] or 0.0 for feature in chosen], color=colours)
    right.set_xlabel("size of the change (blue: drifted)", fontsize=8)
    for axes in (left, right):
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def errors(history: Sequence[Stored]) -> Picture:
    """Draw the error of each basis over time with its interval and baseline.

    Parameters
    ----------
    history
        Performance reports of one course, oldest first.
    """
    by_basis: dict[str, list[tuple[date, Mapping[str, float]]]] = {}
    for report in history:
        for loss in report.body.get("losses") or []:
            by_basis.setdefault(loss["basis"], []).append((report.as_of, loss))
    if not by_basis:
        return Nothing("No error could be measured yet.")
    if len({day for rows in by_basis.values() for day, _ in rows}) < 2:
        words = (f"by {basis} {rows[0][1]['value']:.2f} points" for basis, rows in by_basis.items())
        ((day, _), *_) = next(iter(by_basis.values()))
        return Nothing(f"Mean error on {day}: {', '.join(words)}. A picture needs a second day.")
    figure, axes = canvas("Mean error (lines), on record at promotion (dashed)", "", "points")
    for colour, (basis, rows) in zip(COLOURS, sorted(by_basis.items()), strict=False):
        days: list[Any] = [day for day, _ in rows]
        low, high, value, base = (
            [loss[name] for _, loss in rows] for name in ("low", "high", "value", "baseline")
        )
        axes.plot(days, value, color=colour, marker=".", label=f"by {basis}")
        axes.fill_between(days, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.plot(days, base, color=colour, linestyle="--", linewidth=1)
    axes.legend(frameon=False, fontsize=8)
    axes.set_ylim(bottom=0)
    dated(axes)
    return figure


def scores(history: Sequence[Stored]) -> Picture:
    """Draw the health score over time.

    Parameters
    ----------
    history
        Health reports of one course, oldest first.
    """
    known = [
        (report.as_of, report.body["score"])
        for report in history
        if report.body["score"] is not None
    ]
    if nothing := as_sentence("Score", known, " of 100"):
        return nothing
    figure, axes = canvas("Health over time", "", "score (0-100)")
    days: list[Any] = [day for day, _ in known]
    axes.plot(days, [score for _, score in known], color=BLUE, marker=".")
    axes.set_ylim(0, 105)
    dated(axes)
    return figure


def stream(body: Mapping[str, Any]) -> Picture:
    """Draw the matured rows of the error stream and the alarms.

    Parameters
    ----------
    body
        Of a concept drift report.
    """
    rows = body.get("rows") or []
    days: list[Any] = [date.fromisoformat(row["matured_on"]) for row in rows]
    if len(set(days)) < 2:
        reason = body.get("reason") or "a picture needs scores of two days"
        return Nothing(f"Scores cannot be compared with predictions yet: {reason}.")
    figure, axes = canvas("Scores against what predictions implied", "", "standard deviations")
    axes.axhline(0, color=GREY, linewidth=1)
    axes.plot(days, [row["z"] for row in rows], ".", color=BLUE)
    for alarm in body.get("alarms") or []:
        on: Any = date.fromisoformat(alarm["on"])
        axes.axvline(on, color=COLOURS[1], linewidth=1)
    dated(axes)
    return figure
