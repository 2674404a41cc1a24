"""A small simulated campus in the database, and a model fitted on its finished terms."""

import fcntl
from dataclasses import fields, replace
from datetime import UTC, date, datetime
from pathlib import Path

import pandas as pd
from sqlalchemy import Engine

from grade_ml.campus import simulated
from grade_ml.core.database import connect, copy_frame
from grade_ml.core.settings import Settings
from grade_ml.ensemble import baseline
from grade_ml.ensemble.names import BASELINE
from grade_ml.features.snapshots import grade_snapshots, weekly_cuts
from grade_ml.gradebook import schema
from grade_ml.gradebook.frames import Gradebook
from grade_ml.gradebook.institution import DEFAULTS
from grade_ml.registry.registry import Registry
from grade_ml.training.data import finished
from grade_ml_tests.factories import PSEUDONYMS, let_serve

TODAY = date(2025, 11, 10)


def campus(students: int = 100, terms: int = 4) -> Gradebook:
    config = simulated.CampusConfig(students=students, courses=3, terms=terms, seed=4)
    return simulated.gradebook(config, TODAY)


def small() -> Gradebook:
    """Return the campus of `fitted_once`."""
    return campus(students=60, terms=2)


def redesigned(gradebook: Gradebook, course: str) -> Gradebook:
    """Return the gradebook with other kinds of assignments in the course's running sections."""
    sections, assignments = gradebook.sections, gradebook.assignments
    running = sections["ends_on"] >= pd.Timestamp(TODAY)
    chosen = sections.loc[running & (sections["course_id"] == course), "section_id"]
    assert len(chosen)
    other = assignments["section_id"].isin(chosen)
    kinds = assignments["category"].mask(other, "Project")
    return replace(gradebook, assignments=assignments.assign(category=kinds))


def store(engine: Engine, gradebook: Gradebook) -> None:
    with engine.begin() as connection:
        for table, field in zip(schema.TABLES, fields(gradebook), strict=False):
            copy_frame(connection, table.fullname, getattr(gradebook, field.name))


def fit(gradebook: Gradebook) -> baseline.BaselineModel:
    """Return a baseline fitted on every fifth week: it only has to answer."""
    cuts = weekly_cuts(gradebook.sections, TODAY)
    snapshots = grade_snapshots(gradebook, cuts[cuts["cut_day"] // 7 % 5 == 2], TODAY)
    return baseline.fit(snapshots, finished(gradebook, TODAY, DEFAULTS), seed=0)


def fitted_once(folder: Path) -> baseline.BaselineModel:
    """Return a model of the small campus, fitted by whichever process needs it first."""
    made = folder / "baseline_of_small"
    with (folder / "baseline_of_small.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            fit(small()).save(folder / "half_made")
            (folder / "half_made").rename(made)
    return baseline.BaselineModel.load(made)


def make_champion(settings: Settings, model: baseline.BaselineModel, folder: Path) -> Registry:
    assert settings.mlflow_tracking_uri is not None
    registry = Registry(settings.mlflow_tracking_uri, settings.storage_root, PSEUDONYMS)
    model.save(folder)
    version = registry.register(
        BASELINE,
        folder,
        metrics={},
        parameters={},
        features=model.features,
        data_version="data",
        code_version="code",
        trained_at=datetime(2025, 11, 9, tzinfo=UTC),
    )
    engine = connect(str(settings.database_url))
    let_serve(engine, registry, version)
    engine.dispose()
    return registry
