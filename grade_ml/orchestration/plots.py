"""Pictures in metadata: small PNG charts embedded in Markdown, which the UI shows inline.

This module only draws; the figures come from the domain packages.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

from dagster import MarkdownMetadataValue, MetadataValue, TableRecord

from grade_ml.core import quantities, texts
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
    png,
    thousands,
)

if TYPE_CHECKING:
    import pandas as pd

#: Pictures and counts of fewer students would reveal individual students to users of the UI. The
#: floor that SLDS Technical Brief 3 of the US National Center for Education Statistics recommends.
FEWEST = 10
#: Rows of a table that is a summary: those that need attention most.
ROWS = 10
#: Points of a curve of calibration: a line through two always looks like a rule.
LEAST_BINS = 3


def bars(
    title: str, values: Sequence[tuple[str, float]], y_label: str, x_label: str = "group"
) -> MarkdownMetadataValue:
    """Draw one bar for each (label, value)."""
    if nothing := as_sentence(title, values, f" {y_label}", x_label):
        return embed(nothing, title)
    figure, axes = canvas(title, x_label, y_label)
    labels = [heading(label) for label, _ in values]
    axes.bar(range(len(values)), [value for _, value in values], color=BLUE)
    axes.yaxis.set_major_formatter(thousands)
    step = max(1, len(labels) // 12)
    axes.set_xticks(range(0, len(labels), step), labels[::step])
    if sum(map(len, labels[::step])) > 48:
        axes.tick_params(axis="x", labelrotation=30)
    return embed(figure, title)


def line(title: str, points: Sequence[tuple[date, float]], y_label: str) -> MarkdownMetadataValue:
    """Draw a line through (date, value)."""
    import numpy as np

    if nothing := as_sentence(title, points, f" {y_label}"):
        return embed(nothing, title)
    figure, axes = canvas(title, "", y_label)
    days = np.array([day for day, _ in points], dtype="datetime64[D]")
    axes.plot(days, [value for _, value in points], color=BLUE)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(thousands)
    dated(axes)
    return embed(figure, title)


def timelines(
    title: str, series: Mapping[str, Sequence[tuple[date, float | None, bool]]]
) -> MarkdownMetadataValue:
    """Draw one panel for each series of (day, value, whether it is about that very day).

    Observed days are dots, carried-forward days the line between them; a day without a value is a
    gap with a grey ground. A series that a panel could not show is described in a sentence.
    """
    import numpy as np

    words = [
        nothing.words
        for name, points in series.items()
        if (nothing := as_sentence(name, [(day, value) for day, value, _ in points]))
    ]
    series = {
        name: points
        for name, points in series.items()
        if not as_sentence(name, [(day, value) for day, value, _ in points])
    }
    if not series:
        return MetadataValue.md(texts.bullets(words or ["nothing is known yet"]))
    height = 1.1 + 1.1 * len(series)
    figure = blank((6, height), layout=None)
    figure.suptitle(title, fontsize=11, x=0.02, y=1 - 0.1 / height, ha="left")
    legend = "dots: about that very day; line: the newest that was known; grey: not available"
    figure.text(0.02, 1 - 0.45 / height, legend, fontsize=7, color="dimgrey")
    figure.subplots_adjust(
        left=0.12, right=0.98, top=1 - 0.7 / height, bottom=0.45 / height, hspace=0.5
    )
    panels = figure.subplots(len(series), sharex=True, squeeze=False)[:, 0]
    for axes, (name, points) in zip(panels, series.items(), strict=True):
        days = np.array([day for day, _, _ in points], dtype="datetime64[D]")
        values = np.array([value for _, value, _ in points], dtype=float)
        observed = np.array([is_observed for _, _, is_observed in points], dtype=bool)
        axes.plot(days, values, color=GREY, linewidth=1)
        axes.plot(days[observed], values[observed], ".", color=BLUE, markersize=3)
        # On a date axis a day is its number since 1970.
        gaps = [(day - 0.5, 1.0) for day in days[np.isnan(values)].astype("int64").tolist()]
        ground = axes.get_xaxis_transform()
        axes.broken_barh(gaps, (0, 1), color=GREY, alpha=0.25, linewidth=0, transform=ground)
        axes.set_title(name, fontsize=8, loc="left", pad=2)
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    panels[-1].xaxis.get_offset_text().set_fontsize(7)
    dated(panels[-1])
    picture = embed(figure, title)
    return MetadataValue.md(f"{picture.value}\n\n{texts.bullets(words)}") if words else picture


def calibration(
    title: str, predicted: Sequence[float], observed: Sequence[float]
) -> MarkdownMetadataValue:
    """Draw the observed share (0-1) over the predicted probability (0-1) of each bin."""
    if (bins := len(set(predicted))) < LEAST_BINS:
        words = f"{title}: a curve needs {LEAST_BINS} different risks, and there are {bins}."
        return embed(Nothing(words), title)
    figure, axes = canvas(title, "predicted risk, %", "share at risk in truth, %")
    axes.plot([0, 100], [0, 100], color=GREY, linestyle="--", linewidth=1, label="perfect")
    axes.plot(
        [100 * share for share in predicted],
        [100 * share for share in observed],
        color=BLUE,
        marker="o",
        markersize=4,
        label="model, in groups of equal size",
    )
    axes.set(xlim=(-2, 102), ylim=(-2, 102))
    axes.legend(frameon=False, fontsize=8)
    return embed(figure, title)


def agreement(
    title: str, predicted: Sequence[float], actual: Sequence[float]
) -> MarkdownMetadataValue:
    """Draw one dot for each pair of predicted and actual grade (0-100)."""
    if len(predicted) < FEWEST:
        words = f"{title}: a picture needs {FEWEST} known grades, and there are {len(predicted)}."
        return embed(Nothing(words), title)
    figure, axes = canvas(title, "predicted grade, points", "actual grade, points")
    axes.plot([0, 100], [0, 100], color=GREY, linestyle="--", linewidth=1)
    axes.scatter(predicted, actual, s=8, alpha=0.25, color=BLUE, linewidths=0)
    axes.set(xlim=(-2, 102), ylim=(-2, 102), aspect="equal")
    return embed(figure, title)


def histories(
    title: str, panels: Mapping[str, Mapping[str, Sequence[tuple[int, float]]]]
) -> MarkdownMetadataValue:
    """Draw one panel for each group of searches, and in it one falling step line for each search.

    A line goes through (number of the trial, least loss so far in percent of the start's); its name
    is at its end. A group whose searches tried nothing is left out.
    """
    from matplotlib.ticker import MaxNLocator

    panels = {
        name: lines
        for name, lines in panels.items()
        if any(points and points[-1][0] > 0 for points in lines.values())
    }
    if not panels:
        words = f"{title}: no search tried other parameters than those it began with."
        return embed(Nothing(words), title)
    figure = blank((4.2 * max(len(panels), 1.3), 3.4))
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    row = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (name, lines) in zip(row, panels.items(), strict=True):
        axes.axhline(100, color=GREY, linestyle="--", linewidth=1)
        last = max((points[-1][0] for points in lines.values() if points), default=0)
        for colour, (search, points) in zip(itertools.cycle(COLOURS), lines.items(), strict=False):
            if points:
                # To the last trial of all: there was no better one until then.
                numbers = [number for number, _ in points] + [last]
                values = [value for _, value in points] + [points[-1][1]]
                axes.step(numbers, values, where="post", color=colour, linewidth=1.5)
                label = f"{search} {points[-1][1]:.1f}"
                axes.plot(last, values[-1], ".", color=colour, markersize=7, label=label)
        axes.set_title(name, fontsize=9, loc="left")
        axes.set_xlabel("trial")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
        axes.legend(frameon=False, fontsize=7, loc="lower left")
    row[0].set_ylabel("least loss, % of the start's")
    return embed(figure, title)


def shares(
    title: str, panels: Mapping[str, Mapping[str, Mapping[str, float]]]
) -> MarkdownMetadataValue:
    """Draw one column for each group, in it one panel for each member, with a bar for each share.

    Shares (0-1) are named on the left; a member without any in all groups is left out.
    """
    groups = {
        name: {member: bars for member, bars in members.items() if bars}
        for name, members in panels.items()
        if any(members.values())
    }
    if not groups:
        return embed(Nothing(f"{title}: too few trials to compare."), title)
    members = list(dict.fromkeys(member for group in groups.values() for member in group))
    most = max(len(bars) for group in groups.values() for bars in group.values())
    figure = blank((4.2 * max(len(groups), 1.3), 0.8 + 1.05 * len(members)))
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    grid = figure.subplots(len(members), len(groups), sharex=True, squeeze=False)
    for column, (name, group) in zip(grid.T, groups.items(), strict=True):
        for axes, member in zip(column, members, strict=True):
            bars = sorted(group.get(member, {}).items(), key=lambda bar: bar[1])
            labels = [texts.line(label) for label, _ in bars]
            axes.barh(labels, [value for _, value in bars], color=BLUE)
            axes.set_title(f"{name}: {member}", fontsize=8, loc="left", pad=2)
            axes.tick_params(labelsize=7)
            axes.spines[["top", "right"]].set_visible(False)
            # Bars as thick as in the fullest panel, from the top.
            axes.set(xlim=(0, 1), ylim=(len(bars) - most - 0.5, len(bars) - 0.5))
            if not bars:
                axes.set_axis_off()
                text = {"fontsize": 7, "color": "dimgrey", "transform": axes.transAxes}
                axes.text(0, 0.8, "too few trials", **text)
    return embed(figure, title)


def table(rows: Sequence[Mapping[str, Any]]) -> MetadataValue:
    """Return the rows as a table, with the columns of all of them, with readable names and units.

    Dagster has no table without rows, and none whose rows have different columns.
    """
    if not rows:
        return MetadataValue.text("none")
    names = dict.fromkeys(name for row in rows for name in row)
    return MetadataValue.table(
        [
            TableRecord(
                {quantities.title(name): quantities.shown(name, row.get(name)) for name in names}
            )
            for row in rows
        ]
    )


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a frame, for `table`."""
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def embed(figure: Picture, title: str) -> MarkdownMetadataValue:
    """Return `figure` as metadata that the UI shows as a picture, or the sentence in its place."""
    if isinstance(figure, Nothing):
        return MetadataValue.md(texts.markdown(figure.words))
    return MetadataValue.md(f"![{texts.markdown(title)}](data:image/png;base64,{png(figure)})")
