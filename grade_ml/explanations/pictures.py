"""Pictures of explanations. This module only draws; every number comes from the store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from grade_ml.core.figures import (
    BLUE,
    COLOURS,
    GREY,
    Nothing,
    Picture,
    blank,
    canvas,
    dated,
    heading,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from grade_ml.explanations.contract import Explanation
    from grade_ml.explanations.decision_paths import Path, Step
    from grade_ml.explanations.effects import Effect

#: Bars of a waterfall and rows of a beeswarm; the others are drawn as one.
_MOST = 12
_UP, _DOWN = COLOURS[0], COLOURS[1]


def waterfall(explanation: Explanation) -> Figure:
    """Draw the contributions from the average to the grade, or to the risk if there is no grade."""
    risk = explanation.grade is None
    account = explanation.risk.in_probability() if explanation.grade is None else explanation.grade
    scale, unit = (100, "risk, %") if risk else (1, "points")
    largest = account.largest(_MOST)
    shown = {name for name, _ in largest}
    rest = [value for name, value in account.contributions.items() if value and name not in shown]
    steps = [(_labelled(name, explanation.values.get(name)), value) for name, value in largest]
    if rest:
        steps.append((f"other features ({len(rest)})", sum(rest)))
    steps += [(name, value) for name, value in account.remainders.items() if abs(value) > 1e-6]
    figure = blank((7.6, 1.3 + 0.3 * len(steps)))
    axes = figure.add_subplot()
    end = account.baseline
    for place, (_, value) in enumerate(steps):
        colour = _UP if value >= 0 else _DOWN
        axes.barh(place, scale * value, left=scale * end, color=colour, height=0.7)
        axes.text(
            scale * max(end, end + value),
            place,
            f" {scale * value:+.1f}",
            va="center",
            fontsize=7,
            color=colour,
        )
        if place + 1 < len(steps):
            axes.plot([scale * (end + value)] * 2, [place, place + 1], color=GREY, linewidth=0.7)
        end += value
    axes.axvline(scale * account.baseline, color=GREY, linestyle="--", linewidth=1)
    axes.axvline(scale * account.predicted, color=BLUE, linewidth=1)
    axes.set_yticks(range(len(steps)), [heading(label) for label, _ in steps], fontsize=7)
    axes.invert_yaxis()
    low, high = axes.get_xlim()
    axes.set_xlim(low - 0.02 * (high - low), high + 0.1 * (high - low))
    axes.set_title(
        f"From the average ({scale * account.baseline:.1f}, dashed) to this prediction "
        f"({scale * account.predicted:.1f})",
        fontsize=9,
        loc="left",
    )
    axes.set_xlabel(unit, fontsize=8)
    axes.tick_params(axis="x", labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _labelled(name: str, value: Any) -> str:
    if value is None:
        return f"{name}: missing"
    return f"{name} = {value:.3g}" if isinstance(value, float | int) else f"{name} = {value}"


def beeswarm(contributions: pd.DataFrame, values: pd.DataFrame, unit: str) -> Picture:
    """Draw what the main features add to each row, coloured by whether their value is high.

    Parameters
    ----------
    contributions, values
        One row per enrollment and one column per feature.
    """
    import numpy as np

    known = contributions.dropna()
    ranked = known.abs().mean().sort_values(ascending=False).head(_MOST)
    ranked = ranked[ranked > 0]
    if len(known) < 2 or ranked.empty:
        return Nothing("No feature moves the prediction of one enrollment more than another's.")
    figure = blank((7.4, 1.3 + 0.33 * len(ranked)))
    axes = figure.add_subplot()
    axes.axvline(0, color=GREY, linewidth=1)
    random = np.random.default_rng(0)
    for place, name in enumerate(ranked.index):
        added = known[name].to_numpy(float)
        rank = _ranks(values.loc[known.index, name])
        # Wider where there are more: the density of the neighbours, drawn as a swarm.
        counts, edges = np.histogram(added, bins=40)
        bin_of = np.clip(np.searchsorted(edges, added, side="right") - 1, 0, 39)
        width = 0.38 * np.sqrt(counts[bin_of] / max(counts.max(), 1))
        height = place + width * random.uniform(-1, 1, len(added))
        axes.scatter(
            added, height, c=rank, cmap="coolwarm", vmin=0, vmax=1, s=7, alpha=0.7, linewidths=0
        )
    names = [heading(str(name)) for name in ranked.index]
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel(
        f"{unit} added (red: a high value, blue: a low one, grey: missing, a text, or all alike)",
        fontsize=8,
    )
    axes.set_title(
        f"What moves predictions: each dot is one of {len(known):,} enrollments",
        fontsize=9,
        loc="left",
    )
    axes.tick_params(axis="x", labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _ranks(values: pd.Series) -> Any:
    """Return each value's rank among all, 0-1; missing values and texts are in the middle."""
    import pandas as pd

    numbers = pd.to_numeric(values, errors="coerce")
    return numbers.rank(pct=True).fillna(0.5).to_numpy(float)


def importance_bars(rows: pd.DataFrame) -> Picture:
    """Draw the share of the main features with its band of training terms (grey).

    Parameters
    ----------
    rows
        Of one course, task and day, without groups; columns as stored.
    """
    import pandas as pd

    top = rows.nlargest(_MOST, "importance")
    top = top[top["share"] > 0]
    if len(top) < 2:
        words = (f"{name} has all importance." for name in top["feature"])
        return Nothing(next(words, "No feature has any importance."))
    places = range(len(top))
    bands = 100 * top[["band_low", "band_high"]].to_numpy(float)
    banded = "" if pd.isna(bands).all() else "; grey: usual in training terms and retrains"
    figure, axes = canvas(f"Importance of the main features{banded}", "share of all, %", "")
    figure.set_size_inches(7, 1.4 + 0.25 * len(top))
    colours = [_DOWN if alarm else BLUE for alarm in top["alarm"]]
    axes.barh(places, bands[:, 1] - bands[:, 0], left=bands[:, 0], color=GREY, alpha=0.5)
    axes.barh(places, 100 * top["share"], color=colours, height=0.3)
    axes.set_yticks(list(places), [heading(str(name)) for name in top["feature"]], fontsize=7)
    axes.invert_yaxis()
    axes.tick_params(axis="x", labelsize=7)
    return figure


def importance_over_time(rows: pd.DataFrame) -> Picture:
    """Draw the share of the main features day by day, with intervals; an alarm is a ring.

    Parameters
    ----------
    rows
        Of one course and task, without groups, oldest first; columns as stored.
    """
    days = rows["as_of"].unique()
    if len(days) < 2:
        return Nothing("Importance over time: a picture needs a second day.")
    figure, axes = canvas("Importance over time", "", "mean size of contributions, points")
    figure.set_size_inches(7, 3.6)
    newest = rows[rows["as_of"] == rows["as_of"].max()]
    main = newest.nlargest(len(COLOURS), "importance")["feature"]
    for colour, name in zip(COLOURS, main, strict=False):
        own = rows[rows["feature"] == name]
        days = own["as_of"].to_numpy()
        axes.plot(days, own["importance"], color=colour, marker=".", label=name)
        axes.fill_between(days, own["low"], own["high"], color=colour, alpha=0.15, linewidth=0)
        alarms = own[own["alarm"].astype(bool)]
        axes.plot(
            alarms["as_of"].to_numpy(), alarms["importance"], "o", mfc="none", mec=_DOWN, ms=11
        )
    axes.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    axes.set_ylim(bottom=0)
    dated(axes)
    return figure


def decision_path(path: Path) -> Figure:
    """Draw the questions from top to bottom, with the answer beside each."""
    figure = blank((7, 0.9 + 0.62 * (len(path.steps) + 1)))
    axes = figure.add_subplot()
    axes.set_axis_off()
    axes.set(xlim=(0, 1), ylim=(-len(path.steps) - 0.5, 0.6))
    fidelity = "" if path.fidelity is None else f"; it explains {path.fidelity:.0%} of the model"
    axes.set_title(f"The way through {path.tree}{fidelity}", fontsize=9, loc="left")
    box = {"boxstyle": "round,pad=0.35", "facecolor": "#eef2f7", "edgecolor": GREY}
    for place, step in enumerate(path.steps):
        axes.text(0.02, -place, heading(question(step)), fontsize=8, va="center", bbox=box)
        axes.text(0.66, -place, heading(answer(step)), fontsize=8, va="center", color=BLUE)
        axes.annotate(
            "",
            (0.06, -place - 0.75),
            (0.06, -place - 0.25),
            arrowprops={"arrowstyle": "-|>", "color": GREY},
        )
    last = {**box, "facecolor": "#dbe7f5", "edgecolor": BLUE}
    text = (
        f"{path.predicted:+.2f} points" if path.fidelity is None else f"{path.predicted:.1f} points"
    )
    axes.text(0.02, -len(path.steps), text, fontsize=9, va="center", bbox=last)
    return figure


def question(step: Step) -> str:
    """Return the question as text."""
    if _about_gaps(step):
        return f"Is {step.feature} missing?"
    if step.threshold is None:
        shown = ", ".join(step.categories[:4]) + (", …" if len(step.categories) > 4 else "")
        return f"Is {step.feature} one of {shown}?"
    comparison = "at most" if step.inclusive else "below"
    return f"Is {step.feature} {comparison} {step.threshold:.4g}?"


def answer(step: Step) -> str:
    """Return the student's value and answer as text."""
    yes = "yes" if step.below or (step.threshold is None and not _about_gaps(step)) else "no"
    if step.value is None:
        return yes if _about_gaps(step) else f"missing: goes with {yes}"
    shown = f"{step.value:.4g}" if isinstance(step.value, float) else step.value
    return f"{yes}: {shown}"


def _about_gaps(step: Step) -> bool:
    return step.threshold is None and not step.categories


def effects(shown: Sequence[Effect]) -> Picture:
    """Draw a panel for each feature: its effect on the grade (line) and on the risk (dashed).

    All panels have the same scales: on its own, a tiny effect looks like a large effect.
    """
    import numpy as np

    shown = [effect for effect in shown if np.ptp(effect.grade) or np.ptp(effect.risk)]
    if not shown:
        return Nothing("No feature was seen to move predictions.")
    count = len(shown)
    columns = min(count, 2)
    figure = blank((3.6 * max(columns, 1.5), 0.6 + 2.3 * -(-count // 2)))
    title = "How predictions move with a feature: grade (line), risk (dashed)"
    figure.suptitle(f"{title}\nall panels have the same scales", fontsize=9)
    panels = figure.subplots(-(-count // 2), columns, squeeze=False).ravel()
    grades, risks = (
        1.08 * max(float(np.abs(curve).max()) for curve in values)
        for values in ([effect.grade for effect in shown], [100 * effect.risk for effect in shown])
    )
    for axes in panels:
        axes.set_axis_off()
    for axes, drawn in zip(panels, shown, strict=False):
        axes.set_axis_on()
        axes.plot(drawn.edges, drawn.grade, color=BLUE)
        axes.axhline(0, color=GREY, linewidth=0.7)
        axes.set_title(heading(drawn.feature), fontsize=8, loc="left")
        axes.set_ylabel("points", fontsize=7, color=BLUE)
        axes.set_ylim(-(grades or 1), grades or 1)
        beside = axes.twinx()
        beside.set_ylim(-(risks or 1), risks or 1)
        beside.plot(drawn.edges, 100 * drawn.risk, color=_DOWN, linestyle="--")
        beside.set_ylabel("risk, percentage points", fontsize=7, color=_DOWN)
        for part in (axes, beside):
            part.tick_params(labelsize=7)
            part.spines[["top"]].set_visible(False)
    return figure


def gaps(rows: pd.DataFrame) -> Picture:
    """Draw each group's gap to all others, one panel per figure; grey: what is allowed.

    Parameters
    ----------
    rows
        Of one day; columns as stored.
    """
    if rows["gap"].isna().all():
        return Nothing("No group is large enough to be compared with all others.")
    metrics = list(dict.fromkeys(rows["metric"]))
    groups = list(dict.fromkeys(zip(rows["attribute"], rows["group_name"], strict=True)))
    figure = blank((2.1 * len(metrics) + 1.6, 1.2 + 0.24 * len(groups)))
    figure.suptitle("Gap of each group to all others, with its interval", fontsize=9)
    panels = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    for axes, metric in zip(panels, metrics, strict=True):
        own = rows[rows["metric"] == metric].set_index(["attribute", "group_name"])
        own = own.reindex(groups)
        most = float(own["most"].max())
        axes.axvspan(-most, most, color=GREY, alpha=0.25, linewidth=0)
        axes.axvline(0, color=GREY, linewidth=0.7)
        for place, row in enumerate(own.itertuples()):
            colour = _DOWN if row.exceeds is True else BLUE
            axes.plot([row.gap_low, row.gap_high], [place, place], color=colour, linewidth=1)
            axes.plot(row.gap, place, ".", color=colour)
        axes.set_title(metric.replace("_", " "), fontsize=7, loc="left")
        axes.tick_params(labelsize=6)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(range(len(groups)), [heading(f"{a}: {g}") for a, g in groups], fontsize=6)
    panels[0].invert_yaxis()
    return figure
