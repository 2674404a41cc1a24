"""When the ticks of all schedules request a run, and when they skip: real ticks, real stores."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from dagster import (
    AssetCheckEvaluation,
    AssetCheckSeverity,
    AssetKey,
    AssetMaterialization,
    DagsterInstance,
    DagsterRunStatus,
    Definitions,
    RunRequest,
)
from dagster._core.test_utils import create_run_for_test
from dagster._utils.schedules import cron_string_iterator
from sqlalchemy import Engine

from grade_ml.core.settings import Settings
from grade_ml.ensemble.names import POOLED
from grade_ml.experiments import store
from grade_ml.experiments.store import Event, Happened
from grade_ml.gradebook import schema
from grade_ml.gradebook.rest.settings import OneRosterSettings
from grade_ml.orchestration import changes
from grade_ml.orchestration.build import build_defs
from grade_ml.orchestration.resources import platform_resource
from grade_ml.registry.history import transition
from grade_ml_tests import REPOSITORY
from grade_ml_tests.experiments.plans import of_models
from grade_ml_tests.orchestration.conftest import Stopped, schedule_context

IN_MEMORY = True
ENDS = date(2026, 12, 20)
MORNING = datetime(2026, 11, 30, 4, tzinfo=UTC)

NIGHTLY = {"forecasting", "traditional_training", "advanced_training"}
AFTER_PREDICTIONS = {"explanations", "monitoring"}
QUIET = {*NIGHTLY, *AFTER_PREDICTIONS, "ab_tests"}
#: What they query elsewhere, remove or measure changes by itself.
ALWAYS = {
    *("gradebook_sync", "external_data", "comprehensive_maintenance"),
    *("data_cleanup", "model_cleanup", "system_health"),
}


@dataclass
class World:
    """An installation whose schedules tick when a test calls them."""

    definitions: Definitions
    instance: DagsterInstance
    engine: Engine
    settings: Settings
    clock: Stopped = field(default_factory=lambda: Stopped(MORNING))

    def tick(self, name: str) -> RunRequest | str:
        """Return the run that a schedule requests now, or why it skips."""
        with schedule_context(
            self.instance,
            platform_resource(self.settings, self.clock),
            scheduled_execution_time=self.clock.at,
            repository_def=self.definitions.get_repository_def(),
        ) as context:
            evaluated = self.definitions.resolve_schedule_def(name).evaluate_tick(context)
        return evaluated.run_requests[0] if evaluated.run_requests else str(evaluated.skip_message)

    def runs(self, status: DagsterRunStatus = DagsterRunStatus.SUCCESS) -> set[str]:
        """Let the schedules that may skip tick, and the runs end so; return who requested a run."""
        requests = {
            name: answer for name in QUIET if isinstance(answer := self.tick(name), RunRequest)
        }
        for name, request in requests.items():
            self.end(name, request, status)
        return set(requests)

    def end(
        self, name: str, request: RunRequest, status: DagsterRunStatus, **selection: Any
    ) -> None:
        job = self.definitions.resolve_schedule_def(name).job_name
        create_run_for_test(self.instance, job, status=status, tags=request.tags, **selection)

    def load(self) -> None:
        with self.engine.begin() as connection:
            connection.execute(
                sa.insert(schema.load).values(
                    source="csv",
                    loaded_at=self.clock.at,
                    rows_loaded={},
                    rows_unchanged={},
                    rows_quarantined=0,
                    courses=[],
                )
            )

    def move(self, version: int, stage: str) -> None:
        with self.engine.begin() as connection:
            connection.execute(
                sa.insert(transition).values(
                    model_name=POOLED,
                    version=version,
                    from_stage="candidate",
                    to_stage=stage,
                    decided_at=self.clock.at,
                    confirmed_at=self.clock.at,
                    reason="a test",
                    figures={},
                )
            )

    def predict(self) -> None:
        self.instance.report_runless_asset_event(AssetMaterialization(changes.PREDICTIONS))

    def promote_in_vain(self) -> None:
        self.instance.report_runless_asset_event(
            AssetCheckEvaluation(
                asset_key=AssetKey("promotions"),
                check_name="complete",
                passed=False,
                severity=AssetCheckSeverity.WARN,
                metadata={"degraded": ["MLflow did not answer"]},
            )
        )

    def decide(self) -> None:
        with self.engine.begin() as connection:
            name = of_models().experiment_id
            at = self.clock.at
            store.record(connection, name, Event(Happened.DECIDED, at, "grade-ml", "seen"))

    def end_term(self) -> None:
        """Go to a day long after the last section's end, and settle there."""
        self.clock.at += timedelta(days=100)

    def next_day(self) -> None:
        self.clock.at += timedelta(days=1)

    def add_course(self) -> None:
        self.instance.add_dynamic_partitions("course", ["B"])


@pytest.fixture(scope="module")
def built() -> Definitions:
    server = OneRosterSettings(_env_file=None, url="http://127.0.0.1:1")
    return build_defs(Settings(_env_file=None), server=server)


@pytest.fixture
def world(built: Definitions, instance: DagsterInstance, engine: Engine, settings: Settings):
    """A campus in its term; everything has run this morning."""
    world = World(built, instance, engine, settings)
    with engine.begin() as connection:
        connection.execute(
            sa.insert(schema.term).values(
                term_id="t", title="T", starts_on=date(2026, 9, 1), ends_on=ENDS
            )
        )
        connection.execute(sa.insert(schema.course).values(course_id="A", title="A", subject="x"))
        connection.execute(
            sa.insert(schema.section).values(
                section_id="a",
                course_id="A",
                term_id="t",
                starts_on=date(2026, 9, 1),
                ends_on=ENDS,
            )
        )
        plan = of_models()
        store.create(connection, plan, MORNING, plan.owner, "created")
    instance.add_dynamic_partitions("course", ["A"])
    world.load()
    world.move(1, "champion")
    world.predict()
    assert world.runs() == QUIET
    world.clock.at += timedelta(hours=2)
    return world


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda world: None, set()),
        (World.load, QUIET),
        (lambda world: world.move(2, "challenger"), QUIET),
        (World.next_day, QUIET),
        (World.predict, AFTER_PREDICTIONS | {"ab_tests"}),
        (World.decide, {"ab_tests"}),
        (World.promote_in_vain, {"ab_tests"}),
        (World.add_course, QUIET),
    ],
    ids=[
        *("nothing", "a load", "a promotion", "a day of the term", "predictions"),
        *("a decision", "a promotion that failed", "a course"),
    ],
)
def test_a_tick_requests_a_run_where_something_changed(
    world: World, change: Callable[[World], None], expected: set[str]
):
    change(world)
    assert world.runs() == expected
    # What was seen once is not new a second time.
    world.clock.at += timedelta(hours=2)
    assert world.runs() == set()


def test_what_queries_elsewhere_removes_or_measures_never_skips(world: World):
    for _ in range(2):
        assert {name for name in ALWAYS if isinstance(world.tick(name), RunRequest)} == ALWAYS


def test_the_institution_may_decide_otherwise(world: World, tmp_path: Path):
    file = tmp_path / "institution.toml"
    file.write_text("pass_mark = 55\n")
    world.settings = world.settings.model_copy(update={"institution": file})
    assert world.runs() == QUIET
    file.write_text("pass_mark = [")
    assert "could not be read" in str(world.tick("monitoring"))


def test_between_terms_only_experiments_count_days(world: World):
    world.end_term()
    # The last days of teaching came since the last run.
    assert world.runs() == QUIET
    for _ in range(3):
        world.next_day()
        assert world.runs() == {"ab_tests"}
    world.load()
    assert world.runs() == QUIET


@pytest.mark.parametrize("status", [DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED])
def test_what_did_not_succeed_is_requested_again(world: World, status: DagsterRunStatus):
    world.next_day()
    assert world.runs(status) == QUIET
    assert world.runs() == QUIET
    assert world.runs() == set()


@pytest.mark.parametrize(
    "selection",
    [{"step_keys_to_execute": ["drift_report"]}, {"asset_selection": {AssetKey("drift_report")}}],
    ids=["steps", "assets"],
)
def test_some_steps_of_a_failed_run_again_are_not_the_run(world: World, selection: dict[str, Any]):
    world.next_day()
    request = world.tick("monitoring")
    assert isinstance(request, RunRequest)
    world.end("monitoring", request, DagsterRunStatus.FAILURE)
    (failed,) = world.instance.get_runs(limit=1)
    # Dagster gives it all tags of the run that it repeats.
    again = {**selection, "parent_run_id": failed.run_id, "root_run_id": failed.run_id}
    world.end("monitoring", request, DagsterRunStatus.SUCCESS, **again)
    assert isinstance(world.tick("monitoring"), RunRequest)


def test_a_run_that_names_all_its_steps_is_whole(world: World):
    """A run that is executed in this process names them, such as a part of the weekly job."""
    world.next_day()
    request = world.tick("monitoring")
    assert isinstance(request, RunRequest)
    steps, assets = ["drift_report", "model_health"], frozenset[AssetKey]()
    named = {"step_keys_to_execute": steps, "asset_selection": assets}
    world.end("monitoring", request, DagsterRunStatus.SUCCESS, **named)
    assert isinstance(world.tick("monitoring"), str)


def test_what_waits_or_runs_is_not_requested_twice(world: World):
    world.next_day()
    assert world.runs(DagsterRunStatus.STARTED) == QUIET
    assert world.runs() == set()


def test_after_a_run_by_hand_the_next_tick_runs(world: World):
    create_run_for_test(world.instance, "monitor_model_performance", tags={"by": "hand"})
    assert world.runs() == {"monitoring"}


def test_a_skipped_tick_states_since_when_nothing_is_new(world: World):
    world.settings = world.settings.model_copy(update={"timezone": "Europe/Berlin"})
    since = "is new since the last run (05:00 on 2026-11-30)."
    words = "No record, model, prediction or day of teaching"
    assert world.tick("monitoring") == f"{words} {since}"
    assert world.tick("traditional_training") == f"No record, model or day of teaching {since}"


def test_what_cannot_be_read_is_not_taken_for_unchanged(world: World):
    away = {"database_url": "postgresql+psycopg://127.0.0.1:1/none"}
    world.settings = world.settings.model_copy(update=away)
    for name in QUIET:
        assert "could not be read" in str(world.tick(name))


def test_every_job_that_may_skip_has_a_schedule(built: Definitions):
    jobs = {schedule.job_name: schedule.name for schedule in built.schedules}
    assert {jobs[name] for name in changes.WATCHED} == QUIET
    assert set(jobs.values()) == QUIET | ALWAYS


#: Runs of a week without a load, out of the ticks: in a term, and between terms.
A_WEEK = {
    "ab_tests": (42, 14, 7),
    "advanced_training": (7, 7, 0),
    "explanations": (7, 7, 0),
    "forecasting": (7, 7, 0),
    "monitoring": (84, 14, 0),
    "traditional_training": (7, 7, 0),
}


@pytest.mark.slow
def test_a_quiet_week_has_as_few_runs_as_the_docs_say(world: World):
    monday = datetime(2026, 12, 7, tzinfo=UTC)
    weeks = (monday, monday + timedelta(days=100))
    (ticks, in_term), (_, between) = (ticks_and_runs(world, begin) for begin in weeks)
    assert {name: (ticks[name], in_term[name], between[name]) for name in QUIET} == A_WEEK
    page = (REPOSITORY / "docs" / "operations.md").read_text()
    for name, counts in A_WEEK.items():
        assert f"| `{name}` | {' | '.join(map(str, counts))} |" in page


def ticks_and_runs(world: World, begin: datetime) -> tuple[Counter[str], Counter[str]]:
    """Let a week go by, of whose first day everything was seen; training predicts."""
    world.clock.at = begin - timedelta(days=1)
    world.runs()
    due = [
        (at, name)
        for name in QUIET
        for at in itertools.takewhile(
            lambda at: at < begin + timedelta(days=7),
            cron_string_iterator(
                begin.timestamp(),
                str(world.definitions.resolve_schedule_def(name).cron_schedule),
                "UTC",
            ),
        )
    ]
    requests: Counter[str] = Counter()
    for world.clock.at, name in sorted(due):
        request = world.tick(name)
        if isinstance(request, RunRequest):
            requests[name] += 1
            world.end(name, request, DagsterRunStatus.SUCCESS)
            if name.endswith("training"):
                world.predict()
    return Counter(name for _, name in due), requests
