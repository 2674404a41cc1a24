"""The group `models`: the trained baseline and the predictions made with the champion."""

from dagster import (
    AssetCheckSpec,
    AssetExecutionContext,
    MaterializeResult,
    ResourceParam,
    asset,
)

from grade_ml.orchestration.partitions import course, many_courses
from grade_ml.orchestration.resources import Platform


@asset(
    group_name="models",
    deps=["grade_snapshots"],
    check_specs=[
        AssetCheckSpec(
            "better_than_naive",
            asset="baseline_model",
            blocking=True,
            description="Out of sample, its error is smaller than that of carrying on as so far.",
        ),
        AssetCheckSpec(
            "intervals_cover",
            asset="baseline_model",
            blocking=True,
            description="Out of sample, about 80% and 95% of grades lie in their intervals.",
        ),
    ],
    kinds={"scikitlearn", "mlflow"},
    owners=["team:ml-engineering"],
    code_version="1",
    pool="training",
)
def baseline_model(platform: ResourceParam[Platform]) -> MaterializeResult:
    """Train the traditional model of final grade and risk, one for all courses."""
    raise NotImplementedError


@asset(
    group_name="models",
    deps=["grade_snapshots", "baseline_model"],
    partitions_def=course,
    backfill_policy=many_courses,
    kinds={"postgres", "pandas"},
    owners=["team:ml-engineering"],
    code_version="1",
)
def grade_predictions(
    context: AssetExecutionContext, platform: ResourceParam[Platform]
) -> MaterializeResult:
    """Predict grade, intervals and risk of every running enrollment with the champion."""
    raise NotImplementedError


MODEL_ASSETS = [baseline_model, grade_predictions]
