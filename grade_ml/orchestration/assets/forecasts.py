"""The group `forecasts`: every score that is still to come, and what follows from it."""

import math
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from time import perf_counter
from typing import TYPE_CHECKING, Any

from dagster import (
    MaterializeResult,
    MetadataValue,
    TableRecord,
)

from grade_ml.core.process import peak_megabytes
from grade_ml.orchestration import plots
from grade_ml.orchestration.courses import Courses, course_asset
from grade_ml.orchestration.degradation import complete, is_complete
from grade_ml.orchestration.resources import Platform

if TYPE_CHECKING:
    import pandas as pd

    from grade_ml.early_warning.nightly import Outlook
    from grade_ml.early_warning.risk_model import RiskModel
    from grade_ml.forecasting.contract import Forecasts
    from grade_ml.training.trajectory import Current

#: Rows of the table of weights: the cells of all courses together come first.
SHOWN = 200
#: Courses whose pictures a run draws: half a second each.
PICTURES = 20


@course_asset(
    group_name="forecasts",
    deps=["grade_snapshots", "score_sequences", "sections"],
    kinds={"lightgbm", "tensorflow", "postgres"},
    owners=["team:ml-engineering"],
    code_version="1",
    metadata={"dagster/table_name": "forecasts.assignment_forecast"},
    check_specs=[complete("trajectory_forecasts")],
    pool="training",
)
def trajectory_forecasts(courses: Courses, platform: Platform) -> MaterializeResult:  # type: ignore[type-arg]
    """Forecast each remaining score of each running enrollment, with bands that hold."""
    from grade_ml.serving.forecasts import forecast_running
    from grade_ml.training.trajectory import current

    keys = courses.keys
    started = perf_counter()
    # A transaction of its own: the model stays where forecasts of a course fail.
    with platform.workspace() as workspace:
        one = current(workspace, datetime.now(UTC), on_progress=courses.log.info)
    trained = perf_counter() - started
    with platform.workspace() as workspace:
        said = forecast_running(workspace, keys, one.model, one.version)
    for key in keys:
        courses.add_asset_metadata(_of_course(said, key), partition_key=key)
    return MaterializeResult(
        metadata={"as_of": platform.as_of.isoformat(), **_of_model(one, trained), **_of_run(said)},
        check_results=[is_complete(said.degraded)],
    )


def _of_course(said: "Forecasts", course_id: str) -> dict[str, Any]:
    rows = said.forecasts[said.forecasts["course_id"] == course_id]
    figures: dict[str, Any] = {"dagster/row_count": len(rows)}
    if course_id in said.nothing:
        figures["nothing_to_forecast"] = said.nothing[course_id]
    if len(rows):
        means = rows[["mean", "submit_probability"]].mean()
        figures |= {f"mean_{name}": float(value) for name, value in means.items()}
        figures["students"] = int(rows["student_id"].nunique())
    return figures


def _of_model(one: "Current", seconds: float) -> dict[str, Any]:
    model = one.model
    return {
        "model_version": one.version,
        "trained": one.reason or "no: the model of an earlier run fits",
        "training_seconds": seconds if one.reason else 0.0,
        "sections": len(model.sections),
        "weights": plots.table(
            [
                TableRecord({str(name): value for name, value in row.items()})
                for row in model.combination.table.head(SHOWN).to_dict("records")
            ]
        ),
        "fallbacks_in_training": _counted(model.fallbacks),
    }


def _of_run(said: "Forecasts") -> dict[str, Any]:
    return {
        "forecasts": len(said.forecasts),
        "weeks_of_activity": len(said.activity),
        "fallbacks": _counted(said.fallbacks),
        "degraded": list(said.degraded),
        "peak_megabytes": peak_megabytes(),
    }


def _counted(fallbacks: Mapping[str, int]) -> MetadataValue:
    return plots.table(
        [TableRecord({"reason": name, "rows": rows}) for name, rows in sorted(fallbacks.items())]
    )


@course_asset(
    group_name="forecasts",
    deps=["trajectory_forecasts"],
    kinds={"scipy", "matplotlib", "postgres"},
    owners=["team:ml-engineering"],
    code_version="1",
    metadata={"dagster/table_name": "forecasts.risk_period"},
    check_specs=[complete("risk_periods")],
)
def risk_periods(courses: Courses, platform: Platform) -> MaterializeResult:  # type: ignore[type-arg]
    """Find the weeks in which a student is likelier than not to fall behind, and why."""
    from grade_ml.early_warning.nightly import keep_periods

    with platform.workspace() as workspace:
        found = keep_periods(workspace, courses.keys)
    drawn = _drawn(found)
    for key in courses.keys:
        rows = found.periods[found.periods["course_id"] == key]
        figures = {"periods": len(rows), "students": int(rows["student_id"].nunique())}
        counts = rows["driver"].value_counts()
        drivers = {str(name): int(number) for name, number in counts.items()}
        courses.add_asset_metadata({**figures, **drivers, **drawn.get(key, {})}, partition_key=key)
    return MaterializeResult(
        metadata={
            "as_of": platform.as_of.isoformat(),
            "periods": len(found.periods),
            "students": int(found.periods["student_id"].nunique()),
            "on_a_later_term": _figures(found.model),
            "degraded": list(found.degraded),
        },
        check_results=[is_complete(found.degraded)],
    )


def _figures(model: "RiskModel") -> MetadataValue:
    """Return precision, recall and lead time on the newest term that has ended."""

    def plain(value: Any) -> Any:
        if not isinstance(value, float):
            return value
        return None if math.isnan(value) else round(value, 3)

    return plots.table(
        [
            TableRecord({name: plain(value) for name, value in asdict(one).items()})
            for one in model.evaluation
        ]
    )


def _drawn(found: "Outlook") -> dict[str, dict[str, Any]]:
    """Return the fan and the calendar of the largest section of those courses most at risk."""
    from grade_ml.early_warning import pictures
    from grade_ml.early_warning.grade_paths import results_so_far

    drawn = {}
    for key in found.periods["course_id"].value_counts().index[:PICTURES]:
        largest = max(
            (one for one in found.panels if one.course_id == key), key=lambda one: one.shape[0]
        )
        if largest.shape[0] < plots.FEWEST:
            continue
        paths = found.paths[found.paths["section_id"] == largest.section_id]
        title = f"Running grades in {largest.section_id}"
        fan = pictures.course_fan(results_so_far([largest]), paths, largest.day, title)
        calendar = pictures.risk_calendar(paths, f"Risk in {largest.section_id}")
        drawn[str(key)] = {
            "running_grades": plots.embed(fan, "running grades"),
            "risk_calendar": plots.embed(calendar, "risk calendar"),
        }
    return drawn


@course_asset(
    group_name="forecasts",
    deps=["risk_periods"],
    kinds={"csv", "postgres"},
    owners=["team:ml-engineering"],
    code_version="1",
    metadata={"dagster/table_name": "forecasts.intervention"},
)
def interventions(courses: Courses, platform: Platform) -> MaterializeResult[None]:
    """Plan who may do what this week about risk periods, and list what there is no time for."""
    from grade_ml.early_warning.interventions import DEFAULT_TABLE, read_table
    from grade_ml.early_warning.nightly import keep_interventions

    settings = platform.settings
    rules, load = read_table(settings.interventions or DEFAULT_TABLE), settings.adviser_load
    with platform.workspace() as workspace:
        found = keep_interventions(workspace, courses.keys, rules, load)
    for key in courses.keys:
        courses.add_asset_metadata(
            _tasks(found[found["course_id"] == key]) | {"load": load}, partition_key=key
        )
    return MaterializeResult(
        metadata={
            "as_of": platform.as_of.isoformat(),
            "planned": int(found["planned_on"].notna().sum()),
            "left_out": int(found["planned_on"].isna().sum()),
            "rules": len(rules),
        }
    )


def _tasks(rows: "pd.DataFrame") -> dict[str, Any]:
    """Return how many tasks each owner got and how many are left out; nobody is named."""
    planned = rows["planned_on"].notna()
    sizes = rows.assign(planned=planned).groupby(["owner", "driver", "action", "evidence"])
    table = sizes["planned"].agg(planned="sum", asked="size").reset_index()
    return {
        "planned": int(planned.sum()),
        "left_out": int((~planned).sum()),
        "by_action": plots.table(
            [
                TableRecord(
                    {str(name): value for name, value in row.items()}
                    | {"left_out": row["asked"] - row["planned"]}
                )
                for row in table.to_dict("records")
            ]
        ),
    }


@course_asset(
    group_name="forecasts",
    deps=["trajectory_forecasts"],
    kinds={"scipy", "postgres"},
    owners=["team:ml-engineering"],
    code_version="1",
    metadata={"dagster/table_name": "forecasts.anomaly"},
)
def performance_anomalies(courses: Courses, platform: Platform) -> MaterializeResult[None]:
    """Tell what happened in the last days that was not to be expected of a student."""
    from grade_ml.early_warning.nightly import keep_anomalies

    with platform.workspace() as workspace:
        found = keep_anomalies(workspace, courses.keys)
    for key in courses.keys:
        kinds = found.loc[found["course_id"] == key, "kind"].value_counts()
        figures = {str(name): int(number) for name, number in kinds.items()}
        courses.add_asset_metadata(
            {"anomalies": sum(figures.values())} | figures, partition_key=key
        )
    return MaterializeResult(
        metadata={"as_of": platform.as_of.isoformat(), "anomalies": len(found)}
    )


FORECAST_ASSETS = [trajectory_forecasts, risk_periods, interventions, performance_anomalies]
