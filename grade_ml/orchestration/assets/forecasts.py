"""The group `forecasts`: every score that is still to come, and what follows from it."""

from collections.abc import Mapping
from datetime import UTC, datetime
from time import perf_counter
from typing import TYPE_CHECKING, Any

from dagster import (
    AssetExecutionContext,
    MaterializeResult,
    MetadataValue,
    ResourceParam,
    TableRecord,
    asset,
)

from grade_ml.core.process import peak_megabytes
from grade_ml.orchestration.partitions import course, many_courses
from grade_ml.orchestration.resources import Platform

if TYPE_CHECKING:
    from grade_ml.forecasting.contract import Forecasts
    from grade_ml.forecasting.lifecycle import Current

#: Rows of the table of weights: the cells of all courses together come first.
SHOWN = 200


@asset(
    group_name="forecasts",
    deps=["grade_snapshots", "score_sequences", "sections"],
    partitions_def=course,
    backfill_policy=many_courses,
    kinds={"lightgbm", "tensorflow", "postgres"},
    owners=["team:ml-engineering"],
    code_version="1",
    metadata={"dagster/table_name": "forecasts.assignment_forecast"},
    pool="training",
)
def trajectory_forecasts(
    context: AssetExecutionContext, platform: ResourceParam[Platform]
) -> MaterializeResult[None]:
    """Forecast each remaining score of each running enrollment, with bands that hold."""
    from grade_ml.forecasting.lifecycle import Rooms, current, forecast_running

    root, keys = platform.settings.storage_root, context.partition_keys
    with platform.connection() as connection:
        rooms = Rooms(connection, platform.registry, root, platform.as_of)
        started = perf_counter()
        one = current(rooms, datetime.now(UTC), on_progress=context.log.info)
        trained = perf_counter() - started
        said = forecast_running(rooms, keys, one)
    for key in keys:
        context.add_asset_metadata(_of_course(said, key), partition_key=key)
    return MaterializeResult(
        metadata={"as_of": platform.as_of.isoformat(), **_of_model(one, trained), **_of_run(said)}
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
        "weights": MetadataValue.table(
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
    return MetadataValue.table(
        [TableRecord({"reason": name, "rows": rows}) for name, rows in sorted(fallbacks.items())]
    )


FORECAST_ASSETS = [trajectory_forecasts]
