"""How fast, how frugal and how small collecting external data is, over a year.

Usage: `python benchmarks/external.py [--students 600]`. The eight sources are asked for 365 days on
an embedded PostgreSQL of their own, once with an empty cache and once more right after. The
providers are those of the simulated campus, in a process of their own, so that the figures are the
collector's. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
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

from grade_ml.core import database
from grade_ml.core.settings import Settings
from grade_ml.external import features
from grade_ml.external.catalog import facts, sources
from grade_ml.external.client import Client
from grade_ml.external.collect import collect
from grade_ml.external.course_difficulty import Records
from grade_ml.external.protocol import Window
from grade_ml.external.settings import ExternalSettings
from grade_ml.gradebook import simulated
from grade_ml.gradebook.simulated import CampusConfig
from grade_ml.providers.server import serve

TODAY = date(2026, 11, 24)
NOW = datetime(2026, 11, 24, 18, tzinfo=UTC)
YEAR = Window(TODAY - timedelta(days=364), TODAY)


def main() -> None:
    """Measure and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--students", type=int, default=600)
    campus = CampusConfig(students=parser.parse_args().students)
    gradebook = simulated.gradebook(campus, TODAY)
    records = Records(
        gradebook.sections, gradebook.enrollments, gradebook.assignments, gradebook.results
    )
    with _database() as engine, _providers(campus) as url:
        external = ExternalSettings(_env_file=None, providers_url=url)
        year = _collect(engine, external, records)
        again = _collect(engine, external, records)
    figures = {
        "year_s": year["seconds"],
        "requests": year["requests"],
        "cached_s": again["seconds"],
        "cached_requests": again["requests"],
        "peak_mb": round(_peak_mb()),
    }
    print(json.dumps(figures))


def _collect(engine: Engine, external: ExternalSettings, records: Records) -> dict[str, Any]:
    """Collect a year and describe its days; return the seconds and the requests."""
    start = time.perf_counter()
    with Client(engine, NOW) as client:
        done = collect(engine, client, sources(external, records), YEAR, external.place)
    with engine.begin() as connection:
        features.refresh(connection, facts(external), YEAR, external.place, NOW)
    seconds = time.perf_counter() - start
    for one in done.values():
        print(f"{one.source}: {one.rows_new} rows, {one.requests} requests", flush=True)
        assert one.problem is None, one.problem
    return {"seconds": round(seconds, 2), "requests": sum(one.requests for one in done.values())}


@contextmanager
def _database() -> Iterator[Engine]:
    home = tempfile.TemporaryDirectory(prefix="grade_ml_external_", ignore_cleanup_errors=True)
    settings = Settings(_env_file=None, home=Path(home.name))
    engine = database.connect(database.start(settings).grade_ml)
    database.migrate(engine)
    yield engine
    engine.dispose()


@contextmanager
def _providers(campus: CampusConfig) -> Iterator[str]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(campus, theirs), daemon=True)
    process.start()
    yield ours.recv()
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
