"""The part of `drift.py` about the loop: answers to a change, and false alarms.

Nothing is run from here; `python benchmarks/drift.py --only loop` does. Each campus has stores of
its own (PostgreSQL, MLflow, snapshots) and goes through its newest term week by week: predictions,
reports, decision, training again, as schedules and sensor would have it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, fields
from datetime import UTC, date, datetime, timedelta
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import sqlalchemy as sa
from sqlalchemy import Engine
from threadpoolctl import threadpool_limits

from grade_ml.campus import simulated
from grade_ml.campus.simulated.calendar import LENGTH, newest_term
from grade_ml.core import database
from grade_ml.core.pseudonyms import Pseudonyms
from grade_ml.ensemble import pooled
from grade_ml.ensemble.names import POOLED
from grade_ml.ensemble.pooled import Parameters, PooledModel
from grade_ml.features.snapshots import grade_snapshots, weekly_cuts
from grade_ml.features.store import Frames
from grade_ml.gradebook import schema
from grade_ml.gradebook.frames import Gradebook
from grade_ml.gradebook.institution import DEFAULTS
from grade_ml.monitoring import feedback, nightly
from grade_ml.monitoring.performance import Performance
from grade_ml.monitoring.retraining import decided, permitted
from grade_ml.registry.history import Stage
from grade_ml.registry.registry import Registry
from grade_ml.registry.transition import Evidence, Stages
from grade_ml.registry.workspace import Workspace
from grade_ml.serving.models import Models
from grade_ml.serving.predictions import read_predictions
from grade_ml.serving.scoring import score_running
from grade_ml.training import course
from grade_ml.training.course import changed_since
from grade_ml.training.data import finished
from grade_ml.training.requests import Request
from installation import opening, temporary_installation

#: The newest term; the model is trained in its seventh week and grading changes in its twelfth.
TERM = newest_term(date(2025, 11, 1))
TRAINED = TERM.starts_on + timedelta(days=49)
CHANGE = TERM.starts_on + timedelta(days=80)
ENDED = TERM.starts_on + timedelta(days=LENGTH + 1)
WEEK = timedelta(days=7)
SHIFT = -15.0
KEYS = ["section_id", "student_id"]


@dataclass
class Term:
    """What happened on one campus; errors (RMSE, points) are from two weeks after the alarm on."""

    seed: int
    requested: dict[date, list[str]] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)
    error: float = np.nan
    error_of_told: float = np.nan
    error_untrained: float = np.nan

    @property
    def weeks(self) -> list[float]:
        """Weeks from the change to each day on which training was requested."""
        return [(day - CHANGE).days / 7 for day in self.requested]


def loop(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return how soon a change of grading is answered on simulated campuses, and the false alarms.

    A campus without a change requests training wrongly if it does so at any time of its term.
    """
    jobs = [(seed, True) for seed in range(arguments.changed)]
    jobs += [(seed, False) for seed in range(arguments.campuses)]
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        work = partial(_term, students=arguments.students, courses=arguments.courses)
        terms = list(pool.map(work, *zip(*jobs, strict=True)))
    changed, same = terms[: arguments.changed], terms[arguments.changed :]
    first = [min((week for week in term.weeks if week >= 0), default=np.inf) for term in changed]
    requests = [[name for names in term.requested.values() for name in names] for term in changed]
    invented = float(np.mean([bool(term.requested) for term in same])) if same else np.nan
    ratios = [term.error / term.error_of_told for term in changed]
    return {
        "loop": {
            "weeks_to_alarm": float(np.median(first)),
            "weeks_of_each": [round(week, 1) for week in first],
            "false_before_change": sum(week < 0 for term in changed for week in term.weeks),
            "courses_trained": float(np.mean([len(set(names)) for names in requests]))
            if changed
            else 0,
            "retrainings": max(
                (names.count(name) for names in requests for name in names), default=0
            ),
            "error_ratio": round(float(np.median(ratios)), 3) if changed else None,
            "error_ratio_of_each": [round(ratio, 3) for ratio in ratios],
            "error_ratio_untrained": [
                round(term.error_untrained / term.error_of_told, 3) for term in changed
            ],
            "false_retrain_share": invented,
            "false_retrain_share_se": round(
                float(np.sqrt(invented * (1 - invented) / max(len(same), 1))), 3
            ),
            "false_courses": sum(len(names) for term in same for names in term.requested.values()),
        }
    }


def _term(seed: int, is_changed: bool, students: int, courses: int) -> Term:
    """Replay the newest term of one campus."""
    campus = partial(_campus, seed, students, courses)
    with threadpool_limits(1), temporary_installation() as (settings, engine):
        model = _model(campus(None))
        gradebook = simulated.gradebook(campus(CHANGE if is_changed else None), ENDED)
        snapshots = grade_snapshots(gradebook, weekly_cuts(gradebook.sections, ENDED), ENDED)
        root = settings.storage_root
        _store(engine, gradebook)
        registry = Registry(database.start(settings).mlflow, root, Pseudonyms(b"benchmark"))
        # As of the first replayed day: every later day reads them.
        frames = Frames(root, TRAINED, registry.pseudonyms)
        for course, rows in snapshots.groupby("course_id", observed=True):
            frames.write(str(course), rows)
        _register(engine, registry, model)
        term = Term(seed)
        _replay(term, engine, registry, root, sorted(gradebook.courses["course_id"]))
        if is_changed:
            informed = _model(campus(date(2000, 1, 1)))
            after = min((day for day in term.requested if day >= CHANGE), default=CHANGE) + 2 * WEEK
            _judge(term, engine, gradebook, snapshots, after, informed, model)
    reasons = "; ".join(term.reasons[-2:])
    weeks = {f"{(day - CHANGE).days / 7:.1f}": len(names) for day, names in term.requested.items()}
    errors = f"{term.error:.2f} {term.error_of_told:.2f} {term.error_untrained:.2f}"
    print(
        "changed" if is_changed else "same",
        seed,
        weeks,
        errors,
        reasons,
        file=sys.stderr,
        flush=True,
    )
    return term


def _campus(seed: int, students: int, courses: int, on: date | None) -> simulated.CampusConfig:
    drift = simulated.Drift(on, simulated.DriftKind.GRADING_POLICY, SHIFT) if on else None
    return simulated.CampusConfig(
        students=students, courses=courses, terms=5, seed=seed, drift=drift
    )


def _model(config: simulated.CampusConfig) -> PooledModel:
    """Fit every member, briefly, on every other week of the terms that had ended."""
    gradebook = simulated.gradebook(config, TRAINED)
    cuts = weekly_cuts(gradebook.sections, TRAINED)
    rows = grade_snapshots(gradebook, cuts[cuts["cut_day"] % 14 == 0], TRAINED)
    return pooled.fit(
        rows,
        finished(gradebook, TRAINED, DEFAULTS),
        0,
        Pseudonyms(b"benchmark"),
        parameters=brief(),
    )


def brief() -> Parameters:
    """Return parameters of every member with which a fit takes seconds."""
    brief = {"rounds": 40, "learning_rate": 0.15, "depth": 4, "max_depth": 4, "num_leaves": 8}
    parameters = pooled.default_parameters()
    for members in parameters.values():
        for name, values in members.items():
            changes = {"epochs": 6, "units": 16} if name == "mlp" else brief
            values |= {key: changes[key] for key in values.keys() & changes.keys()}
    return parameters


def _store(engine: Engine, gradebook: Gradebook) -> None:
    with engine.begin() as connection:
        for table, part in zip(schema.TABLES, fields(gradebook), strict=True):
            database.copy_frame(connection, table.fullname, getattr(gradebook, part.name))
        counts: dict[str, Any] = {
            name: {} for name in ("rows_loaded", "rows_unchanged", "rows_removed")
        }
        connection.execute(
            sa.insert(schema.load).values(
                source="simulated",
                loaded_at=datetime(ENDED.year, ENDED.month, ENDED.day, tzinfo=UTC),
                rows_quarantined=0,
                **counts,
            )
        )


def _register(engine: Engine, registry: Registry, model: PooledModel) -> None:
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder))
        version = registry.register(
            POOLED,
            Path(folder),
            metrics=model.evaluation.flat(),
            parameters={},
            features=model.features,
            data_version="",
            code_version="",
            trained_at=datetime(TRAINED.year, TRAINED.month, TRAINED.day, tzinfo=UTC),
        )
    stages = Stages(engine, registry, version.trained_at)
    for stage in (Stage.CHALLENGER, Stage.CHAMPION):
        stages.transition(version, stage, Evidence("the model of the benchmark"))


def _replay(term: Term, engine: Engine, registry: Registry, root: str, names: list[str]) -> None:
    requests: dict[str, Request] = {}
    day = TRAINED
    while day < ENDED:
        with engine.begin() as connection:
            now = datetime(day.year, day.month, day.day, tzinfo=UTC)
            workspace, models = Workspace(connection, registry, root, day, now), Models(registry)
            score_running(workspace, names)
            losses = nightly.performance(workspace, models, names)
            nightly.concept(workspace, models, names)
            if any(isinstance(loss, Performance) and loss.says for loss in losses.values()):
                nightly.drift(workspace, models, names)  # decides only together with loss
            act, _ = permitted(decided(connection, day), requests, (), day)
            # Courses with a known change are trained again in every nightly run.
            again = set(changed_since(connection)) | act.keys()
            if again:
                changes = feedback.changes(workspace, models)
                done = course.train(sorted(again), opening(engine, registry, root, now), changes)
                outcomes = [f"{outcome.course_id}: {outcome.reason}" for outcome in done]
            if act:
                term.requested[day] = sorted(act)
                term.reasons += [act[name].reason for name in sorted(act)] + outcomes
                requests |= {name: Request(name, "", None, day, "", True) for name in act}
        day += WEEK


def _judge(  # noqa: PLR0913, PLR0917 - three models on the same rows
    term: Term,
    engine: Engine,
    gradebook: Gradebook,
    snapshots: pd.DataFrame,
    after: date,
    informed: PooledModel,
    untrained: PooledModel,
) -> None:
    """Set the errors of stored predictions, of a model that knows the change, and of the first."""
    running = gradebook.sections.loc[
        gradebook.sections["starts_on"] == pd.Timestamp(TERM.starts_on), "section_id"
    ]
    late = (snapshots["cut_on"] >= pd.Timestamp(after)) & (
        snapshots["section_id"].astype(str).isin(running)
    )
    rows = snapshots[late].reset_index(drop=True)
    outcomes = finished(gradebook, ENDED, DEFAULTS).astype(dict.fromkeys(KEYS, str))
    with engine.connect() as connection:
        parts = [
            read_predictions(connection, as_of=day, sections=list(running)).assign(
                cut_on=pd.Timestamp(day)
            )
            for day in sorted(rows["cut_on"].dt.date.unique())
        ]
    stored = pd.concat(parts).astype(dict.fromkeys(KEYS, str))
    stored = stored[pd.to_datetime(stored["as_of"]) == stored["cut_on"]]
    both = rows[[*KEYS, "cut_on"]].astype(dict.fromkeys(KEYS, str))
    both = both.assign(
        told=informed.predict(rows)["grade"], untrained=untrained.predict(rows)["grade"]
    )
    both = both.merge(stored[[*KEYS, "cut_on", "grade"]], on=[*KEYS, "cut_on"])
    both = both.merge(outcomes[[*KEYS, "final_grade"]], on=KEYS)
    term.error, term.error_of_told, term.error_untrained = (
        float(np.sqrt(((both[name] - both["final_grade"]) ** 2).mean()))
        for name in ("grade", "told", "untrained")
    )
