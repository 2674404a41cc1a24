"""Metadata of the trajectory model, its forecasts, risk periods, interventions and anomalies."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from dagster import MetadataValue

from grade_ml.core import quantities
from grade_ml.core.process import peak_megabytes
from grade_ml.orchestration import plots
from grade_ml.orchestration.courses import Courses

if TYPE_CHECKING:
    import pandas as pd

    from grade_ml.early_warning.outlook import Outlook
    from grade_ml.early_warning.risk_periods import Evaluation
    from grade_ml.experiments.actions import Actions
    from grade_ml.forecasting.contract import Forecasts
    from grade_ml.forecasting.trajectory import Trajectory
    from grade_ml.training.steps import Training

#: Courses whose pictures a run draws, half a second each.
PICTURES = 20


def of_model(training: "Training[Trajectory]") -> dict[str, Any]:
    """Return the outcome of a training, the model's figures, and the weights of its forecasters."""
    version, model = training.version, training.model
    return {
        "model_version": version.version,
        "fitted": training.fitted,
        "outcome": training.reason,
        **dict(version.metrics),
        "sections": len(model.sections),
        "weights": plots.table(_weights(model.combination.table)),
        "fallbacks_in_training": _counted(model.fallbacks),
        "degraded": list(model.degraded),
        "data_version": version.data_version,
        "manifest_sha256": version.manifest_sha256,
    }


def _weights(table: "pd.DataFrame") -> list[dict[str, Any]]:
    """Return the weight of each forecaster of a score for all courses, by how far ahead it is due.

    Courses with enough results have weights of their own, which are in the model.
    """
    from grade_ml.forecasting.settings import SETTINGS

    first = [1, *(last + 1 for last in SETTINGS.buckets)]
    ahead = [f"from {number} ahead" for number in first]
    everywhere = table[table["course"] == ""]
    return [
        {
            "method": method,
            **{
                f"{ahead[number]} (%)": quantities.shown("weight_mean", weight)
                for number, weight in zip(rows["bucket"], rows["weight_mean"], strict=True)
            },
        }
        for method, rows in everywhere.groupby("method", sort=False)
    ]


def of_forecasts(forecasts: "Forecasts", courses: Courses) -> dict[str, Any]:
    """Return figures of a run, and add those of each course to `courses`."""
    for key in courses.keys:
        courses.add_asset_metadata(_of_course(forecasts, key), partition_key=key)
    return {
        "forecasts": len(forecasts.forecasts),
        "weeks_of_activity": len(forecasts.activity),
        "fallbacks": _counted(forecasts.fallbacks),
        "degraded": list(forecasts.degraded),
        "peak_megabytes": peak_megabytes(),
    }


def _of_course(forecasts: "Forecasts", course_id: str) -> dict[str, Any]:
    rows = forecasts.forecasts[forecasts.forecasts["course_id"] == course_id]
    figures: dict[str, Any] = {"dagster/row_count": len(rows)}
    if course_id in forecasts.nothing:
        figures["nothing_to_forecast"] = forecasts.nothing[course_id]
    if len(rows):
        means = rows[["mean", "submit_probability"]].mean()
        figures |= {f"mean_{name}": float(value) for name, value in means.items()}
        figures["students"] = int(rows["student_id"].nunique())
    return figures


def of_periods(outlook: "Outlook", courses: Courses) -> dict[str, Any]:
    """Return figures of risk periods, and add those of each course, with pictures, to `courses`."""
    drawn = _drawn(outlook)
    for key in courses.keys:
        rows = outlook.periods[outlook.periods["course_id"] == key]
        figures = {"periods": len(rows), "students": int(rows["student_id"].nunique())}
        figures |= _sizes(rows["driver"])
        courses.add_asset_metadata({**figures, **drawn.get(key, {})}, partition_key=key)
    return {
        "periods": len(outlook.periods),
        "students": int(outlook.periods["student_id"].nunique()),
        "on_a_later_term": plots.table(quantities.turned(_by_group(outlook.model.evaluation))),
        "degraded": list(outlook.degraded),
    }


def _by_group(evaluation: "Sequence[Evaluation]") -> dict[str, dict[str, Any]]:
    """Return the evaluation of each group on the newest term that has ended."""
    by_group = {member.group: asdict(member) for member in evaluation}
    return {
        group: {name: value for name, value in figures.items() if name != "group"}
        for group, figures in by_group.items()
    }


def _drawn(outlook: "Outlook") -> dict[str, dict[str, Any]]:
    """Return the fan and the calendar of the largest section of the courses most at risk."""
    from grade_ml.early_warning import pictures
    from grade_ml.early_warning.grade_paths import results_so_far

    drawn = {}
    for key in outlook.periods["course_id"].value_counts().index[:PICTURES]:
        largest = max(
            (panel for panel in outlook.panels if panel.course_id == key),
            key=lambda panel: panel.shape[0],
        )
        if largest.shape[0] < plots.FEWEST:
            continue
        paths = outlook.paths[outlook.paths["section_id"] == largest.section_id]
        title = f"Running grades in {largest.section_id}"
        fan = pictures.course_fan(results_so_far([largest]), paths, largest.day, title)
        calendar = pictures.risk_calendar(paths, f"Risk in {largest.section_id}")
        drawn[str(key)] = {
            "running_grades": plots.embed(fan, "running grades"),
            "risk_calendar": plots.embed(calendar, "risk calendar"),
        }
    return drawn


def of_interventions(planned: "pd.DataFrame", courses: Courses, load: int) -> dict[str, Any]:
    """Return how many tasks are planned and left out, and add those of each course to `courses`."""
    for key in courses.keys:
        tasks = _tasks(planned[planned["course_id"] == key])
        courses.add_asset_metadata(tasks | {"load": load}, partition_key=key)
    return {
        "planned": int(planned["planned_on"].notna().sum()),
        "left_out": int(planned["planned_on"].isna().sum()),
    }


def of_exposures(exposures: "Actions") -> dict[str, dict[str, int]]:
    """Return how many students each arm of each experiment affected, without names."""
    return {name: _sizes(rows["arm"]) for name, rows in exposures.exposed.items()}


def _tasks(rows: "pd.DataFrame") -> dict[str, Any]:
    """Return how many tasks each owner got and how many are left out, without names."""
    planned = rows["planned_on"].notna()
    sizes = rows.assign(planned=planned).groupby(["owner", "driver", "action"])
    table = sizes["planned"].agg(planned="sum", all="size").reset_index()
    table["left_out"] = table["all"] - table["planned"]
    most = table.drop(columns="all").sort_values("left_out", ascending=False, kind="stable")
    return {
        "planned": int(planned.sum()),
        "left_out": int((~planned).sum()),
        "by_action": plots.table(plots.records(most.head(plots.ROWS))),
    }


def of_anomalies(anomalies: "pd.DataFrame", courses: Courses) -> dict[str, Any]:
    """Return how many anomalies there are, and add those of each course by kind to `courses`."""
    for key in courses.keys:
        figures = _sizes(anomalies.loc[anomalies["course_id"] == key, "kind"])
        courses.add_asset_metadata(
            {"anomalies": sum(figures.values())} | figures, partition_key=key
        )
    return {"anomalies": len(anomalies)}


def _sizes(values: "pd.Series[str]") -> dict[str, int]:
    return {str(name): int(number) for name, number in values.value_counts().items()}


def _counted(fallbacks: Mapping[str, int]) -> MetadataValue:
    return plots.table([{"reason": name, "rows": rows} for name, rows in sorted(fallbacks.items())])
