from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import sqlalchemy as sa
from dagster import (
    AssetCheckResult,
    DagsterInstance,
    Definitions,
    ExecuteInProcessResult,
    MaterializeResult,
    ResourceParam,
    asset,
    asset_check,
    materialize,
)
from sqlalchemy import Engine

from grade_ml.core.clock import Clock
from grade_ml.core.database import place, reachable
from grade_ml.core.errors import ServiceError, UnavailableError
from grade_ml.core.settings import Settings
from grade_ml.core.settling import settle
from grade_ml.maintenance.usage import step_usage
from grade_ml.orchestration import steps, timetable
from grade_ml.orchestration.queue import EXPERIMENTS, ML_TASKS
from grade_ml.orchestration.resources import Platform, platform_resource
from grade_ml.orchestration.steps import step
from grade_ml_tests.conftest import as_environment
from grade_ml_tests.launch import wait_until

pytestmark = pytest.mark.security


def lose(engine: Engine) -> None:
    """Work in a connection that the server ends, as it does when it goes."""
    with reachable(engine) as connection:
        mine = connection.execute(sa.text("select pg_backend_pid()")).scalar_one()
        with engine.connect() as other:
            other.execute(sa.text("select pg_terminate_backend(:mine)"), {"mine": mine})
        connection.execute(sa.text("select 1"))


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "_PAUSES", (0,) * len(steps._PAUSES))


def test_a_lost_connection_is_a_service_error(engine: Engine):
    with pytest.raises(ServiceError, match="went away"):
        lose(engine)


@pytest.fixture
def run(settings: Settings, instance: DagsterInstance) -> Callable[..., ExecuteInProcessResult]:
    """Materialize assets as a run of an installation does."""
    platform = platform_resource(settings, Clock())

    def materialized(*assets: Any) -> ExecuteInProcessResult:
        return materialize(
            assets, instance=instance, resources={"platform": platform}, raise_on_error=False
        )

    return materialized


def test_an_asset_and_its_check_start_over_after_a_loss_and_what_they_used_is_known(
    engine: Engine, run: Callable[..., ExecuteInProcessResult]
):
    tried: list[str] = []
    children = os.times().children_user

    @asset
    @step
    def thing(platform: ResourceParam[Platform]) -> None:
        tried.append("asset")
        if tried.count("asset") < 3:
            lose(engine)
        held = bytearray(100 << 20)
        subprocess.run([sys.executable, "-c", "sum(range(5_000_000))"], check=True)
        del held

    @asset_check(asset=thing)
    @step
    def check(platform: ResourceParam[Platform]) -> Iterator[AssetCheckResult]:
        tried.append("check")
        if tried.count("check") < 2:
            lose(engine)
        yield AssetCheckResult(passed=True)

    result = run(thing, check)
    assert result.success
    assert tried == ["asset"] * 3 + ["check"] * 2
    with engine.connect() as connection:
        rows = {row.step: row for row in connection.execute(sa.select(step_usage))}
    assert set(rows) == {"thing", "thing_check"}
    assert {row.run_id for row in rows.values()} == {result.run_id}
    assert rows["thing"].peak_rss_mb > rows["thing_check"].peak_rss_mb + 50
    assert rows["thing"].cpu_seconds > os.times().children_user - children - 0.02 > 0
    assert rows["thing"].seconds > 0
    assert rows["thing"].started_at <= rows["thing_check"].started_at


def test_whatever_else_fails_is_not_tried_again(
    engine: Engine, run: Callable[..., ExecuteInProcessResult]
):
    tried = []

    @asset
    @step
    def thing(platform: ResourceParam[Platform]) -> None:
        tried.append(1)
        raise ValueError("wrong")

    assert not run(thing).success
    assert len(tried) == 1
    with engine.connect() as connection:
        assert connection.execute(sa.select(step_usage.c.step)).scalars().all() == ["thing"]


def test_a_step_starts_over_so_often_and_no_more(run: Callable[..., ExecuteInProcessResult]):
    tried = []

    @asset
    @step
    def thing(platform: ResourceParam[Platform]) -> None:
        tried.append(1)
        raise UnavailableError("The store does not answer.")

    result = run(thing)
    assert not result.success
    assert len(tried) == 1 + len(steps._PAUSES)
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert "The store does not answer." in str(failure.step_failure_data.error)


@pytest.mark.parametrize("kind", ["returning", "yielding"])
def test_a_step_is_stopped_before_memory_runs_out(
    settings: Settings, instance: DagsterInstance, kind: str
):
    tried = []

    def waste() -> None:
        tried.append(1)
        while True:
            sum(range(1000))

    @asset(name="returning")
    @step
    def returning(platform: ResourceParam[Platform]) -> None:
        waste()

    @asset(name="yielding")
    @step
    def yielding(platform: ResourceParam[Platform]) -> Iterator[MaterializeResult[None]]:
        yield MaterializeResult()
        waste()

    short = settings.model_copy(update={"run_memory_reserve_mb": 1e12})
    result = materialize(
        [{"returning": returning, "yielding": yielding}[kind]],
        instance=instance,
        resources={"platform": platform_resource(short, Clock())},
        raise_on_error=False,
    )
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert f"{kind} was stopped" in str(failure.step_failure_data.error)
    assert len(tried) == 1


def test_a_step_whose_usage_cannot_be_written_down_succeeds(
    engine: Engine, run: Callable[..., ExecuteInProcessResult]
):
    @asset
    @step
    def thing(platform: ResourceParam[Platform]) -> None:
        with platform.engine.begin() as connection:
            connection.execute(sa.text("drop table maintenance.step_usage"))

    assert run(thing).success


def test_no_course_is_the_cause_of_a_loss(engine: Engine):
    def work(keys: object) -> None:
        with engine.connect() as connection:
            connection.execute(sa.text("select pg_terminate_backend(pg_backend_pid())"))

    with pytest.raises(sa.exc.OperationalError):
        settle(["A", "B"], work)


def test_every_body_is_a_step(definitions: Definitions):
    bodies = {
        node.name: node.compute_fn.decorated_fn
        for job in definitions.resolve_all_job_defs()
        for node in job.all_node_defs
    }
    assert len(bodies) > 50
    plain = {name for name, body in bodies.items() if not hasattr(body, "__wrapped__")}
    # The steps of these jobs run the steps of others, and do nothing themselves.
    of_sequences = (timetable.WEEKLY, timetable.FIRST_DAY)
    assert plain == {
        f"{sequence.name}_{part}" for sequence in of_sequences for part in sequence.parts
    }


def test_a_step_waits_while_others_have_the_places_of_its_pool(
    engine: Engine,
    run: Callable[..., ExecuteInProcessResult],
    instance: DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
):
    done: list[str] = []

    def in_its_turn(_: float) -> None:
        done.append("waited")
        held.close()

    @asset(pool=ML_TASKS)
    @step
    def thing(platform: ResourceParam[Platform]) -> None:
        done.append("worked")

    @asset(pool=EXPERIMENTS)
    @step
    def other(platform: ResourceParam[Platform]) -> None:
        done.append("worked elsewhere")

    monkeypatch.setattr(steps, "sleep", in_its_turn)
    with ExitStack() as held:
        held.enter_context(place(engine, ML_TASKS, 1, "run before", lambda holders: None))
        assert run(other).success
        result = run(thing)
    assert result.success
    assert done == ["worked elsewhere", "waited", "worked"]
    messages = [entry.user_message for entry in instance.all_logs(result.run_id)]
    assert "Waiting for a place in the pool ml_tasks, which run before has." in messages


#: A run of one step in the pool, which begins when a line comes and ends with the next.
RUN = """
import sys
from dagster import DagsterInstance, ResourceParam, asset, materialize
from grade_ml.core.clock import Clock
from grade_ml.core.settings import Settings
from grade_ml.orchestration.queue import ML_TASKS
from grade_ml.orchestration.resources import Platform, platform_resource
from grade_ml.orchestration.steps import step

@asset(pool=ML_TASKS)
@step
def thing(platform: ResourceParam[Platform]) -> None:
    print("began", flush=True)
    input()

resources = {"platform": platform_resource(Settings.from_environment(), Clock())}
print("ready", flush=True)
input()
with DagsterInstance.ephemeral() as instance:
    sys.exit(not materialize([thing], instance=instance, resources=resources).success)
"""


@pytest.mark.slow
def test_of_two_processes_that_start_at_once_the_second_works_when_the_first_was_killed(
    engine: Engine, settings: Settings
):
    environment = {**os.environ, **as_environment(settings)}
    command = [sys.executable, "-c", RUN]
    with ExitStack() as stack:
        runs = [
            stack.enter_context(
                subprocess.Popen(
                    command,
                    env=environment,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    text=True,
                )
            )
            for _ in range(2)
        ]
        for process in runs:
            stack.callback(process.kill)
            assert process.stdout and process.stdout.readline() == "ready\n"
        for process in runs:
            print(file=process.stdin, flush=True)
        began = {started.stdout.fileno(): started for started in runs if started.stdout}
        (first,), _, _ = select.select(began, [], [], 120)
        holder = began.pop(first)
        (waiting,) = began.values()
        assert holder.stdout and holder.stdout.readline() == "began\n"
        # Both are connected, and one alone has the place.
        wait_until(lambda: named(engine) == 2, "the second run wants a place")
        assert not select.select(began, [], [], 0)[0]
        holder.kill()
        assert waiting.stdout and waiting.stdout.readline() == "began\n"
        print(file=waiting.stdin, flush=True)
        assert waiting.wait(60) == 0


def named(engine: Engine) -> int:
    """Return how many runs have or want a place."""
    query = (
        "select count(*) from pg_stat_activity where application_name like 'run %' "
        "and datname = current_database()"
    )
    with engine.connect() as connection:
        return int(connection.execute(sa.text(query)).scalar_one())
