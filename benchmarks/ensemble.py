"""The ensemble out of time on OULAD beside its peers, its speed, and how it scales.

Usage: `python benchmarks/ensemble.py [--oulad DIR] [--courses 10,100]`. Fits on 2013B
and 2013J, predicts every section of 2014B, scores 30,000 rows and single ones, and trains simulated
campuses of 60 students a course. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from grade_ml.core import database
from grade_ml.core.embedded_postgres import release
from grade_ml.core.process import peak_megabytes
from grade_ml.core.settings import Settings
from grade_ml.ensemble import course as courses
from grade_ml.ensemble import pooled
from grade_ml.ensemble.backtest import backtest
from grade_ml.ensemble.training import finished
from grade_ml.features.snapshots import grade_snapshots, weekly_cuts
from grade_ml.gradebook import frames, oulad, simulated
from grade_ml.gradebook.frames import Gradebook
from grade_ml.gradebook.loading import load
from peers import PEERS

OULAD = Path(__file__).resolve().parents[2] / "shared" / "data" / "oulad"
TODAY = date(2026, 11, 24)


def main() -> None:
    """Measure and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--oulad", type=Path, default=OULAD)
    parser.add_argument("--courses", default="10,100")
    arguments = parser.parse_args()
    gradebook = _oulad(arguments.oulad)
    report = backtest(
        gradebook, ["2013B", "2013J"], ["2014B"], models=["pooled"], on_progress=_say
    ).to_dict()
    context = multiprocessing.get_context("spawn")
    with context.Pool(1, maxtasksperchild=1) as pool:
        speed = pool.apply(_speed)
        sizes = [int(size) for size in arguments.courses.split(",") if size]
        scaling = [pool.apply(_scale, (size,)) for size in sizes]
    print(json.dumps({**report, "peers": PEERS, **speed, "scaling": scaling}))


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _oulad(folder: Path) -> Gradebook:
    with tempfile.TemporaryDirectory() as home:
        settings = Settings(_env_file=None, home=Path(home))
        engine = database.connect(database.start(settings).grade_ml)
        database.migrate(engine)
        load(engine, oulad.bundle(folder), loaded_at=datetime(2026, 11, 24, tzinfo=UTC))
        with engine.connect() as connection:
            gradebook = frames.read(connection)
        engine.dispose()
        release(settings.postgres_dir)
    return gradebook


def _campus(number: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    # A student takes about two courses a term.
    config = simulated.CampusConfig(students=30 * number, courses=number, terms=4)
    gradebook = simulated.gradebook(config, TODAY)
    cuts = weekly_cuts(gradebook.sections, TODAY)
    return grade_snapshots(gradebook, cuts, TODAY), finished(gradebook, TODAY)


def _speed() -> dict[str, Any]:
    """Return the seconds of scoring with a loaded model."""
    snapshots, results = _campus(20)
    model = pooled.fit(snapshots, results, seed=0)
    many = snapshots.sample(30_000, replace=True, random_state=0).reset_index(drop=True)
    batches = [_seconds(model, many) for _ in range(3)]
    single = [_seconds(model, many.iloc[[place]]) for place in range(200)]
    return {
        "score_30k_s": round(float(np.median(batches)), 2),
        "score_one_p95_ms": round(1000 * float(np.quantile(single[20:], 0.95)), 1),
    }


def _seconds(model: pooled.PooledModel, rows: pd.DataFrame) -> float:
    started = time.perf_counter()
    model.predict(rows)
    return time.perf_counter() - started


def _scale(number: int) -> dict[str, Any]:
    """Return what training the pooled model and the corrections of `number` courses takes."""
    snapshots, results = _campus(number)
    started = time.perf_counter()
    model = pooled.fit(snapshots, results, seed=0, on_progress=_say)
    fitted = time.perf_counter()
    kept = sum(
        courses.fit(rows, model, seed=0).correction is not None
        for _, rows in model.held_out.groupby("course_id")
    )
    done = time.perf_counter()
    return {
        "courses": number,
        "snapshots": len(snapshots),
        "seconds": round(done - started, 1),
        "corrections_s": round(done - fitted, 2),
        "seconds_per_course": round((done - started) / number, 3),
        "corrected": kept,
        "peak_mb": round(peak_megabytes()),
    }


if __name__ == "__main__":
    main()
