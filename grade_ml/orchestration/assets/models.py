"""The group `models`: the trained baseline and the predictions made with the champion."""

from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING

from dagster import (
    AssetCheckSpec,
    AssetExecutionContext,
    DataVersion,
    MaterializeResult,
    ResourceParam,
    asset,
)

from grade_ml.orchestration.assets.reads import OUTCOMES, SERVED, SURROUNDINGS
from grade_ml.orchestration.courses import Courses, course_asset
from grade_ml.orchestration.degradation import complete, is_complete
from grade_ml.orchestration.queue import ML_TASKS
from grade_ml.orchestration.reporting import forecasts, models
from grade_ml.orchestration.resources import Platform
from grade_ml.orchestration.steps import step

if TYPE_CHECKING:
    from grade_ml.registry.registry import ModelVersion

_DESCRIPTIONS = {
    "better_than_naive": "On unseen sections, it has a smaller error than the points so far.",
    "better_than_baseline": "On the same rows of unseen sections, one of its errors is smaller "
    "than the baseline's by a standard error over sections, and none is larger by more than 1%.",
    "intervals_cover": "On unseen sections, the intervals have their nominal coverage.",
    "calibrated": "On unseen sections, of those with a risk of 30% about 30% are at risk.",
    "explanations_add_up": "The contributions of the features add up to each member's prediction.",
    "keeps_up_with_champion": "On the sections common to both, it is not clearly worse than the "
    "champion.",
}


def _conditions(model: str, *names: str) -> list[AssetCheckSpec]:
    return [AssetCheckSpec(name, asset=model, description=_DESCRIPTIONS[name]) for name in names]


#: A version that fails one of these stays a candidate. The run continues: the earlier champion, or
#: the next model in line, predicts.
_BASELINE = _conditions(
    "baseline_model", "better_than_naive", "intervals_cover", "keeps_up_with_champion"
)
_POOLED = _conditions(
    "pooled_ensemble",
    "better_than_naive",
    "better_than_baseline",
    "intervals_cover",
    "calibrated",
    "explanations_add_up",
)
_TRAJECTORY = [
    AssetCheckSpec(
        "better_than_naive",
        asset="trajectory_model",
        description="On unseen sections, it has a smaller error than the best naive forecaster.",
    ),
    *_conditions("trajectory_model", "intervals_cover"),
]


@asset(
    group_name="models",
    deps=["grade_snapshots", *OUTCOMES],
    check_specs=_BASELINE,
    kinds={"scikitlearn", "mlflow"},
    owners=["team:ml-engineering"],
    code_version="1",
    pool=ML_TASKS,
)
@step
def baseline_model(platform: ResourceParam[Platform]) -> MaterializeResult:  # type: ignore[type-arg]
    """Train the traditional model of final grade and risk, one for all courses."""
    from grade_ml.training import baseline
    from grade_ml.training.data import TrainingData

    started = perf_counter()
    with platform.workspace() as workspace:
        data = TrainingData.read(workspace)
    training = baseline.train(data, workspace.stages, workspace.seed)
    return MaterializeResult(
        metadata=models.of_training(training, perf_counter() - started),
        check_results=models.check_results(training),
        data_version=_data_version(training.version),
    )


def _data_version(version: "ModelVersion") -> DataVersion:
    return DataVersion(f"{version.version}-{version.data_version}")


@asset(
    group_name="models",
    deps=["grade_snapshots", "baseline_model", "external_features", *OUTCOMES],
    check_specs=[*_POOLED, complete("pooled_ensemble")],
    kinds={"xgboost", "lightgbm", "catboost", "scikitlearn", "mlflow"},
    owners=["team:ml-engineering"],
    code_version="1",
    pool=ML_TASKS,
)
@step
def pooled_ensemble(
    context: AssetExecutionContext, platform: ResourceParam[Platform]
) -> MaterializeResult:  # type: ignore[type-arg]
    """Train the ensemble of all courses: five tuned members, stacked."""
    from grade_ml.training import pooled
    from grade_ml.training.data import TrainingData
    from grade_ml.training.tuning import tune

    started = perf_counter()
    with platform.workspace() as workspace:
        data = TrainingData.read(workspace)
    search = partial(
        tune,
        storage_url=platform.urls.grade_ml,
        seconds=platform.settings.tuning_seconds,
        pseudonyms=platform.registry.pseudonyms,
        on_progress=context.log.info,
    )
    training = pooled.train(data, platform.workspace, tune=search, on_progress=context.log.info)
    return MaterializeResult(
        metadata=models.of_ensemble(training, perf_counter() - started),
        check_results=[
            *models.check_results(training),
            is_complete(training.model.degraded),
        ],
        data_version=_data_version(training.version),
    )


@course_asset(
    group_name="models",
    deps=["grade_snapshots", "baseline_model", "pooled_ensemble", *SURROUNDINGS, *OUTCOMES],
    kinds={"scipy", "mlflow"},
    owners=["team:ml-engineering"],
    code_version="1",
    pool=ML_TASKS,
    metadata={"feedback": "concept_drift, drift_report and model_health of earlier days"},
)
def course_ensemble(courses: Courses, platform: Platform) -> MaterializeResult[None]:
    """Correct the pooled ensemble for a course, and use the correction only if it is better.

    It answers the requests in `training.request`. If the change of a course is confirmed, it also
    reads `concept_drift` and `drift_report` of earlier days: the feedback from monitoring to
    training, which the graph cannot show, since monitoring comes after predictions.
    """
    from grade_ml.monitoring import feedback
    from grade_ml.training import course, requests

    with platform.workspace() as workspace:
        changes = feedback.changes(workspace, platform.models)
    outcomes = list(course.train(courses.keys, platform.workspace, changes))
    answers = [
        requests.Answer(outcome.course_id, outcome.reason, outcome.version) for outcome in outcomes
    ]
    with platform.workspace() as workspace:
        requests.answer(workspace.connection, answers, courses.run_id, platform.clock.now())
    return MaterializeResult(metadata=models.of_corrections(outcomes, courses))


@course_asset(
    group_name="models",
    deps=["grade_snapshots", "sections", *SERVED, *SURROUNDINGS],
    kinds={"scikitlearn", "postgres"},
    owners=["team:ml-engineering"],
    code_version="1",
    metadata={
        "dagster/table_name": "ensemble.grade_prediction",
        "feedback": "experiments that were opened before: which versions predict in the shadow",
    },
    check_specs=[complete("grade_predictions")],
)
def grade_predictions(courses: Courses, platform: Platform) -> MaterializeResult:  # type: ignore[type-arg]
    """Predict grade, intervals and risk of every running enrollment, also by shadow versions.

    Predictions of shadow versions are compared with those of the champion and serve nobody.
    """
    from grade_ml.experiments import store
    from grade_ml.serving.scoring import score_running

    with platform.workspace() as workspace:
        shadows = store.compared(workspace.connection)
        scored = score_running(workspace, courses.keys, shadows)
    return MaterializeResult(
        metadata={
            "as_of": platform.as_of.isoformat(),
            **models.of_predictions(scored, courses),
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
    pool=ML_TASKS,
)
@step
def trajectory_model(
    context: AssetExecutionContext, platform: ResourceParam[Platform]
) -> MaterializeResult:  # type: ignore[type-arg]
    """Train the forecasters of remaining scores, their bands and risk, if much has changed."""
    from grade_ml.training.trajectory import train_trajectory

    training = train_trajectory(platform.workspace, on_progress=context.log.info)
    return MaterializeResult(
        metadata={"as_of": platform.as_of.isoformat(), **forecasts.of_model(training)},
        check_results=[
            *models.check_results(training),
            is_complete(training.model.degraded),
        ],
        data_version=_data_version(training.version),
    )


MODEL_ASSETS = [
    baseline_model,
    pooled_ensemble,
    course_ensemble,
    grade_predictions,
    trajectory_model,
]
