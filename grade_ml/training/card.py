"""The model card of a version of the ensemble: what it is for, how good it is, and for whom.

After Mitchell et al. 2019, "Model cards for model reporting". All figures are of rows that the
model had not seen when it predicted them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from grade_ml.core import quantities
from grade_ml.core.texts import markdown
from grade_ml.ensemble.evaluation import PHASES
from grade_ml.ensemble.members import Task
from grade_ml.ensemble.pooled import PooledModel
from grade_ml.registry.registry import ModelVersion

_LIMITS = """
- A risk says who resembles students who failed or withdrew. It is not a cause, and not a reason to
  deny anyone anything.
- Intervals hold on average over many students, not for each group by itself.
- A course that was never seen is predicted from the others; its risk is less well calibrated.
- Where terms are few, sections are held out in any order of time, and the next term may differ.
"""


def card(model: PooledModel, version: ModelVersion) -> str:
    """Return the card as Markdown."""
    parts = [
        f"# {version.name}, version {version.version}",
        "Predicts for each running enrollment the final grade (0-100, with intervals) and the risk "
        "of failing or withdrawing, for advisers who decide whom to offer help first.",
        f"Trained {version.trained_at:%Y-%m-%d %H:%M} UTC on {len(model.sections)} sections of "
        f"{len(model.seen_courses)} courses; data {version.data_version}, program "
        f"{version.code_version}, {_figure(version.metrics.get('training_seconds'), 0)} s, "
        f"{_figure(version.metrics.get('peak_megabytes'), 0)} MB at the peak.",
        *(f"**Degraded:** {markdown(reason)}." for reason in model.degraded),
        "## Accuracy by phase of the section",
        _phases(model),
        "## What counts",
        *(_weights(model, task) for task in model.parts),
        "## External sources",
        _external(model),
        "## Errors by course and group",
        f"RMSE in points and Brier score, with 95 % intervals resampled by student. {_kept(model)}",
        _groups(model),
        "## Limits",
        _LIMITS.strip(),
    ]
    return "\n\n".join(parts) + "\n"


def _phases(model: PooledModel) -> str:
    names = ("n", "rmse", "mae", "naive_rmse", "coverage80", "coverage95", "auc", "brier", "ece")
    metrics = {phase: model.evaluation.metrics[phase] for phase in (*PHASES, "all")}
    rows = [
        [
            quantities.title(name),
            *(quantities.text(name, figures.get(name)) or "-" for figures in metrics.values()),
            quantities.quantity(name).meaning,
        ]
        for name in names
    ]
    return _table(["figure", *metrics, "meaning"], rows)


def _weights(model: PooledModel, task: Task) -> str:
    part, choice = model.parts[task], model.choices[task]
    rows = [
        [
            name,
            *(f"{weight:.2f}" for weight in row),
            _figure(choice["losses"].get(f"{name} alone"), 4),
        ]
        for name, row in zip(part.stack.names, np.atleast_2d(part.stack.weights), strict=True)
    ]
    knots = [f"weight at {knot:.0%}" for knot in part.stack.knots]
    return f"**{task}**: {choice['reason']}.\n\n" + _table(["member", *knots, "loss alone"], rows)


def _external(model: PooledModel) -> str:
    trials: Iterable[Mapping[str, str]] = model.choices.get("external", {}).get("trials", [])
    rows = [
        [trial["source"], "yes" if trial["admitted"] else "no", trial["reason"]] for trial in trials
    ]
    return _table(["source", "admitted", "why"], rows) if rows else "None was tried."


def _kept(model: PooledModel) -> str:
    names = [name for name in model.audit["kind"].unique() if name != "course"]
    if not names:
        return "The data has no protected attribute."
    return f"No model sees {', '.join(map(markdown, names))}; they are kept for this table."


def _groups(model: PooledModel) -> str:
    rows = [
        [
            markdown(row["kind"]),
            markdown(row["group"]),
            str(row["students"]),
            *(
                f"{_figure(row[name], digits)} ({_figure(row[f'{name}_low'], digits)} to "
                f"{_figure(row[f'{name}_high'], digits)})"
                for name, digits in (("rmse", 2), ("brier", 3))
            ),
        ]
        for row in model.audit.reindex(
            columns=[
                *("kind", "group", "students", "rmse", "rmse_low", "rmse_high"),
                *("brier", "brier_low", "brier_high"),
            ]
        ).to_dict("records")
    ]
    return _table(["by", "group", "students", "RMSE", "Brier"], rows)


def _figure(value: float | None, digits: int) -> str:
    return "-" if value is None or np.isnan(value) else f"{value:,.{digits}f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
