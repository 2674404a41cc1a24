"""Pictures of forecasts: fans of running grades, and the calendar of risk.

Only drawing lives here. No picture names a student.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from grade_ml.core.figures import BLUE, COLOURS, GREY, Nothing, Picture, blank, heading
from grade_ml.early_warning.risk_periods import risk
from grade_ml.early_warning.settings import SETTINGS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Students that one calendar shows: the most at risk. More rows are thinner than a line.
MOST_ROWS = 80
#: Shares of a class between which its fan lies, and how strongly each is coloured.
_BANDS = ((10, 90, 0.18), (25, 75, 0.35))


def student_fan(results: pd.DataFrame, weeks: pd.DataFrame, day: float, title: str) -> Figure:
    """Draw one student's running grade, what is to come of it, and the chances of each week.

    Parameters
    ----------
    results
        What was due so far: due_day, score (0-100; NaN if not graded yet) and running, the running
        grade (0-100), in order.
    weeks
        The student's rows of `grade_paths`, in order.
    day
        Days from the section's start to the day of the forecast.
    """
    figure = blank((7, 5.2))
    grades, chances = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1.3])
    figure.suptitle(heading(title), fontsize=11, x=0.01, ha="left")
    _grades(grades, day, weeks)
    due = results["due_day"].to_numpy(np.float64) / 7
    grades.plot(due, results["score"], "o", color=GREY, markersize=4, label="results")
    grades.plot(due, results["running"], color=BLUE, linewidth=2, label="running grade")
    known = results["running"].dropna()
    if len(known):
        grades.plot([due[-1], day / 7], [known.iloc[-1]] * 2, color=BLUE, linewidth=2)
    x = weeks["day"].to_numpy(np.float64) / 7
    first = [known.iloc[-1]] if len(known) else []
    start = [day / 7] if len(known) else []
    for low, high, alpha, label in (
        ("low95", "high95", 0.15, "95% of futures"),
        ("low80", "high80", 0.3, "80% of futures"),
    ):
        bounds = [np.concatenate([first, weeks[name]]) for name in (low, high)]
        grades.fill_between(
            np.concatenate([start, x]), *bounds, color=BLUE, alpha=alpha, linewidth=0, label=label
        )
    grades.plot(
        np.concatenate([start, x]),
        np.concatenate([first, weeks["mean"]]),
        color=BLUE,
        linestyle="--",
        marker="o",
        markersize=3,
        label="expected",
    )
    _legend(figure, grades, 5)
    _chances(chances, weeks)
    return figure


def _grades(axes: Axes, day: float, paths: pd.DataFrame) -> None:
    for pass_mark in paths["pass_mark"].head(1):
        axes.axhline(pass_mark, color=COLOURS[1], linestyle=":", linewidth=1)
        axes.annotate(
            "pass mark",
            (1, pass_mark),
            xycoords=("axes fraction", "data"),
            ha="right",
            va="bottom",
            fontsize=7,
            color=COLOURS[1],
        )
    axes.axvline(day / 7, color="dimgrey", linewidth=1)
    axes.annotate(
        "today",
        (day / 7, 1),
        xytext=(3, -2),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        va="top",
        fontsize=7,
        color="dimgrey",
    )
    axes.set_ylim(-3, 103)
    axes.set_ylabel("points of 100")
    _plain(axes)


def _plain(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _legend(figure: Figure, axes: Axes, columns: int) -> None:
    place: Any = "outside lower center"
    figure.legend(
        *axes.get_legend_handles_labels(), frameon=False, fontsize=7, ncols=columns, loc=place
    )


def _chances(axes: Axes, weeks: pd.DataFrame) -> None:
    x = weeks["day"].to_numpy(np.float64) / 7
    width = 0.38
    for shift, name, colour, label in (
        (-width / 2, "missed_probability", COLOURS[4], "work is missed"),
        (width / 2, "below_pass_probability", COLOURS[1], "grade below pass mark"),
    ):
        axes.bar(x + shift, 100 * weeks[name], width, color=colour, label=label)
    axes.axhline(100 * SETTINGS.threshold, color=GREY, linestyle="--", linewidth=1)
    axes.set_ylim(0, 100)
    axes.set_ylabel("chance, %")
    axes.set_xlabel("weeks since the section's start")
    _plain(axes)
    axes.legend(frameon=False, fontsize=7, ncols=2, loc="upper left", bbox_to_anchor=(0, 1.3))


def course_fan(results: pd.DataFrame, paths: pd.DataFrame, day: float, title: str) -> Picture:
    """Draw how the running grades of a class spread: as they were, and as they are expected.

    Parameters
    ----------
    results
        student_id, due_day and running (0-100) of all students of one section, as for
        `student_fan`.
    paths
        The section's rows of `grade_paths`.
    """
    past = _quantiles(results, "due_day", "running")
    ahead = _quantiles(paths, "day", "mean")
    if not len(past) and not len(ahead):
        return Nothing(f"{title}: nothing is graded yet, and no work is due any more.")
    figure = blank((7, 3.8))
    axes = figure.add_subplot()
    below = paths.sort_values("week").groupby("student_id").tail(1)["below_pass_probability"]
    expected = (
        f"\n{below.mean():.0%} are expected below the pass mark at the end" if len(below) else ""
    )
    axes.set_title(f"{heading(title)}{expected}", fontsize=10, loc="left")
    _grades(axes, day, paths)
    if len(past):
        now = past.tail(1).set_axis([day / 7])
        past = pd.concat([past, now])
        ahead = pd.concat([now, ahead]) if len(ahead) else ahead
    for frame, colour, when in ((past, GREY, "so far"), (ahead, BLUE, "expected")):
        for low, high, alpha in _BANDS:
            axes.fill_between(
                frame.index.to_numpy(np.float64),
                frame[low],
                frame[high],
                color=colour,
                alpha=alpha,
                linewidth=0,
                label=f"{when}, middle {high - low}% of students",
            )
        style: Any = "-" if when == "so far" else "--"
        label = f"{when}, median"
        axes.plot(frame.index, frame[50], color=colour, linestyle=style, linewidth=2, label=label)
    axes.set_xlabel("weeks since the section's start")
    _legend(figure, axes, 2)
    return figure


def _quantiles(rows: pd.DataFrame, day: str, value: str) -> pd.DataFrame:
    """Return the quantiles (in %) of a value over students, by week."""
    levels = sorted({50, *(level for low, high, _ in _BANDS for level in (low, high))})
    known = rows.dropna(subset=[value])
    by_week = {
        float(str(when)) / 7: np.percentile(values, levels)
        for when, values in known.groupby(day)[value]
    }
    return pd.DataFrame.from_dict(by_week, orient="index", columns=levels, dtype="float64")


def risk_calendar(paths: pd.DataFrame, title: str) -> Picture:
    """Draw students (rows, the most at risk on top) by weeks (columns), coloured by risk.

    Of a large section, students are drawn at equal steps of the order: those at the top alone
    would be one colour.

    Parameters
    ----------
    paths
        The rows of one section of `grade_paths`.
    """
    rows = paths.assign(risk=risk(paths))
    table = rows.pivot_table(index="student_id", columns="week", values="risk", aggfunc="max")
    order = table.max(axis=1).to_frame("most").assign(mean=table.mean(axis=1))
    ranked = order.sort_values(["most", "mean"], ascending=False, kind="stable")
    places = np.linspace(0, len(ranked) - 1, min(len(ranked), MOST_ROWS)).round().astype(int)
    values = 100 * table.loc[ranked.index[places]].to_numpy(np.float64)
    if not values.size:
        return Nothing(f"{title}: no work is due any more.")
    if np.nanmin(values) == np.nanmax(values):
        words = f"the chance of falling behind is {np.nanmin(values):.0f}% in each week"
        return Nothing(f"{title}: of {len(table)} students, {words}.")
    figure = blank((7, 1.5 + 0.045 * max(len(values), 20)))
    axes = figure.add_subplot()
    share = "all" if len(values) == len(table) else f"{len(values)} of all"
    shown = f"{share} {len(table):,} students, from the most at risk (top) to the least"
    axes.set_title(f"{heading(title)}\n{shown}", fontsize=10, loc="left")
    weeks = [int(week) for week in table.columns]
    picture = axes.imshow(
        values, aspect="auto", cmap="YlOrRd", vmin=0, vmax=100, interpolation="nearest"
    )
    axes.set_xticks(range(len(weeks)), [str(week) for week in weeks])
    bar = figure.colorbar(picture, ax=axes, shrink=0.8, pad=0.02)
    bar.set_label("chance of falling behind, %", fontsize=8)
    bar.ax.axhline(100 * SETTINGS.threshold, color="black", linewidth=1)
    bar.ax.tick_params(labelsize=7)
    axes.set_yticks([])
    axes.set_xlabel("week of the section in which work is due", fontsize=8)
    axes.set_ylabel("students", fontsize=8)
    axes.tick_params(labelsize=7)
    return figure
