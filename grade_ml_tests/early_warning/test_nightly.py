"""From stored forecasts to what is said of risk, on a real database and registry."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import pandas as pd
import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result
from sqlalchemy import Engine

from grade_ml.cli import group
from grade_ml.core.errors import NotReadyError, SourceError
from grade_ml.core.settings import Settings
from grade_ml.early_warning import nightly
from grade_ml.early_warning import store as risk_store
from grade_ml.early_warning.interventions import read_table
from grade_ml.early_warning.risk_model import RiskModel
from grade_ml.forecasting.trajectory import NAME
from grade_ml.registry.registry import Registry
from grade_ml.registry.workspace import Workspace
from grade_ml.serving.forecasts import ServedTrajectory, forecast_running
from grade_ml_tests.ensemble.campus import store as fill
from grade_ml_tests.factories import PSEUDONYMS
from grade_ml_tests.forecasting.campus import AT, TODAY, campus, compute, fitted, workspace

EARLIER = TODAY - timedelta(days=7)
LOAD = 1
TABLES = (risk_store.risk_period, risk_store.intervention, risk_store.anomaly)


@pytest.fixture
def courses(engine: Engine, settings: Settings, tmp_path: Path) -> list[str]:
    """Courses of the small campus, forecast today and a week ago, from features of both days."""
    fill(engine, campus())
    compute(engine, settings, campus(), EARLIER)
    return forecast(engine, settings, tmp_path, EARLIER, TODAY)


def forecast(engine: Engine, settings: Settings, tmp_path: Path, *days: date) -> list[str]:
    """Compute the features of the last day and forecast all; return the courses."""
    names = compute(engine, settings, campus(), days[-1])
    folder = tmp_path / "model"
    folder.mkdir()
    one = fitted()
    one.model.save(folder)
    RiskModel.fit(one.forecasts, one.panels).save(folder)
    registry = Registry(str(settings.mlflow_tracking_uri), settings.storage_root, PSEUDONYMS)
    version = registry.register(
        NAME,
        folder,
        metrics={},
        parameters={},
        features=(),
        data_version="data",
        code_version="code",
        trained_at=AT,
    )
    for day in days:
        with workspace(engine, settings, day) as some:
            forecast_running(some, names, ServedTrajectory(one.model, version.version))
    return names


def night(some: Workspace, names: list[str]) -> None:
    nightly.keep_periods(some, names)
    nightly.keep_interventions(some, names, read_table(), LOAD)
    nightly.keep_anomalies(some, names)


def stored(engine: Engine, table, as_of: date) -> pd.DataFrame:
    with engine.connect() as connection:
        return risk_store.read(connection, table, table.c.as_of == as_of)


@pytest.mark.slow
def test_nights_of_a_week(engine: Engine, settings: Settings, courses, environment, tmp_path):
    for day in (EARLIER, TODAY):
        with workspace(engine, settings, day) as some:
            night(some, courses)
    periods, tasks, anomalies = (stored(engine, table, TODAY) for table in TABLES)
    assert len(periods) and periods["severity"].between(0.5, 1).all()
    at_risk = set(periods[["section_id", "student_id"]].itertuples(index=False, name=None))
    assert at_risk == set(tasks[["section_id", "student_id"]].itertuples(index=False, name=None))
    planned = tasks[tasks["planned_on"].notna()]
    assert planned.groupby(["section_id", "owner"]).size().max() == LOAD
    assert tasks["planned_on"].isna().any()
    assert (anomalies["p_adjusted"] <= 0.1).all()

    # The earlier night, said again, is what it was.
    kept = [stored(engine, table, EARLIER) for table in TABLES]
    with workspace(engine, settings, EARLIER) as some:
        night(some, courses)
    for table, frame in zip(TABLES, kept, strict=True):
        pd.testing.assert_frame_equal(stored(engine, table, EARLIER), frame)

    def ask(*more: str, as_of: date = TODAY, **variables: str) -> Result:
        period = periods.iloc[0]
        asked = ["predict", "--student", period["student_id"], "--course", period["course_id"]]
        return CliRunner().invoke(
            group,
            [*asked, "--forecast", "--as-of", str(as_of), *more],
            env={**environment, **variables},
        )

    the_command_tells(ask, periods.iloc[0], tmp_path)
    # What was stored is told, as that of the student's arm would be, and not what is planned anew.
    table = risk_store.intervention
    with engine.begin() as connection:
        connection.execute(
            sa.update(table).values(planned_on=None, left_out="withheld by an experiment")
        )
    told = json.loads(ask("--json").stdout)["interventions"]
    mine = tasks[tasks["student_id"] == periods["student_id"].iloc[0]]
    mine = mine[mine["section_id"] == periods["section_id"].iloc[0]]
    assert {(one["action"], one["left_out"]) for one in told} == {
        (action, "withheld by an experiment") for action in mine["action"]
    }
    assert "Left out: withheld by an experiment." in ask().stdout


def the_command_tells(ask: Callable[..., Result], period: pd.Series, folder: Path) -> None:
    words = ask()
    assert words.exit_code == 0, words.exception
    assert "at risk from" in words.stdout and "What may be done" in words.stdout
    assert "newest forecast is that of" not in words.stdout
    answer = json.loads(ask("--json").stdout)
    assert answer["as_of"] == str(TODAY)
    assert answer["periods"][0]["severity"] == pytest.approx(period["severity"])
    assert len(answer["weeks"]) and answer["interventions"][0]["rank"] == 1
    assert answer["assignments"][0]["due_on"] > str(TODAY)
    for suffix, head in ((".png", b"\x89PNG"), (".svg", b"<?xml")):
        path = folder / f"fan{suffix}"
        assert ask("--plot", str(path)).exit_code == 0
        assert path.read_bytes().startswith(head)
    nowhere = ask("--plot", str(folder / "nowhere" / "fan.png"))
    assert "folder that exists" in nowhere.exception.remedy
    assert "ends in neither" in ask("--plot", "fan.pdf").output
    later = ask(as_of=TODAY + timedelta(days=1))
    assert f"the newest forecast is that of {TODAY}" in later.stdout
    never = ask(as_of=EARLIER - timedelta(days=1))
    assert isinstance(never.exception, NotReadyError)
    assert "generate_time_series_forecasts" in never.exception.remedy
    own = ask(GRADE_ML_INTERVENTIONS=str(folder / "none.csv"))
    assert isinstance(own.exception, SourceError)


def test_the_first_night_knows_nothing_of_the_week_before(
    engine: Engine, settings: Settings, tmp_path: Path
):
    fill(engine, campus())
    names = forecast(engine, settings, tmp_path, TODAY)
    with workspace(engine, settings) as some:
        night(some, names)
    assert len(stored(engine, risk_store.risk_period, TODAY))
    # Activity needs no forecast of the week before; results do.
    assert set(stored(engine, risk_store.anomaly, TODAY)["kind"]) <= {"activity"}


def test_without_forecasts_of_the_day_it_is_said(engine: Engine, settings: Settings):
    with (
        workspace(engine, settings) as some,
        pytest.raises(NotReadyError, match=r"no forecasts of 2025-11-10 for math"),
    ):
        nightly.keep_periods(some, ["math"])
