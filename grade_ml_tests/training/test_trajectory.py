"""The training of the trajectory model and what serves afterwards, on a real database."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import date, timedelta
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import Engine

from grade_ml.core.errors import NotReadyError
from grade_ml.core.settings import Settings
from grade_ml.early_warning.risk_model import RiskModel
from grade_ml.features.store import SEQUENCES
from grade_ml.forecasting import store
from grade_ml.forecasting.contract import Method
from grade_ml.forecasting.loading import sections_where
from grade_ml.forecasting.trajectory import NAME
from grade_ml.gradebook.schema import section
from grade_ml.registry.history import Stage
from grade_ml.registry.registry import Alias, Registry
from grade_ml.registry.transition import Stages
from grade_ml.registry.workspace import Workspace
from grade_ml.serving.forecasts import serving
from grade_ml.training.trajectory import train_trajectory, verdicts
from grade_ml_tests.ensemble.campus import store as fill
from grade_ml_tests.factories import PSEUDONYMS
from grade_ml_tests.forecasting.campus import (
    AT,
    TODAY,
    campus,
    compute,
    fitted,
    workspace,
)

pytestmark = pytest.mark.slow

Opener = Callable[[date], Callable[[], AbstractContextManager[Workspace]]]
#: Together they are better than the naive method among them.
GOOD = (Method.LAST, Method.SLOT)
#: Alone it is no better than itself, so that its verdict is against it.
NAIVE = (Method.MEAN,)
#: A day by which the sections that run today will have ended.
LATER = TODAY + timedelta(days=160)


@pytest.fixture
def on(engine: Engine, settings: Settings) -> Opener:
    """Return what opens a workspace for a day; the campus and its features are stored."""
    fill(engine, campus())
    compute(engine, settings, campus(), TODAY)
    return lambda day: partial(workspace, engine, settings, day)


@pytest.fixture
def stages(engine: Engine, settings: Settings) -> Stages:
    registry = Registry(str(settings.mlflow_tracking_uri), settings.storage_root, PSEUDONYMS)
    return Stages(engine, registry, AT)


def champion(stages: Stages) -> int | None:
    version = stages.registry.get(NAME, Alias.CHAMPION)
    return version.version if version else None


def serves(opened: Callable[[], AbstractContextManager[Workspace]]) -> tuple[int, tuple[str, ...]]:
    with opened() as day_workspace:
        served = serving(day_workspace)
        return served.version, served.degraded


def test_without_features_the_error_names_the_remedy(engine: Engine, settings: Settings):
    fill(engine, campus())
    with pytest.raises(NotReadyError, match="No features"):
        train_trajectory(partial(workspace, engine, settings))


def test_a_model_that_meets_every_condition_becomes_champion_and_is_kept(
    on: Opener, stages: Stages, engine: Engine
):
    waiting: list[int] = []

    def look(message: str) -> None:
        waiting.append(engine.pool.checkedout())

    first = train_trajectory(on(LATER), offered=GOOD, on_progress=look)
    # No transaction is open while a model is fitted.
    assert waiting and not any(waiting)
    assert first.fitted and first.accepted, first.verdicts
    version = stages.registry.get(NAME, Alias.CHAMPION)
    assert version and version.version == 1
    assert version.metrics["rmse"] < version.metrics["naive_rmse"]
    assert {"coverage80", "coverage95", "brier", "training_seconds"} <= set(version.metrics)
    assert version.parameters["as_of"] == str(LATER)
    assert RiskModel.load(stages.registry.fetch(version)).paths
    assert serves(on(LATER)) == (1, ())

    again = train_trajectory(on(LATER), offered=GOOD)
    assert not again.fitted and "version 1 is kept" in again.reason
    assert again.verdicts == first.verdicts

    # It knows what had not ended on an earlier day, which gets a model of its own.
    with pytest.raises(NotReadyError, match=f"no model for forecasts of {TODAY}"):
        serves(on(TODAY))
    past = train_trajectory(on(TODAY), offered=GOOD)
    assert past.fitted and "version 1 knows more" in past.reason
    assert champion(stages) == serves(on(LATER))[0] == 1
    assert serves(on(TODAY))[0] == serves(on(LATER - timedelta(days=1)))[0] == 2

    # A champion that cannot be read is replaced; until then another serves, reported as degraded.
    (stages.registry.fetch(version) / "trajectory.json").write_text("{}")
    number, degraded = serves(on(LATER))
    assert number == 2 and "version 1 of the model trajectory cannot serve" in degraded[0]
    assert train_trajectory(on(LATER), offered=GOOD).fitted
    assert champion(stages) == 3 and serves(on(LATER)) == (3, ())


def test_where_a_gate_fails_the_former_model_serves_on(on: Opener, stages: Stages, engine: Engine):
    train_trajectory(on(TODAY), offered=GOOD)
    failed = train_trajectory(on(LATER), offered=NAIVE)
    assert failed.fitted and not failed.accepted
    assert "stays a candidate: better_than_naive failed" in failed.reason
    assert champion(stages) == 1
    assert stages.of(failed.version) is Stage.CANDIDATE
    assert serves(on(LATER)) == (1, ())
    # It is not fitted again in each nightly run, but each run reports its verdicts.
    again = train_trajectory(on(LATER), offered=NAIVE)
    assert not again.fitted and again.verdicts == failed.verdicts


def test_where_no_model_passed_a_failed_model_serves_and_is_degraded(on: Opener, stages: Stages):
    train_trajectory(on(LATER), offered=NAIVE)
    assert champion(stages) is None
    version, degraded = serves(on(LATER))
    assert version == 1
    assert "failed its checks and serves because no other can" in degraded[0]


def test_the_newest_model_of_the_former_version_serves_on_and_becomes_champion(
    on: Opener, stages: Stages, tmp_path: Path
):
    """Its versions have rows and files, and neither aliases nor figures."""
    fitted().model.save(tmp_path)
    RiskModel.fit(fitted().forecasts, fitted().panels).save(tmp_path)
    for day in (TODAY, LATER):
        with on(day)() as day_workspace:
            version = stages.registry.register(
                NAME,
                tmp_path,
                metrics={},
                parameters={"as_of": day, "seed": 0},
                features=(),
                data_version="data",
                code_version="code",
                trained_at=AT,
            )
            ended = sections_where(day_workspace, section.c.ends_on < day)["section_id"]
            hashes = {
                name: value
                for frame_hashes in day_workspace.frames.hashes(None, SEQUENCES).values()
                for name, value in frame_hashes.items()
                if name in set(ended)
            }
            store.remember_model(
                day_workspace.connection, version.version, day, hashes, accepted=True
            )
    assert serves(on(TODAY)) == (1, ())
    assert serves(on(LATER)) == (2, ())
    kept = train_trajectory(on(LATER), offered=GOOD)
    assert not kept.fitted and "became champion where there was none" in kept.reason
    assert champion(stages) == 2
    assert serves(on(TODAY)) == (1, ())

    # Once rolled back, it does not come back by itself.
    stages.transition(kept.version, Stage.ROLLED_BACK, kept.evidence("worse"))
    assert "is rolled back" in train_trajectory(on(LATER), offered=GOOD).reason
    version, degraded = serves(on(LATER))
    assert version == 1 and "version 2 of the model trajectory was rolled back" in degraded[0]


@pytest.mark.parametrize(
    ("figures", "passed"),
    [
        ({}, (True, True)),
        ({"rmse": 9.0, "naive_rmse": 10.0, "coverage80": 0.8, "coverage95": 0.95}, (True, True)),
        ({"rmse": 10.0, "naive_rmse": 10.0}, (False, True)),
        ({"rmse": 10.0}, (True, True)),
        ({"coverage80": 0.6, "coverage95": 0.95}, (True, False)),
    ],
)
def test_verdicts_rest_on_what_is_known(figures: dict[str, float], passed: tuple[bool, bool]):
    assert tuple(verdict.passed for verdict in verdicts(figures)) == passed
