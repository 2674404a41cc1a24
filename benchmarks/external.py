"""Speed, requests and size of collecting external data, and the value of each source for grades.

Usage: `python benchmarks/external.py [--students 600] [--oulad DIR]`. The eight sources deliver
365 days on an embedded PostgreSQL of their own, once with an empty cache and once more right
after. The providers are those of the simulated campus, in a process of their own, so that the
figures are the collector's.

`gain` is how much a source changes the error of a light model (RMSE of the final grade, per cent;
negative is better) on the last term that ended, `admitted` which sources a model may therefore
read, and `verdict` gives ranges and reasons (`grade_ml.training.admission`). Heat,
events and mood act on the simulated campus's grades; economy, jobs and page views do not. For
OULAD, whose surroundings no simulated provider knows, there is only the difficulty of its courses.
The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import atexit
import json
import multiprocessing
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from grade_ml.campus import simulated
from grade_ml.campus.providers.server import serve
from grade_ml.campus.simulated import CampusConfig
from grade_ml.core import database
from grade_ml.core.clock import Clock
from grade_ml.core.settings import Settings
from grade_ml.external import features
from grade_ml.external.catalog import facts, sources
from grade_ml.external.client import Client
from grade_ml.external.collect import collect
from grade_ml.external.course_difficulty import CourseDifficulty, Records
from grade_ml.external.protocol import Window
from grade_ml.external.settings import ExternalSettings
from grade_ml.features.snapshots import grade_snapshots, weekly_cuts
from grade_ml.features.surroundings import with_surroundings
from grade_ml.gradebook import frames, oulad
from grade_ml.gradebook.frames import Gradebook
from grade_ml.gradebook.institution import DEFAULTS
from grade_ml.gradebook.loading import load
from grade_ml.gradebook.outcomes import outcomes
from grade_ml.training.admission import admission

TODAY = date(2026, 11, 24)
NOW = datetime(2026, 11, 24, 18, tzinfo=UTC)
YEAR = Window(TODAY - timedelta(days=364), TODAY)


def main() -> None:
    """Measure and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--students", type=int, default=600)
    parser.add_argument("--oulad", type=Path, help="the folder of the Open University's files")
    arguments = parser.parse_args()
    campus = CampusConfig(students=arguments.students)
    gradebook = simulated.gradebook(campus, TODAY)
    with _database() as engine, _providers(campus) as url:
        external = ExternalSettings(_env_file=None, providers_url=url)
        year = _collect(engine, external, gradebook, YEAR)
        again = _collect(engine, external, gradebook, YEAR)
        figures = {
            "year_s": year["seconds"],
            "requests": year["requests"],
            "cached_s": again["seconds"],
            "cached_requests": again["requests"],
            "peak_mb": round(_peak_mb()),
        }
        days = Window(gradebook.sections["starts_on"].min().date(), TODAY)
        _collect(engine, external, gradebook, days)
        figures["campus"] = _gains(engine, gradebook, days)
    if arguments.oulad:
        figures["oulad"] = _oulad(arguments.oulad)
    print(json.dumps(figures))


def _collect(
    engine: Engine, external: ExternalSettings, gradebook: Gradebook, window: Window
) -> dict[str, Any]:
    """Collect days and describe them; return the seconds and the requests."""
    requested = sources(external, _records(gradebook))
    start = time.perf_counter()
    with Client(engine, NOW, Clock()) as client:
        done = collect(engine, client, requested, window, external.place)
    with engine.begin() as connection:
        features.refresh(connection, facts(external), window, external.place, NOW)
    seconds = time.perf_counter() - start
    for collected in done.values():
        print(
            f"{collected.source}: {collected.rows_new} rows, {collected.requests} requests, "
            f"{collected.problem}"
        )
    return {
        "seconds": round(seconds, 2),
        "requests": sum(collection.requests for collection in done.values()),
    }


def _records(gradebook: Gradebook) -> Records:
    return Records(
        gradebook.sections, gradebook.enrollments, gradebook.assignments, gradebook.results
    )


def _gains(engine: Engine, gradebook: Gradebook, days: Window) -> dict[str, Any]:
    """Return how much each source improves a model, and which sources it may read."""
    with engine.connect() as connection:
        wide = features.read_wide(connection, days)
    end = days.last + timedelta(days=1)
    snapshots = grade_snapshots(gradebook, weekly_cuts(gradebook.sections, end), end)
    start = time.perf_counter()
    verdict = admission(
        with_surroundings(snapshots, wide),
        outcomes(gradebook, end, DEFAULTS),
        gradebook.sections,
        seed=0,
    )
    return {
        "seconds": round(time.perf_counter() - start, 1),
        "gain": {trial.source: trial.error.change for trial in verdict.trials if trial.error},
        "admitted": verdict.sources,
        "verdict": verdict.to_dict(),
    }


def _oulad(folder: Path) -> dict[str, Any]:
    """Return the gain of the difficulty of courses on the Open University's data."""
    with _database() as engine:
        load(engine, oulad.bundle(folder), loaded_at=NOW)
        with engine.connect() as connection:
            gradebook = frames.read(connection)
        source, place = (
            CourseDifficulty(_records(gradebook)),
            ExternalSettings(_env_file=None).place,
        )
        sections = gradebook.sections
        days = Window(sections["starts_on"].min().date(), sections["ends_on"].max().date())
        with Client(engine, NOW, Clock()) as client:
            collect(engine, client, [source], days, place)
        with engine.begin() as connection:
            features.refresh(connection, [source.about], days, place, NOW)
        return _gains(engine, gradebook, days)


@contextmanager
def _database() -> Iterator[Engine]:
    home = Path(tempfile.mkdtemp(prefix="grade_ml_external_"))
    # Before the server's own end is registered, hence after it.
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    settings = Settings(_env_file=None, home=home)
    engine = database.migrated(database.start(settings).grade_ml)
    yield engine
    engine.dispose()


@contextmanager
def _providers(campus: CampusConfig) -> Iterator[str]:
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe()
    process = context.Process(target=_serve, args=(campus, sender), daemon=True)
    process.start()
    yield receiver.recv()
    process.terminate()
    process.join()


def _serve(campus: CampusConfig, pipe: Pipe) -> None:
    with serve(campus, TODAY) as server:
        pipe.send(server.url)
        pipe.recv()


def _peak_mb() -> float:
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


if __name__ == "__main__":
    main()
