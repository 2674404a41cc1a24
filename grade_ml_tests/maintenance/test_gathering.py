"""Facts come from the tables and the machine, cover one week, and are never made up."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Engine

from grade_ml.core.database import DatabaseUrls
from grade_ml.core.process import Usage
from grade_ml.gradebook import schema
from grade_ml.maintenance import gathering, history, results, usage
from grade_ml.maintenance.facts import Course, Step
from grade_ml.maintenance.health import health
from grade_ml.maintenance.results import JobResult, LaunchedBy, Status
from grade_ml.monitoring import store
from grade_ml.monitoring.store import Kind
from grade_ml_tests.maintenance.facts import NOON, NOTHING
from grade_ml_tests.maintenance.test_health import WORSE

TODAY = NOON.date()


def ended(
    job: str, hours: float, seconds: float = 60.0, status: Status = Status.SUCCESS, **other: Any
) -> JobResult:
    """Return the result of a run that ended so many hours before noon."""
    end = NOON - timedelta(hours=hours)
    start = end - timedelta(seconds=seconds)
    run = f"{job} {hours}"
    return JobResult(run, job, LaunchedBy.SCHEDULE, status, start, end, seconds=seconds, **other)


def loaded(connection: Connection, days: int, quarantined: int = 0) -> None:
    values = {
        "source": "csv",
        "loaded_at": NOON - timedelta(days=days),
        "rows_loaded": {"result": 900, "course": 8},
        "rows_unchanged": {"result": 90},
        "rows_quarantined": quarantined,
    }
    connection.execute(
        sa.insert(schema.load).values(rows_removed={}, courses=[], notes=[], **values)
    )


def test_what_is_counted_is_of_the_last_week(engine: Engine):
    failure: Any = {"status": Status.FAILURE, "error": "no"}
    with engine.begin() as connection:
        ended_runs = [
            ended("night", 170, 9999.0),
            ended("night", 100, 300.0),
            ended("night", 50, 200.0),
            ended("night", 40, **failure),
            ended("night", 30, status=Status.CANCELED),
            ended("night", 20, **failure, retried=True),
            ended("mail", 9, **failure),
        ]
        results.record(connection, ended_runs)
        used = Usage(seconds=9.0, peak_rss_mb=100.0, cpu_seconds=7.0)
        for run, days in (("a", 1), ("b", 2), ("c", 8)):
            usage.record(connection, run, "step", NOON - timedelta(days=days), used)
        loaded(connection, 9, 50)
        loaded(connection, 3, 2)

        jobs = gathering.jobs(connection, NOON)
        records = gathering.records(connection, NOON, TODAY)
        assert gathering.steps(connection, NOON) == {"step": Step(100 * 2**20, 14.0)}
    assert jobs["night"].durations == (300.0, 200.0) and jobs["night"].failed == 1
    assert jobs["night"].newest_failed
    assert jobs["night"].succeeded_at == NOON - timedelta(hours=50)
    assert jobs["mail"].success_rate == 0 and jobs["mail"].succeeded_at is None
    assert (records.rows, records.quarantined, records.running_sections) == (1000, 2, 0)
    assert records.loaded_at == NOON - timedelta(days=3)


def test_nothing_is_known_of_an_empty_database(engine: Engine):
    with engine.begin() as connection:
        assert gathering.jobs(connection, NOON) == gathering.steps(connection, NOON) == {}
        assert gathering.records(connection, NOON, TODAY) == NOTHING.records
        assert gathering.courses(connection, TODAY) == {} and history.newest(connection) is None


def test_courses_are_as_monitoring_left_them(engine: Engine):
    def write(kind: Kind, day: date, **bodies: dict[str, Any]) -> None:
        store.write(connection, kind, day, bodies)

    low = {"score": 41.0, "needs": True, "worst": "drift: all"}
    with engine.begin() as connection:
        write(Kind.HEALTH, TODAY, A=low, B={"score": None, "needs": False, "worst": ""})
        write(Kind.HEALTH, TODAY - timedelta(days=30), old=low)
        write(Kind.DRIFT, TODAY - timedelta(days=1), A={"says": "it drifted"}, C={"says": ""})
        assert gathering.courses(connection, TODAY) == {
            "A": Course(41.0, True, True),
            "B": Course(None, False, None),
            "C": Course(None, False, False),
        }


def test_only_local_disks_are_measured(tmp_path: Path, server: DatabaseUrls):
    places = {"home": str(tmp_path / "not" / "yet"), "storage": "s3://bucket/models"}
    disks = gathering.disks(places)
    assert disks.keys() == {"home"} and 0 < disks["home"].free_bytes <= disks["home"].size_bytes
    down = "postgresql+psycopg://nobody:secret@127.0.0.1:1/none"
    urls = DatabaseUrls(server.grade_ml, down, "https://mlflow.example.edu")
    databases = gathering.databases(urls)
    assert databases.keys() == {"grade_ml", "dagster"} and databases["dagster"] is None
    known = databases["grade_ml"]
    assert known and known.size_bytes > 10**6 and 0 < known.connections < known.limit


def test_what_is_stored_is_what_was_judged(engine: Engine):
    later = NOON + timedelta(hours=1)
    first, again = health(NOTHING), health(WORSE["runs"])
    last = health(replace(WORSE["disk"], at=later))
    with engine.begin() as connection:
        history.record(connection, first)
        history.record(connection, again)
        newest = history.newest(connection)
        assert newest == again and list(newest.parts) == list(again.parts)
        history.record(connection, last)
        assert history.newest(connection) == last
        scores = history.scores(connection, later, days=1)
        assert scores == [(NOON, again.score), (later, last.score)]
        assert history.scores(connection, NOON, days=1) == scores[:1]
