"""Pictures in metadata: small PNG charts embedded in Markdown, which the UI shows inline.

Only drawing lives here; the figures that are drawn come from the domain rooms.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING

from dagster import MarkdownMetadataValue, MetadataValue, TableRecord

from grade_ml.core import texts
from grade_ml.core.figures import BLUE, COLOURS, GREY, blank, canvas, heading, png

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Pictures and counts of fewer students would tell of each one, to whoever sees the UI. The floor
#: that SLDS Technical Brief 3 of the US National Center for Education Statistics recommends.
FEWEST = 10


def bars(
    title: str,
    values: Sequence[tuple[str, float]],
    y_label: str,
    x_label: str = "",
    top: float | None = None,
) -> MarkdownMetadataValue:
    """Draw one bar for each (label, value), up to the value `top` or the highest."""
    figure, axes = canvas(title, x_label, y_label)
    labels = [heading(label) for label, _ in values]
    axes.bar(range(len(values)), [value for _, value in values], color=BLUE)
    axes.set_ylim(0, top)
    step = max(1, len(labels) // 12)
    axes.set_xticks(range(0, len(labels), step), labels[::step])
    if max((len(label) for label in labels), default=0) > 6:
        axes.tick_params(axis="x", labelrotation=30)
    return embed(figure, title)


def line(title: str, points: Sequence[tuple[date, float]], y_label: str) -> MarkdownMetadataValue:
    """Draw a line through (date, value)."""
    import numpy as np

    figure, axes = canvas(title, "", y_label)
    days = np.array([day for day, _ in points], dtype="datetime64[D]")
    axes.plot(days, [value for _, value in points], color=BLUE)
    axes.set_ylim(bottom=0)
    axes.tick_params(axis="x", labelrotation=30)
    return embed(figure, title)


def timelines(
    title: str, series: Mapping[str, Sequence[tuple[date, float | None, bool]]]
) -> MarkdownMetadataValue:
    """Draw one panel for each series of (day, value, whether it is about that very day).

    Observed days are dots, carried-forward ones the line between them; a day without a value is a
    gap with a grey ground.
    """
    import numpy as np
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    height = 1.1 + 1.1 * max(len(series), 1)
    figure = blank((6, height), layout=None)
    figure.suptitle(title, fontsize=11, x=0.02, y=1 - 0.1 / height, ha="left")
    legend = "dots: about that very day; line: the newest that was known; grey: not available"
    figure.text(0.02, 1 - 0.45 / height, legend, fontsize=7, color="dimgrey")
    figure.subplots_adjust(
        left=0.12, right=0.98, top=1 - 0.7 / height, bottom=0.45 / height, hspace=0.5
    )
    panels = figure.subplots(max(len(series), 1), sharex=True, squeeze=False)[:, 0]
    for axes, (name, points) in zip(panels, series.items(), strict=False):
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
    locator = AutoDateLocator()  # type: ignore[no-untyped-call]
    panels[-1].xaxis.set_major_locator(locator)
    panels[-1].xaxis.get_offset_text().set_fontsize(7)
    panels[-1].xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    return embed(figure, title)


def calibration(
    title: str, predicted: Sequence[float], observed: Sequence[float]
) -> MarkdownMetadataValue:
    """Draw the observed share (0-1) over the predicted probability (0-1) of each bin."""
    figure, axes = canvas(title, "predicted risk", "observed share")
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label="perfect")
    axes.plot(predicted, observed, color=BLUE, marker="o", markersize=4, label="model")
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.legend(frameon=False)
    return embed(figure, title)


def agreement(
    title: str, predicted: Sequence[float], actual: Sequence[float]
) -> MarkdownMetadataValue:
    """Draw one dot for each pair of predicted and actual grade (0-100)."""
    figure, axes = canvas(title, "predicted grade", "actual grade")
    axes.plot([0, 100], [0, 100], color=GREY, linestyle="--", linewidth=1)
    axes.scatter(predicted, actual, s=8, alpha=0.25, color=BLUE, linewidths=0)
    axes.set(xlim=(0, 100), ylim=(0, 100), aspect="equal")
    return embed(figure, title)


def histories(
    title: str, panels: Mapping[str, Mapping[str, Sequence[tuple[int, float]]]]
) -> MarkdownMetadataValue:
    """Draw one panel for each group of searches, and in it one falling step line for each search.

    A line goes through (number of the trial, least loss so far in percent of the start's); at its
    end stands its name.
    """
    from matplotlib.ticker import MaxNLocator

    figure = blank((4.2 * max(len(panels), 1), 3.4))
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    row = figure.subplots(1, max(len(panels), 1), sharey=True, squeeze=False)[0]
    for axes, (name, lines) in zip(row, panels.items(), strict=False):
        axes.axhline(100, color=GREY, linestyle="--", linewidth=1)
        last = max((points[-1][0] for points in lines.values() if points), default=0)
        for colour, (search, points) in zip(itertools.cycle(COLOURS), lines.items(), strict=False):
            if points:
                # To the last trial of all: nothing better was found until then.
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
        if lines:
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
        name: {member: found for member, found in members.items() if found}
        for name, members in panels.items()
    }
    members = list(dict.fromkeys(member for found in groups.values() for member in found)) or [""]
    most = max((len(one) for found in groups.values() for one in found.values()), default=1)
    figure = blank((4.2 * max(len(groups), 1), 0.8 + 1.05 * len(members)))
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    grid = figure.subplots(len(members), max(len(groups), 1), sharex=True, squeeze=False)
    for column, (name, found) in zip(grid.T, groups.items(), strict=False):
        for axes, member in zip(column, members, strict=False):
            bars = sorted(found.get(member, {}).items(), key=lambda one: one[1])
            labels = [texts.line(label) for label, _ in bars]
            axes.barh(labels, [value for _, value in bars], color=BLUE)
            axes.set_title(f"{name}: {member}".removesuffix(": "), fontsize=8, loc="left", pad=2)
            axes.tick_params(labelsize=7)
            axes.spines[["top", "right"]].set_visible(False)
            # Bars as thick as where there are more of them, from the top.
            axes.set(xlim=(0, 1), ylim=(len(bars) - most - 0.5, len(bars) - 0.5))
            if not bars:
                axes.set_axis_off()
                text = {"fontsize": 7, "color": "dimgrey", "transform": axes.transAxes}
                axes.text(0, 0.8, "too few trials", **text)
    return embed(figure, title)


def table(records: Sequence[TableRecord]) -> MetadataValue:
    """Return the records as a table, whose columns are those of any of them.

    Dagster knows no table without rows, and none whose rows have different columns.
    """
    if not records:
        return MetadataValue.text("none")
    names = dict.fromkeys(name for one in records for name in one.data)
    rows = [TableRecord({name: one.data.get(name) for name in names}) for one in records]
    return MetadataValue.table(rows)


def embed(figure: Figure, title: str) -> MarkdownMetadataValue:
    """Return `figure` as metadata that the UI shows as a picture."""
    return MetadataValue.md(f"![{texts.markdown(title)}](data:image/png;base64,{png(figure)})")
