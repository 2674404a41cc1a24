"""The group `models`: the trained baseline and the predictions made with the champion."""

from collections.abc import Mapping
from datetime import UTC, datetime
from time import perf_counter
from typing import TYPE_CHECKING, Any

from dagster import (
    AssetCheckResult,
    AssetCheckSeverity,
    AssetCheckSpec,
    AssetExecutionContext,
    DataVersion,
    MaterializeResult,
    MetadataValue,
    ResourceParam,
    TableMetadataValue,
    TableRecord,
    asset,
)

from grade_ml.core.process import peak_megabytes
from grade_ml.orchestration import plots
from grade_ml.orchestration.partitions import course, many_courses
from grade_ml.orchestration.resources import Platform

if TYPE_CHECKING:
    from grade_ml.ensemble.evaluation import Evaluation
    from grade_ml.ensemble.training import Training

#: A version that fails one of these is registered but does not become champion. Where it is not
#: blocking, the run goes on with the earlier champion; where it is, the run stops, and champion and
#: predictions stay as they were.
_CONDITIONS = [
    AssetCheckSpec(
        "better_than_naive",
        asset="baseline_model",
        blocking=True,
        description="On sections it had not seen, it errs less than the points so far do.",
    ),
    AssetCheckSpec(
        "intervals_cover",
        asset="baseline_model",
        blocking=True,
        description="On sections it had not seen, the intervals hold what they promise.",
    ),
    AssetCheckSpec(
        "keeps_up_with_champion",
        asset="baseline_model",
        description="On the sections that both know, it is not clearly worse than the champion.",
    ),
]


@asset(
    group_name="models",
    deps=["grade_snapshots", "sections", "enrollments", "assignments", "results"],
    check_specs=_CONDITIONS,
    kinds={"scikitlearn", "mlflow"},
    owners=["team:ml-engineering"],
    code_version="1",
    pool="training",
)
def baseline_model(platform: ResourceParam[Platform]) -> MaterializeResult:  # type: ignore[type-arg]
    """Train the traditional model of final grade and risk, one for all courses."""
    from grade_ml.ensemble.training import finished, train
    from grade_ml.features.store import read_snapshots
    from grade_ml.gradebook import frames

    started = perf_counter()
    with platform.connection() as connection:
        results = finished(frames.read(connection), platform.as_of)
    snapshots = read_snapshots(platform.settings.storage_root, None)
    training = train(snapshots, results, platform.registry, trained_at=datetime.now(UTC))
    return MaterializeResult(
        metadata=_training_metadata(training, perf_counter() - started),
        check_results=_check_results(training),
        data_version=DataVersion(f"{training.version.version}-{training.version.data_version}"),
    )


def _training_metadata(training: "Training", seconds: float) -> dict[str, Any]:
    version, evaluation = training.version, training.model.evaluation
    overall = {f"all_{name}": value for name, value in _known(evaluation.metrics["all"]).items()}
    return {
        "model_version": version.version,
        "champion": training.accepted,
        "fitted": training.fitted,
        **_pictures(evaluation),
        "phases": _phases(evaluation),
        **overall,
        "sections": len(training.model.sections),
        "features": len(training.model.features),
        "feature_list": ", ".join(training.model.features),
        "training_seconds": seconds,
        "peak_megabytes": peak_megabytes(),
        "data_version": version.data_version,
        "manifest_sha256": version.manifest_sha256,
    }


def _known(figures: Mapping[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in figures.items() if value is not None}


def _phases(evaluation: "Evaluation") -> TableMetadataValue:
    """Return one row for each third of a section."""
    return MetadataValue.table(
        [
            TableRecord({"phase": phase, **_known(figures)})
            for phase, figures in evaluation.metrics.items()
        ]
    )


def _pictures(evaluation: "Evaluation") -> dict[str, Any]:
    curve, sample = evaluation.calibration.to_dict("list"), evaluation.sample.to_dict("list")
    return {
        "calibration": plots.calibration(
            "Risk on unseen sections", curve["predicted"], curve["observed"]
        ),
        "predicted_against_actual": plots.agreement(
            "Grades on unseen sections", sample["predicted"], sample["actual"]
        ),
    }


def _check_results(training: "Training") -> list[AssetCheckResult]:
    blocking = {spec.name for spec in _CONDITIONS if spec.blocking}
    return [
        AssetCheckResult(
            check_name=verdict.name,
            passed=verdict.passed,
            severity=AssetCheckSeverity.ERROR
            if verdict.name in blocking
            else AssetCheckSeverity.WARN,
            metadata=verdict.figures,
        )
        for verdict in training.verdicts
    ]


@asset(
    group_name="models",
    deps=["grade_snapshots", "baseline_model"],
    partitions_def=course,
    backfill_policy=many_courses,
    kinds={"scikitlearn", "postgres"},
    owners=["team:ml-engineering"],
    code_version="1",
    metadata={"dagster/table_name": "ensemble.grade_prediction"},
)
def grade_predictions(
    context: AssetExecutionContext, platform: ResourceParam[Platform]
) -> MaterializeResult[None]:
    """Predict grade, intervals and risk of every running enrollment with the champion."""
    from grade_ml.ensemble.scoring import score_running

    root, courses = platform.settings.storage_root, context.partition_keys
    with platform.connection() as connection:
        scored = score_running(connection, platform.registry, root, courses, platform.as_of)
    for key in courses:
        figures = scored.of_course(key)
        rows = figures.pop("rows")
        context.add_asset_metadata({"dagster/row_count": rows, **figures}, partition_key=key)
    return MaterializeResult(
        metadata={
            "as_of": platform.as_of.isoformat(),
            "model_version": scored.version.version,
            "degraded": list(scored.degraded),
        }
    )


MODEL_ASSETS = [baseline_model, grade_predictions]
