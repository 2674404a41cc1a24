"""A small simulated campus with an ensemble, stored snapshots and weekly predictions."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cache
from pathlib import Path

import pandas as pd
import sqlalchemy as sa
from sqlalchemy import Engine

from grade_ml.campus import simulated
from grade_ml.core.settings import Settings
from grade_ml.ensemble import pooled
from grade_ml.ensemble.names import POOLED
from grade_ml.ensemble.pooled import PooledModel
from grade_ml.features.snapshots import grade_snapshots, weekly_cuts
from grade_ml.features.store import Frames
from grade_ml.gradebook import schema
from grade_ml.gradebook.frames import Gradebook
from grade_ml.gradebook.institution import DEFAULTS
from grade_ml.registry.history import Stage
from grade_ml.registry.registry import ModelVersion, Registry
from grade_ml.serving.predictions import write_predictions
from grade_ml.training.data import finished
from grade_ml_tests.ensemble.campus import store
from grade_ml_tests.ensemble.quick import quick
from grade_ml_tests.factories import PSEUDONYMS, bring

#: The newest term starts on 4 August; training ends in its seventh week.
TRAINED, TODAY = date(2025, 9, 22), date(2025, 11, 24)
CHANGED = date(2025, 10, 13)


@dataclass(frozen=True)
class World:
    """What is in the stores; `model` was trained before the change."""

    gradebook: Gradebook
    snapshots: pd.DataFrame
    model: PooledModel

    @property
    def courses(self) -> list[str]:
        return sorted(self.gradebook.courses["course_id"])


@cache
def world(shift: float = 0.0) -> World:
    """Return a campus whose grading is shifted by so many points from `CHANGED` on."""
    drift = simulated.Drift(CHANGED, simulated.DriftKind.GRADING_POLICY, shift) if shift else None
    config = simulated.CampusConfig(students=180, courses=3, terms=4, seed=4, drift=drift)
    gradebook = simulated.gradebook(config, TODAY)
    snapshots = grade_snapshots(gradebook, weekly_cuts(gradebook.sections, TODAY), TODAY)
    return World(gradebook, snapshots, _model())


@cache
def _model() -> PooledModel:
    config = simulated.CampusConfig(students=180, courses=3, terms=4, seed=4)
    gradebook = simulated.gradebook(config, TRAINED)
    cuts = weekly_cuts(gradebook.sections, TRAINED)
    chosen = cuts[cuts["cut_day"] // 7 % 2 == 0]
    snapshots = grade_snapshots(gradebook, chosen, TRAINED)
    return pooled.fit(
        snapshots,
        finished(gradebook, TRAINED, DEFAULTS),
        seed=0,
        pseudonyms=PSEUDONYMS,
        parameters=quick(rounds=120),
    )


def fill(settings: Settings, engine: Engine, campus: World) -> Registry:
    """Put the world into the stores: gradebook, champion, snapshots, weekly predictions."""
    store(engine, campus.gradebook)
    assert settings.mlflow_tracking_uri
    registry = Registry(settings.mlflow_tracking_uri, settings.storage_root, PSEUDONYMS)
    version = register(engine, registry, campus.model)
    with engine.begin() as connection:
        connection.execute(
            sa.insert(schema.load).values(
                source="simulated",
                loaded_at=datetime(2025, 11, 24, tzinfo=UTC),
                rows_loaded={},
                rows_unchanged={},
                rows_removed={},
                rows_quarantined=0,
            )
        )
    for course, rows in campus.snapshots.groupby("course_id", observed=True):
        # As of the first day that a test looks at: read on every later day.
        Frames(settings.storage_root, TRAINED, PSEUDONYMS).write(str(course), rows)
    sections = campus.gradebook.sections
    running = sections.loc[sections["ends_on"] >= pd.Timestamp(TRAINED), "section_id"]
    rows = campus.snapshots[
        campus.snapshots["section_id"].astype(str).isin(running)
        & (campus.snapshots["cut_on"] >= pd.Timestamp(TRAINED - timedelta(days=28)))
    ]
    with engine.begin() as connection:
        for day, group in rows.groupby("cut_on"):
            predictions = campus.model.predict(group.reset_index(drop=True))
            as_of = pd.Timestamp(str(day)).date()
            write_predictions(connection, predictions, as_of=as_of, model=version)
    return registry


def register(
    engine: Engine,
    registry: Registry,
    model: PooledModel,
    *through: Stage,
) -> ModelVersion:
    """Register the model and bring it through stages; none given: it becomes champion."""
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder))
        version = registry.register(
            POOLED,
            Path(folder),
            metrics=model.evaluation.flat(),
            parameters={},
            features=model.features,
            data_version="data",
            code_version="code",
            trained_at=datetime(2025, 9, 22, tzinfo=UTC),
        )
    bring(engine, registry, version, *(through or (Stage.CHALLENGER, Stage.CHAMPION)))
    return version
