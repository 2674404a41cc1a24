"""The group `models`: the trained baseline and the predictions made with the champion."""

from collections.abc import Mapping, Sequence
from functools import partial
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
    TableRecord,
    asset,
)

from grade_ml.core.process import peak_megabytes
from grade_ml.orchestration import plots
from grade_ml.orchestration.courses import Courses, course_asset
from grade_ml.orchestration.degradation import complete, is_complete
from grade_ml.orchestration.reporting import forecasts
from grade_ml.orchestration.resources import Platform
from grade_ml.orchestration.retrying import retried

if TYPE_CHECKING:
    from grade_ml.ensemble.evaluation import Evaluation
    from grade_ml.training.baseline import Training
    from grade_ml.training.tuning import Study

_DESCRIPTIONS = {
    "better_than_naive": "On sections it had not seen, it errs less than the points so far do.",
    "better_than_baseline": "On sections it had not seen, it errs less than the baseline does.",
    "intervals_cover": "On sections it had not seen, the intervals hold what they promise.",
    "calibrated": "On sections it had not seen, of those with a risk of 30% about 30% are at risk.",
    "explanations_add_up": "The contributions of the features add up to each member's number.",
    "keeps_up_with_champion": "On the sections that both know, it is not clearly worse than the "
    "champion.",
}


def _conditions(model: str, *names: str, blocking: bool) -> list[AssetCheckSpec]:
    return [
        AssetCheckSpec(name, asset=model, blocking=blocking, description=_DESCRIPTIONS[name])
        for name in names
    ]


#: A version that fails one of these is registered but does not serve. Where it is not blocking,
#: the run goes on with the earlier champion; where it is, the run stops, and champion and
#: predictions stay as they were.
_BASELINE = [
    *_conditions("baseline_model", "better_than_naive", "intervals_cover", blocking=True),
    *_conditions("baseline_model", "keeps_up_with_champion", blocking=False),
]
_POOLED = [
    *_conditions(
        "pooled_ensemble",
        "better_than_naive",
        "intervals_cover",
        "calibrated",
        "explanations_add_up",
        blocking=True,
    ),
    *_conditions("pooled_ensemble", "better_than_baseline", blocking=False),
]
#: Not blocking: where one fails, the model before it serves on.
_TRAJECTORY = [
    AssetCheckSpec(
        "better_than_naive",
        asset="trajectory_model",
        description="On sections it had not seen, it errs less than the best naive forecaster.",
    ),
    *_conditions("trajectory_model", "intervals_cover", blocking=False),
]
_TRUTH = ["sections", "enrollments", "assignments", "results"]


@asset(
    group_name="models",
    deps=["grade_snapshots", *_TRUTH],
    check_specs=_BASELINE,
    kinds={"scikitlearn", "mlflow"},
    owners=["team:ml-engineering"],
    code_version="1",
    pool="training",
)
@retried
def baseline_model(platform: ResourceParam[Platform]) -> MaterializeResult:  # type: ignore[type-arg]
    """Train the traditional model of final grade and risk, one for all courses."""
    from grade_ml.training.baseline import TrainingData, finished_in, train

    started = perf_counter()
    with platform.workspace() as workspace:
        results = finished_in(workspace.connection, platform.as_of, platform.institution)
    data = TrainingData.stored(workspace.frames, results, platform.declared)
    training = train(data, platform.stages, trained_at=platform.clock.now())
    return MaterializeResult(
        metadata=_training_metadata(training, perf_counter() - started),
        check_results=_check_results(training, _BASELINE),
        data_version=DataVersion(f"{training.version.version}-{training.version.data_version}"),
    )


def _training_metadata(training: "Training[Any]", seconds: float) -> dict[str, Any]:
    version, evaluation = training.version, training.model.evaluation
    overall = {f"all_{name}": value for name, value in _known(evaluation.metrics["all"]).items()}
    return {
        "model_version": version.version,
        "champion": training.accepted,
        "fitted": training.fitted,
        "outcome": training.reason or "fitted",
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


def _phases(evaluation: "Evaluation") -> MetadataValue:
    """Return one row for each third of a section."""
    return plots.table(
        [TableRecord({"phase": phase, **figures}) for phase, figures in evaluation.metrics.items()]
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


def _searches(studies: "Sequence[Study]") -> dict[str, Any]:
    """Return how the searches for parameters went, and which parameters mattered."""
    if not studies:
        return {}
    tasks = sorted({str(study.task) for study in studies})
    history = {
        task: {study.member: study.progress for study in studies if study.task == task}
        for task in tasks
    }
    importance = {
        task: {study.member: study.importance for study in studies if study.task == task}
        for task in tasks
    }
    return {
        "tuning": plots.histories("Loss of the best parameters so far", history),
        "tuning_importance": plots.shares("What told good parameters from bad", importance),
        "tuning_trials": sum(study.trials for study in studies),
    }


def _check_results(
    training: "Training[Any]", conditions: list[AssetCheckSpec]
) -> list[AssetCheckResult]:
    blocking = {spec.name for spec in conditions if spec.blocking}
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
    deps=["grade_snapshots", "baseline_model", "external_features", *_TRUTH],
    check_specs=[*_POOLED, complete("pooled_ensemble")],
    kinds={"xgboost", "lightgbm", "catboost", "scikitlearn", "mlflow"},
    owners=["team:ml-engineering"],
    code_version="1",
    pool="training",
)
@retried
def pooled_ensemble(
    context: AssetExecutionContext, platform: ResourceParam[Platform]
) -> MaterializeResult:  # type: ignore[type-arg]
    """Train the ensemble of all courses: five tuned members and the naive forecasts, stacked."""
    from grade_ml.training.baseline import TrainingData, finished_in
    from grade_ml.training.card import card
    from grade_ml.training.ensembles import train_pooled
    from grade_ml.training.tuning import tune

    started = perf_counter()
    with platform.workspace() as workspace:
        results = finished_in(workspace.connection, platform.as_of, platform.institution)
        training = train_pooled(
            TrainingData.stored(workspace.frames, results, platform.declared),
            platform.stages,
            workspace.connection,
            trained_at=platform.clock.now(),
            tune=partial(
                tune,
                storage_url=platform.urls.grade_ml,
                seconds=platform.settings.tuning_seconds,
                pseudonyms=platform.registry.pseudonyms,
                on_progress=context.log.info,
            ),
            on_progress=context.log.info,
        )
    return MaterializeResult(
        metadata=_training_metadata(training, perf_counter() - started)
        | {
            **_searches(training.studies),
            "model_card": MetadataValue.md(card(training.model, training.version)),
            "degraded": list(training.model.degraded),
            "choices": dict(training.model.choices),
        },
        check_results=[
            *_check_results(training, _POOLED),
            is_complete(training.model.degraded),
        ],
        data_version=DataVersion(f"{training.version.version}-{training.version.data_version}"),
    )


@course_asset(
    group_name="models",
    deps=["grade_snapshots", "pooled_ensemble", *_TRUTH],
    kinds={"scipy", "mlflow"},
    owners=["team:ml-engineering"],
    code_version="1",
    pool="training",
)
def course_ensemble(courses: Courses, platform: Platform) -> MaterializeResult[None]:
    """Correct the pooled ensemble for a course, and keep the correction only where it wins.

    It answers what was asked of it in `training.request`. Of a course whose change is confirmed it
    also reads what `concept_drift` and `drift_report` of earlier days say: the way back from
    monitoring to training, which the graph cannot show, since monitoring follows on predictions.
    """
    from grade_ml.monitoring import feedback
    from grade_ml.training import requests
    from grade_ml.training.ensembles import train_courses

    with platform.workspace() as workspace:
        connection = workspace.connection
        outcomes = list(
            train_courses(
                courses.keys,
                workspace.root,
                workspace.as_of,
                platform.stages,
                connection,
                trained_at=platform.clock.now(),
                institution=workspace.institution,
                changes=feedback.changes(workspace, platform.models),
            )
        )
        answers = [requests.Answer(one.course_id, one.reason) for one in outcomes]
        requests.answer(connection, answers, courses.run_id, platform.clock.now())
    for one in outcomes:
        figures = {"kept": one.kept, "fitted": one.fitted, "outcome": one.reason}
        courses.add_asset_metadata(figures, partition_key=one.course_id)
    return MaterializeResult(
        metadata={
            "courses": len(outcomes),
            "corrected": sum(one.kept for one in outcomes),
            "fitted": sum(one.fitted for one in outcomes),
        }
    )


@course_asset(
    group_name="models",
    deps=["grade_snapshots", "baseline_model", "pooled_ensemble", "course_ensemble"],
    kinds={"scikitlearn", "postgres"},
    owners=["team:ml-engineering"],
    code_version="1",
    metadata={"dagster/table_name": "ensemble.grade_prediction"},
    check_specs=[complete("grade_predictions")],
)
def grade_predictions(courses: Courses, platform: Platform) -> MaterializeResult:  # type: ignore[type-arg]
    """Predict grade, intervals and risk of every running enrollment: champion and challenger."""
    from grade_ml.serving.scoring import score_running

    root, keys = platform.settings.storage_root, courses.keys
    with platform.connection() as connection:
        scored = score_running(connection, platform.registry, root, keys, platform.as_of)
    for key in keys:
        figures = scored.of_course(key)
        rows = figures.pop("rows")
        courses.add_asset_metadata({"dagster/row_count": rows, **figures}, partition_key=key)
    return MaterializeResult(
        metadata={
            "as_of": platform.as_of.isoformat(),
            "models": list(scored.models),
            "challenged": scored.challenged,
            "degraded": list(scored.degraded),
        },
        check_results=[is_complete(scored.degraded)],
    )


@asset(
    group_name="models",
    deps=["grade_snapshots", "score_sequences", "sections"],
    check_specs=[*_TRAJECTORY, complete("trajectory_model")],
    kinds={"lightgbm", "tensorflow", "mlflow"},
    owners=["team:ml-engineering"],
    code_version="1",
    pool="training",
)
@retried
def trajectory_model(
    context: AssetExecutionContext, platform: ResourceParam[Platform]
) -> MaterializeResult:  # type: ignore[type-arg]
    """Train the forecasters of remaining scores, their bands and risk, where much has changed."""
    from grade_ml.training.trajectory import train_trajectory

    training = train_trajectory(platform.workspace, on_progress=context.log.info)
    return MaterializeResult(
        metadata={"as_of": platform.as_of.isoformat(), **forecasts.of_model(training)},
        check_results=[
            *_check_results(training, _TRAJECTORY),
            is_complete(training.model.degraded),
        ],
        data_version=DataVersion(f"{training.version.version}-{training.version.data_version}"),
    )


MODEL_ASSETS = [
    baseline_model,
    pooled_ensemble,
    course_ensemble,
    grade_predictions,
    trajectory_model,
]
