from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from dagster import AssetCheckResult, DagsterInstance, Definitions, asset, asset_check, materialize
from sqlalchemy import Engine

from grade_ml.core.database import reachable
from grade_ml.core.errors import ServiceError
from grade_ml.core.settling import settle
from grade_ml.orchestration import retrying
from grade_ml.orchestration.retrying import retried

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
    monkeypatch.setattr(retrying, "_SECONDS", 0)


def test_a_lost_connection_is_a_service_error(engine: Engine):
    with pytest.raises(ServiceError, match="went away"):
        lose(engine)


def test_an_asset_and_its_check_start_over_after_a_loss(engine: Engine, instance: DagsterInstance):
    tried: list[str] = []

    @asset
    @retried
    def thing() -> None:
        tried.append("asset")
        if tried.count("asset") < 3:
            lose(engine)

    @asset_check(asset=thing)
    @retried
    def check() -> Iterator[AssetCheckResult]:
        tried.append("check")
        if tried.count("check") < 2:
            lose(engine)
        yield AssetCheckResult(passed=True)

    result = materialize([thing, check], instance=instance, raise_on_error=False)
    assert result.success
    assert tried == ["asset"] * 3 + ["check"] * 2


def test_whatever_else_fails_is_not_tried_again(instance: DagsterInstance):
    tried = []

    @asset
    @retried
    def thing() -> None:
        tried.append(1)
        raise ValueError("wrong")

    assert not materialize([thing], instance=instance, raise_on_error=False).success
    assert len(tried) == 1


def test_no_course_is_the_cause_of_a_loss(engine: Engine):
    def work(keys: object) -> None:
        with engine.connect() as connection:
            connection.execute(sa.text("select pg_terminate_backend(pg_backend_pid())"))

    with pytest.raises(sa.exc.OperationalError):
        settle(["A", "B"], work)


def test_every_step_starts_over(definitions: Definitions):
    bodies = {
        node.name: node.compute_fn.decorated_fn
        for job in definitions.resolve_all_job_defs()
        for node in job.all_node_defs
    }
    assert len(bodies) > 50
    plain = [name for name, body in bodies.items() if not hasattr(body, "__wrapped__")]
    assert not plain
