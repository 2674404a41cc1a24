"""How fast a OneRoster server is read: everything at first, and a nightly run after 1% changed.

Usage: `python benchmarks/sync.py [--results N] [--days 3]`. The simulated college is served by a
process of its own, as `grade-ml providers` serves it, some days before and then on TODAY; times
include the load into an embedded PostgreSQL. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from datetime import time as clock

import httpx

from grade_ml.campus.providers import oneroster
from grade_ml.campus.simulated import Campus, CampusConfig
from grade_ml.core.clock import Clock
from grade_ml.core.process import peak_megabytes
from grade_ml.gradebook.rest.settings import PREFIX, OneRosterSettings
from grade_ml.gradebook.rest.sync import Synced, sync
from installation import temporary_installation

TODAY = date(2026, 11, 24)
COURSES = 8


def main() -> None:
    """Sync twice and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=int, default=1_000_000)
    parser.add_argument(
        "--days", type=int, default=3, help="days until the nightly run with changes"
    )
    arguments = parser.parse_args()
    students = _students(arguments.results)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with temporary_installation() as (settings, engine):
        done: list[tuple[Synced, float]] = []
        for day in (TODAY - timedelta(days=arguments.days), TODAY):
            with _server(port, day, students) as url:
                environment = oneroster.settings(url)
                named = {
                    name.removeprefix(PREFIX).lower(): value for name, value in environment.items()
                }
                server = OneRosterSettings(_env_file=None, **named)
                now = datetime.combine(day, clock(0, 30), UTC)
                started = time.perf_counter()
                synced = sync(
                    engine, settings, server, now=now, clock=Clock(), on_progress=_reporter(started)
                )
                done.append((synced, time.perf_counter() - started))
    (first, first_s), (second, second_s) = done
    assert first.report and second.report
    print(
        json.dumps(
            {
                "sync_1m_s": round(first_s, 1),
                "results": first.rows["results"],
                "changed_night_s": round(second_s, 1),
                "changed_share": round(second.rows["results"] / first.rows["results"], 4),
                "peak_mb": round(peak_megabytes()),
            }
        )
    )


def _reporter(started: float):
    steps: set[str] = set()

    def report(step: str, _: int) -> None:
        if step not in steps:
            steps.add(step)
            print(f"{time.perf_counter() - started:7.1f} s {step}", flush=True)

    return report


def _students(results: int) -> int:
    """Return how many students have about so many results: a small college's share, scaled up."""
    config = CampusConfig(students=500, courses=COURSES, terms=3, seed=1)
    drawn = sum(len(f) for table, f in Campus(config, TODAY).batches() if table == "result")
    return results * 500 // drawn


@contextmanager
def _server(port: int, day: date, students: int) -> Iterator[str]:
    """Serve the college as it is on a day, drawn before the first request."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "grade_ml.cli", "providers", "--port", str(port)),
            *("--college-students", str(students), "--college-courses", str(COURSES)),
        ],
        env={**os.environ, "GRADE_ML_AS_OF": day.isoformat()},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout
        url = process.stdout.readline().partition(" at ")[2].partition(";")[0]
        _draw(url)
        yield url
    finally:
        process.terminate()
        process.wait()


def _draw(url: str) -> None:
    environment = oneroster.settings(url)
    with httpx.Client(timeout=600) as http:
        token = http.post(
            environment[f"{PREFIX}TOKEN_URL"],
            data={"grant_type": "client_credentials"},
            auth=(oneroster.CLIENT_ID, oneroster.CLIENT_SECRET),
        ).json()["access_token"]
        place = f"{environment[f'{PREFIX}URL']}/ims/oneroster/rostering/v1p2/orgs"
        http.get(place, headers={"Authorization": f"Bearer {token}"}).raise_for_status()


if __name__ == "__main__":
    main()
