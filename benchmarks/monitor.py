"""The part `courses` of `drift.py`: the time of a monitoring run, by the number of courses.

Nothing is run from here; `python benchmarks/drift.py --only courses --monitored 100,1000` does.
"""

from __future__ import annotations

import argparse
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, date, datetime, timedelta
from multiprocessing import get_context
from typing import Any

import sqlalchemy as sa
from loop import brief
from sqlalchemy import Engine

from grade_ml.campus import simulated
from grade_ml.core import database
from grade_ml.core.process import peak_megabytes
from grade_ml.core.pseudonyms import Pseudonyms
from grade_ml.core.settings import Settings
from grade_ml.ensemble.names import POOLED
from grade_ml.ensemble.pooled import PooledModel
from grade_ml.features.refresh import refresh
from grade_ml.features.store import Frames
from grade_ml.gradebook.catalog import course_ids
from grade_ml.monitoring import nightly, store
from grade_ml.monitoring.store import Kind
from grade_ml.registry.registry import Alias, ModelVersion, Registry
from grade_ml.registry.workspace import Workspace
from grade_ml.serving.models import Models
from grade_ml.serving.predictions import write_predictions
from grade_ml.training import pooled
from grade_ml.training.data import TrainingData
from grade_ml.training.tuning import Tuned
from installation import opening, temporary_installation

#: The twelfth week of a term; the term before has ended.
TODAY = date(2026, 10, 26)
NIGHT = datetime(2026, 10, 26, 3, tzinfo=UTC)
#: Weeks of which predictions are stored, and courses whose snapshots are in memory together.
WEEKS, AT_ONCE = 4, 50


def courses(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the seconds of each report for so many courses, in a process of their own."""
    measured = []
    for number in map(int, arguments.monitored.split(",")):
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            measured.append(pool.submit(_monitored, number).result())
        print(measured[-1], file=sys.stderr, flush=True)
    return {"courses": measured}


def _monitored(number: int) -> dict[str, Any]:
    # A student takes about two courses a term: a section has 60.
    config = simulated.CampusConfig(students=30 * number, courses=number, terms=4)
    with temporary_installation() as (settings, engine):
        registry = prepared(engine, settings, config)
        before = peak_megabytes()
        return {"courses": number, **reports(engine, settings, registry)} | {
            "peak_mb_before": round(before),
            "peak_mb": round(peak_megabytes()),
        }


def prepared(engine: Engine, settings: Settings, config: simulated.CampusConfig) -> Registry:
    """Fill an installation: gradebook, snapshots, a champion, and its predictions of 4 weeks."""
    simulated.load_campus(engine, settings, config, loaded_at=NIGHT)
    registry = Registry(
        database.start(settings).mlflow, settings.storage_root, Pseudonyms(b"benchmark")
    )
    with engine.begin() as connection:
        names = course_ids(connection)
        frames = Frames(settings.storage_root, TODAY, registry.pseudonyms)
        refresh(connection, frames, names)
    opened = opening(engine, registry, settings.storage_root, NIGHT)
    with opened() as workspace:
        data = TrainingData.read(workspace)
    training = pooled.train(data, opened, tune=lambda *_: Tuned(brief()))
    assert registry.get(POOLED, Alias.CHAMPION) == training.version
    with engine.begin() as connection:
        for first in range(0, len(names), AT_ONCE):
            batch = names[first : first + AT_ONCE]
            _predict(connection, frames, batch, training.model, training.version)
    return registry


def _predict(
    connection: sa.Connection,
    frames: Frames,
    names: list[str],
    model: PooledModel,
    version: ModelVersion,
) -> None:
    rows = frames.snapshots(names)
    recent = rows["cut_on"] > str(TODAY - timedelta(days=7 * WEEKS))
    for day, group in rows[recent].groupby("cut_on"):
        predictions = model.predict(group.reset_index(drop=True))
        write_predictions(connection, predictions, as_of=day.date(), model=version)


def reports(engine: Engine, settings: Settings, registry: Registry) -> dict[str, Any]:
    """Return the seconds of each kind of report, for all courses."""
    seconds = {}
    with engine.begin() as connection:
        names = course_ids(connection)
        workspace = Workspace(connection, registry, settings.storage_root, TODAY, NIGHT)
        for kind in Kind:
            started = time.perf_counter()
            getattr(nightly, kind)(workspace, Models(registry), names)
            seconds[str(kind)] = round(time.perf_counter() - started, 2)
        drifts = store.read(connection, TODAY, days=1, kinds=[Kind.DRIFT])
    total = sum(seconds.values())
    return {
        "seconds": round(total, 1),
        "seconds_by_report": seconds,
        "seconds_per_course": round(total / len(names), 3),
        "tested": sum(report.body["status"] == "tested" for report in drifts),
        "drifted": sum(report.body["drifted"] for report in drifts),
    }
