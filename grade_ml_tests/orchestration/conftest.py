"""Fixtures of the Dagster tests: definitions over the test's own stores, and small gradebooks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from dagster import (
    DagsterInstance,
    Definitions,
    ScheduleEvaluationContext,
    build_schedule_context,
)
from sqlalchemy import Engine

from grade_ml.core.clock import Clock
from grade_ml.core.settings import Settings
from grade_ml.gradebook import schema
from grade_ml.gradebook.frames import Gradebook
from grade_ml.orchestration.build import build_defs
from grade_ml.orchestration.instance import open_instance
from grade_ml_tests.conftest import as_environment
from grade_ml_tests.ensemble.campus import store


class Stopped(Clock):
    """A clock that shows one moment."""

    def __init__(self, at: datetime) -> None:
        self.at = at

    def now(self) -> datetime:
        return self.at


@pytest.fixture
def definitions(settings: Settings) -> Definitions:
    return build_defs(settings)


@pytest.fixture
def instance(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[DagsterInstance]:
    """Dagster's tables: in files, or in memory (six times as fast) where a module requests it."""
    in_memory = getattr(request.module, "IN_MEMORY", False)
    make = DagsterInstance.ephemeral if in_memory else DagsterInstance.local_temp
    with make(str(tmp_path)) as instance:
        yield instance


@pytest.fixture
def opened(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[DagsterInstance]:
    """The instance of an installation, on PostgreSQL."""
    for name, value in as_environment(settings).items():
        monkeypatch.setenv(name, value)
    with open_instance(settings) as instance:
        yield instance


@contextmanager
def schedule_context(
    instance: DagsterInstance, platform: object, **options: Any
) -> Iterator[ScheduleEvaluationContext]:
    """Yield what a schedule's tick is given, with the very instance: it would be opened again."""
    with build_schedule_context(resources={"platform": platform}, **options) as context:
        reference: Any = True  # read by nothing but `instance`, which requires it
        context._instance, context._instance_ref = instance, reference
        yield context


@pytest.fixture
def add_courses(engine: Engine) -> Callable[..., None]:
    """Put courses into the gradebook and record a load, as a loader would."""

    def add(*courses: str, changed: Sequence[str] = ()) -> None:
        with engine.begin() as connection:
            if courses:
                connection.execute(
                    sa.insert(schema.course), [{"course_id": name} for name in courses]
                )
            connection.execute(
                sa.insert(schema.load).values(
                    source="csv",
                    loaded_at=datetime.now(UTC),
                    rows_loaded={"course": len(courses)},
                    rows_unchanged={},
                    rows_quarantined=0,
                    courses=[*courses, *changed],
                )
            )

    return add


@pytest.fixture
def one_of_each(engine: Engine) -> None:
    """A gradebook with one row in every table."""
    start, end = date(2024, 9, 1), date(2024, 12, 20)
    rows = {
        schema.student: {"student_id": "s", "attributes": {}},
        schema.term: {"term_id": "t", "title": "T", "starts_on": start, "ends_on": end},
        schema.course: {"course_id": "c", "title": "C", "subject": "x"},
        schema.section: {
            "section_id": "c1",
            "course_id": "c",
            "term_id": "t",
            "starts_on": start,
            "ends_on": end,
        },
        schema.enrollment: {
            "section_id": "c1",
            "student_id": "s",
            "enrolled_on": start,
            "attributes": {},
        },
        schema.assignment: {
            "assignment_id": "a",
            "section_id": "c1",
            "category": "TMA",
            "title": "A",
            "due_on": date(2024, 10, 1),
            "weight": 100,
            "max_score": 10,
        },
        schema.result: {
            "assignment_id": "a",
            "student_id": "s",
            "score": 95,
            "submitted_on": date(2024, 9, 30),
        },
        schema.activity: {
            "section_id": "c1",
            "student_id": "s",
            "day": date(2024, 9, 30),
            "kind": "forum",
            "count": 3,
        },
    }
    with engine.begin() as connection:
        for table, row in rows.items():
            connection.execute(sa.insert(table).values(**row))


TODAY = date(2024, 11, 1)


@pytest.fixture(scope="session")
def small_campus() -> Gradebook:
    """Three courses, three finished terms and a term that runs on `TODAY`."""
    from grade_ml.campus import simulated

    return simulated.gradebook(simulated.CampusConfig(students=150, courses=3, terms=4), TODAY)


def fill(engine: Engine, gradebook: Gradebook) -> None:
    """Put a gradebook into the database and record that it was loaded."""
    store(engine, gradebook)
    with engine.begin() as connection:
        connection.execute(
            sa.insert(schema.load).values(
                source="simulated",
                loaded_at=datetime.now(UTC),
                rows_loaded={table.name: 1 for table in schema.TABLES},
                rows_unchanged={},
                rows_quarantined=0,
                courses=gradebook.courses["course_id"].tolist(),
            )
        )


@pytest.fixture
def campus(small_campus: Gradebook, settings: Settings, engine: Engine) -> Settings:
    """Settings of an installation that holds the small campus, on the day `TODAY`."""
    fill(engine, small_campus)
    return settings.model_copy(update={"as_of": TODAY})
