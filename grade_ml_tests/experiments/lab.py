"""An installation for tests of the effects of experiments on versions of models."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy import Engine

from grade_ml.core import database
from grade_ml.core.settings import Settings
from grade_ml.ensemble.names import POOLED
from grade_ml.experiments import store
from grade_ml.gradebook import schema
from grade_ml.registry.history import Stage
from grade_ml.registry.registry import Alias, ModelVersion
from grade_ml.registry.transition import Evidence, Stages
from grade_ml.registry.workspace import Workspace
from grade_ml_tests.experiments.plans import STARTS_ON
from grade_ml_tests.registry.versions import register

#: Four students and three assignments, ten days apart, the first of which is marked.
STUDENTS = ("s-1", "s-2", "s-3", "s-4")


@dataclass
class Lab:
    """An installation with a running section, whose day can be moved."""

    stages: Stages
    folder: Path
    as_of: date = STARTS_ON
    settings: Settings = field(kw_only=True)

    @property
    def engine(self) -> Engine:
        return self.stages.engine

    @contextmanager
    def opened(self) -> Iterator[Workspace]:
        """Open a workspace, as `Platform.workspace` does."""
        now = datetime.combine(self.as_of, time(4), UTC)
        with database.reachable(self.engine) as connection:
            yield Workspace(
                connection, self.stages.registry, str(self.settings.storage_root), self.as_of, now
            )

    def version(self, *through: Stage, name: str = POOLED) -> ModelVersion:
        """Register a version of the pooled model and bring it through stages."""
        return register(self.stages, name, self.folder, *through)

    def pair(self) -> tuple[ModelVersion, ModelVersion]:
        """Return a new champion and a new challenger."""
        return (
            self.version(Stage.CHALLENGER, Stage.CHAMPION),
            self.version(Stage.CHALLENGER),
        )

    def serving(self) -> ModelVersion | None:
        return self.stages.registry.get(POOLED, Alias.CHAMPION)

    def events(self) -> dict[str, list[str]]:
        """Return the kinds of the events of each experiment, in order."""
        with self.engine.connect() as connection:
            return {
                experiment.plan.experiment_id: [str(event.kind) for event in experiment.events]
                for experiment in store.read(connection)
            }

    def get(self, experiment_id: str) -> store.Experiment:
        with self.engine.connect() as connection:
            return store.get(connection, experiment_id)

    def record(self, experiment_id: str, *events: store.Event) -> None:
        with self.engine.begin() as connection:
            for event in events:
                store.record(connection, experiment_id, event)

    def reset(self) -> None:
        """Forget all experiments, and leave no version in a stage."""
        with self.engine.begin() as connection:
            for table in reversed(store.metadata.sorted_tables):
                if table is not store.experiment:
                    connection.execute(sa.delete(table))
            connection.execute(sa.delete(store.experiment))
        for alias in Alias:
            for version in self.stages.registry.holders(alias):
                self.stages.transition(version, Stage.RETIRED, Evidence("the test has ended"))


def fill(connection: sa.Connection) -> None:
    """Write a gradebook of one running section."""
    first, last = STARTS_ON - timedelta(days=30), STARTS_ON + timedelta(days=60)
    running = {"section_id": "c-1-a", "course_id": "c-1", "term_id": "t"}
    rows: list[tuple[sa.Table, list[dict[str, object]]]] = [
        (schema.term, [{"term_id": "t", "starts_on": first, "ends_on": last}]),
        (schema.course, [{"course_id": "c-1"}, {"course_id": "c-2"}]),
        (schema.section, [running | {"starts_on": first, "ends_on": last}]),
        (schema.student, [{"student_id": student} for student in STUDENTS]),
        (
            schema.enrollment,
            [
                {"section_id": "c-1-a", "student_id": student, "withdrawn_on": None}
                for student in STUDENTS[:3]
            ]
            + [{"section_id": "c-1-a", "student_id": "s-4", "withdrawn_on": STARTS_ON}],
        ),
        (
            schema.assignment,
            [
                {
                    "assignment_id": f"a-{n}",
                    "section_id": "c-1-a",
                    "category": "quiz",
                    "due_on": STARTS_ON + timedelta(days=day),
                    "weight": 1,
                    "max_score": 10,
                }
                for n, day in enumerate((-5, 10, 20))
            ],
        ),
        (
            schema.result,
            [
                {
                    "assignment_id": "a-0",
                    "student_id": student,
                    "score": 70,
                    "graded_on": STARTS_ON - timedelta(days=2),
                }
                for student in STUDENTS[:2]
            ],
        ),
    ]
    for table, values in rows:
        connection.execute(sa.insert(table), values)
