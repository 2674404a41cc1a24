"""Runs jobs in this process, calls the engine, and prints what came of it as one line of JSON.

`python -m grade_ml_tests.orchestration.pipeline JOB… [engine]`, for tests that lack libraries. It
lists the libraries of optional families that the jobs imported, too.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from typing import Any

from grade_ml.core.errors import GradeMLError
from grade_ml.core.optional import FAMILIES
from grade_ml.core.settings import Settings
from grade_ml.engine import GradePrediction, ModelExplanation, PredictiveAnalyticsEngine
from grade_ml.ensemble import importance
from grade_ml.external.settings import ExternalSettings
from grade_ml.forecasting.settings import SETTINGS
from grade_ml.orchestration.build import build_defs
from grade_ml.orchestration.degradation import completeness
from grade_ml.orchestration.instance import open_instance
from grade_ml.orchestration.running import run_job

#: Beside the jobs: the engine is called as well.
ENGINE = "engine"
#: The network learned for 31 of the 40 s that the forecasters of two courses take.
FASTER = {"epochs": 1, "folds": 2}
#: Fits by which a training measures how much importance varies, of eight.
FITS = 2


def main(jobs: list[str]) -> dict[str, Any]:
    for field, value in FASTER.items():
        object.__setattr__(SETTINGS, field, value)  # every module has this very object
    object.__setattr__(importance.SETTINGS, "fits", FITS)
    settings = Settings.from_environment()
    definitions = build_defs(settings, ExternalSettings.from_environment())
    failures = {}
    with open_instance(settings) as instance:
        for name in [job for job in jobs if job != ENGINE]:
            report = run_job(settings, instance, name, definitions=definitions)
            failures |= {f"{name}: {step}": why for step, why in report.failures.items()}
        incomplete = completeness(instance)
    libraries = {name for family in FAMILIES for name in family.libraries}
    return {
        "failures": failures,
        "incomplete": incomplete,
        "imported": sorted(libraries & {name for name, module in sys.modules.items() if module}),
        "engine": answers(settings) if ENGINE in jobs else {},
    }


def answers(settings: Settings) -> dict[str, Any]:
    """Return the engine's answers on a student; an error by its name and words."""
    with PredictiveAnalyticsEngine(settings) as engine:
        predictions = engine.predict_final_grades().answers
        prediction = predictions[0]
        ids = prediction.student_id, prediction.course_id
        calls: dict[str, Callable[[], Any]] = {
            "prediction": lambda: prediction,
            "explanation": lambda: engine.get_model_explanations(*ids),
            "what_if": lambda: within_reach(engine, predictions),
            "pairs": lambda: engine.get_model_explanations(*ids, pairs=2),
            "forecast": lambda: engine.generate_time_series_forecast(*ids),
        }
        return {name: _answer(call) for name, call in calls.items()}


def within_reach(
    engine: PredictiveAnalyticsEngine, predictions: Iterable[GradePrediction]
) -> ModelExplanation:
    """Return what the first can do who can do something, for a goal between now and the best."""
    for prediction in predictions:
        ids = prediction.student_id, prediction.course_id
        most = engine.get_model_explanations(*ids, goal=100.0).what_if
        if most and (most.best or 0.0) > (most.as_so_far or 0.0):
            goal = ((most.as_so_far or 0.0) + (most.best or 0.0)) / 2
            return engine.get_model_explanations(*ids, goal=goal)
    raise AssertionError("Nobody can do anything.")


def _answer(call: Callable[[], Any]) -> Any:
    try:
        return call().to_dict()
    except GradeMLError as error:
        return {"error": type(error).__name__, "message": str(error)}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1:])))
