"""Pictures in metadata: small PNG charts embedded in Markdown, which the UI shows inline.

Only drawing lives here; the figures that are drawn come from the domain rooms.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from datetime import date
from typing import TYPE_CHECKING

from dagster import MarkdownMetadataValue, MetadataValue

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, GREY = "#2f6db3", "#9aa5b1"


def bars(
    title: str,
    values: Sequence[tuple[str, float]],
    y_label: str,
    x_label: str = "",
    top: float | None = None,
) -> MarkdownMetadataValue:
    """Draw one bar for each (label, value), up to the value `top` or the highest."""
    figure, axes = _canvas(title, x_label, y_label)
    labels = [label for label, _ in values]
    axes.bar(range(len(values)), [value for _, value in values], color=BLUE)
    axes.set_ylim(0, top)
    step = max(1, len(labels) // 12)
    axes.set_xticks(range(0, len(labels), step), labels[::step])
    if max((len(label) for label in labels), default=0) > 6:
        axes.tick_params(axis="x", labelrotation=30)
    return _embed(figure, title)


def line(title: str, points: Sequence[tuple[date, float]], y_label: str) -> MarkdownMetadataValue:
    """Draw a line through (date, value)."""
    import numpy as np

    figure, axes = _canvas(title, "", y_label)
    days = np.array([day for day, _ in points], dtype="datetime64[D]")
    axes.plot(days, [value for _, value in points], color=BLUE)
    axes.set_ylim(bottom=0)
    axes.tick_params(axis="x", labelrotation=30)
    return _embed(figure, title)


def calibration(
    title: str, predicted: Sequence[float], observed: Sequence[float]
) -> MarkdownMetadataValue:
    """Draw the observed share (0-1) over the predicted probability (0-1) of each bin."""
    figure, axes = _canvas(title, "predicted risk", "observed share")
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label="perfect")
    axes.plot(predicted, observed, color=BLUE, marker="o", markersize=4, label="model")
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.legend(frameon=False)
    return _embed(figure, title)


def agreement(
    title: str, predicted: Sequence[float], actual: Sequence[float]
) -> MarkdownMetadataValue:
    """Draw one dot for each pair of predicted and actual grade (0-100)."""
    figure, axes = _canvas(title, "predicted grade", "actual grade")
    axes.plot([0, 100], [0, 100], color=GREY, linestyle="--", linewidth=1)
    axes.scatter(predicted, actual, s=8, alpha=0.25, color=BLUE, linewidths=0)
    axes.set(xlim=(0, 100), ylim=(0, 100), aspect="equal")
    return _embed(figure, title)


def _canvas(title: str, x_label: str, y_label: str) -> tuple[Figure, Axes]:
    # A Figure of its own, not pyplot: no global state, so it works in any thread and process.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.4), dpi=90, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, fontsize=11, loc="left")
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _embed(figure: Figure, title: str) -> MarkdownMetadataValue:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    picture = base64.b64encode(buffer.getvalue()).decode()
    return MetadataValue.md(f"![{title}](data:image/png;base64,{picture})")
