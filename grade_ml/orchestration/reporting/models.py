"""Metadata of the trainings of grade and risk, and of their predictions."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dagster import AssetCheckResult, AssetCheckSeverity, MetadataValue

from grade_ml.core import quantities
from grade_ml.core.process import peak_megabytes
from grade_ml.orchestration import plots
from grade_ml.orchestration.courses import Courses

if TYPE_CHECKING:
    from grade_ml.ensemble.evaluation import Evaluation
    from grade_ml.ensemble.pooled import PooledModel
    from grade_ml.serving.scoring import Scored
    from grade_ml.training.course import CourseOutcome
    from grade_ml.training.steps import Training
    from grade_ml.training.tuning import Study


def of_training(training: "Training[Any]", seconds: float) -> dict[str, Any]:
    """Return the outcome of a training that took this many seconds, and the model's figures."""
    version, evaluation = training.version, training.model.evaluation
    return {
        "model_version": version.version,
        "champion": training.accepted,
        "fitted": training.fitted,
        "outcome": training.reason or "fitted",
        **_pictures(evaluation),
        "phases": _phases(evaluation),
        **evaluation.metrics["all"],
        "sections": len(training.model.sections),
        "features": len(training.model.features),
        "feature_list": ", ".join(training.model.features),
        "training_seconds": seconds,
        "peak_megabytes": peak_megabytes(),
        "data_version": version.data_version,
        "manifest_sha256": version.manifest_sha256,
    }


def of_ensemble(training: "Training[PooledModel]", seconds: float) -> dict[str, Any]:
    """Return the same for the ensemble, with its card and the search for its parameters."""
    from grade_ml.training.card import card

    model = training.model
    return {
        **of_training(training, seconds),
        **_searches(training.studies),
        "model_card": MetadataValue.md(card(model, training.version)),
        "degraded": list(model.degraded),
    }


def of_corrections(outcomes: "Sequence[CourseOutcome]", courses: Courses) -> dict[str, Any]:
    """Return how many courses are corrected, and add the outcome of each to `courses`."""
    for outcome in outcomes:
        figures = {"kept": outcome.kept, "fitted": outcome.fitted, "outcome": outcome.reason}
        courses.add_asset_metadata(figures, partition_key=outcome.course_id)
    return {
        "courses": len(outcomes),
        "corrected": sum(outcome.kept for outcome in outcomes),
        "fitted": sum(outcome.fitted for outcome in outcomes),
    }


def of_predictions(scored: "Scored", courses: Courses) -> dict[str, Any]:
    """Return the models that predicted, and add figures of each course to `courses`."""
    for key in courses.keys:
        figures = scored.of_course(key)
        rows = figures.pop("rows")
        courses.add_asset_metadata({"dagster/row_count": rows, **figures}, partition_key=key)
    return {
        "models": list(scored.models),
        "shadows": list(scored.shadows),
        "degraded": list(scored.degraded),
    }


def _phases(evaluation: "Evaluation") -> MetadataValue:
    """Return a row for each figure, with a column for each third of a section."""
    from grade_ml.ensemble.evaluation import PHASES

    # A stored evaluation has its phases in alphabetical order.
    return plots.table(
        quantities.turned({phase: evaluation.metrics[phase] for phase in (*PHASES, "all")})
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
        "tuning_importance": plots.shares("Parameters that mattered", importance),
        "tuning_trials": sum(study.trials for study in studies),
    }


def check_results(training: "Training[Any]") -> list[AssetCheckResult]:
    """Return a training's verdicts; one that is not passed warns, for another model predicts."""
    return [
        AssetCheckResult(
            check_name=verdict.name,
            passed=verdict.passed,
            severity=AssetCheckSeverity.WARN,
            metadata=verdict.figures,
            description=verdict.text or None,
        )
        for verdict in training.verdicts
    ]
