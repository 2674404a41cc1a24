"""From stored forecasts to stored risks, on a real database and registry."""

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
from grade_ml.early_warning import tables as risk_tables
from grade_ml.early_warning.interventions import read_table
from grade_ml.early_warning.risk_model import RiskModel
from grade_ml.forecasting.contract import Method
from grade_ml.forecasting.trajectory import NAME
from grade_ml.registry.registry import Registry
from grade_ml.registry.workspace import Workspace
from grade_ml.serving.forecasts import ServedTrajectory, forecast_running
from grade_ml_tests.ensemble.campus import store as fill
from grade_ml_tests.factories import PSEUDONYMS
from grade_ml_tests.forecasting.campus import AT, TODAY, campus, compute, fitted, workspace

EARLIER = TODAY - timedelta(days=7)
LOAD = 1
TABLES = (risk_tables.risk_period, risk_tables.intervention, risk_tables.anomaly)


@pytest.fixture
def courses(engine: Engine, settings: Settings, tmp_path: Path) -> list[str]:
    """Courses of the small campus, forecast today and a week ago, from features of both days."""
    fill(engine, campus())
    compute(engine, settings, campus(), EARLIER)
    return forecast(engine, settings, tmp_path, EARLIER, TODAY)


def forecast(
    engine: Engine, settings: Settings, tmp_path: Path, *days: date, more: tuple[Method, ...] = ()
) -> list[str]:
    """Compute the features of the last day and forecast all; return the courses."""
    names = compute(engine, settings, campus(), days[-1])
    folder = tmp_path / "model"
    folder.mkdir()
    fit = fitted(*more)
    fit.model.save(folder)
    RiskModel.fit(fit.forecasts, fit.panels).save(folder)
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
        with workspace(engine, settings, day) as day_workspace:
            forecast_running(day_workspace, names, ServedTrajectory(fit.model, version.version))
    return names


def nightly_run(day_workspace: Workspace, names: list[str]) -> None:
    nightly.keep_periods(day_workspace, names)
    nightly.keep_interventions(day_workspace, names, read_table(), LOAD)
    nightly.keep_anomalies(day_workspace, names)


def stored(engine: Engine, table, as_of: date) -> pd.DataFrame:
    with engine.connect() as connection:
        return risk_store.read(connection, table, table.c.as_of == as_of)


@pytest.mark.slow
def test_nightly_runs_of_a_week(engine: Engine, settings: Settings, courses, environment, tmp_path):
    for day in (EARLIER, TODAY):
        with workspace(engine, settings, day) as day_workspace:
            nightly_run(day_workspace, courses)
    periods, tasks, anomalies = (stored(engine, table, TODAY) for table in TABLES)
    assert len(periods) and periods["severity"].between(0.5, 1).all()
    at_risk = set(periods[["section_id", "student_id"]].itertuples(index=False, name=None))
    assert at_risk == set(tasks[["section_id", "student_id"]].itertuples(index=False, name=None))
    planned = tasks[tasks["planned_on"].notna()]
    assert planned.groupby(["section_id", "owner"]).size().max() == LOAD
    assert tasks["planned_on"].isna().any()
    assert (anomalies["p_adjusted"] <= 0.1).all()

    # The earlier nightly run, repeated, gives the same.
    kept = [stored(engine, table, EARLIER) for table in TABLES]
    with workspace(engine, settings, EARLIER) as day_workspace:
        nightly_run(day_workspace, courses)
    for table, frame in zip(TABLES, kept, strict=True):
        pd.testing.assert_frame_equal(stored(engine, table, EARLIER), frame)

    def predict_command(*more: str, as_of: date = TODAY, **variables: str) -> Result:
        period = periods.iloc[0]
        command = ["predict", "--student", period["student_id"], "--course", period["course_id"]]
        return CliRunner().invoke(
            group,
            [*command, "--forecast", "--as-of", str(as_of), *more],
            env={**environment, **variables},
        )

    the_command_shows(predict_command, periods.iloc[0], tmp_path)
    # The stored interventions are returned, those of the student's arm, and no new plan.
    table = risk_tables.intervention
    with engine.begin() as connection:
        connection.execute(
            sa.update(table).values(planned_on=None, left_out="withheld by an experiment")
        )
    interventions = json.loads(predict_command("--json").stdout)["interventions"]
    mine = tasks[tasks["student_id"] == periods["student_id"].iloc[0]]
    mine = mine[mine["section_id"] == periods["section_id"].iloc[0]]
    assert {
        (intervention["action"], intervention["left_out"]) for intervention in interventions
    } == {(action, "withheld by an experiment") for action in mine["action"]}
    assert "Left out: withheld by an experiment." in joined(predict_command())


def joined(result: Result) -> str:
    """Return what was printed without its line breaks, which depend on the terminal."""
    return " ".join(result.stdout.split())


def the_command_shows(
    predict_command: Callable[..., Result], period: pd.Series, folder: Path
) -> None:
    words = predict_command()
    assert words.exit_code == 0, words.exception
    assert "at risk from" in joined(words) and "What may be done" in joined(words)
    assert "newest forecast is that of" not in joined(words)
    answer = json.loads(predict_command("--json").stdout)
    assert answer["as_of"] == str(TODAY)
    assert answer["periods"][0]["severity"] == pytest.approx(period["severity"])
    assert len(answer["weeks"]) and answer["interventions"][0]["rank"] == 1
    assert answer["assignments"][0]["due_on"] > str(TODAY)
    for suffix, head in ((".png", b"\x89PNG"), (".svg", b"<?xml")):
        path = folder / f"fan{suffix}"
        assert predict_command("--plot", str(path)).exit_code == 0
        assert path.read_bytes().startswith(head)
    nowhere = predict_command("--plot", str(folder / "nowhere" / "fan.png"))
    assert "is not a folder that can be written" in nowhere.output
    assert "ends in neither" in predict_command("--plot", "fan.pdf").output
    later = predict_command(as_of=TODAY + timedelta(days=1))
    assert f"the newest forecast is that of {TODAY}" in joined(later)
    never = predict_command(as_of=EARLIER - timedelta(days=1))
    assert isinstance(never.exception, NotReadyError)
    assert "generate_time_series_forecasts" in never.exception.remedy
    own = predict_command(GRADE_ML_INTERVENTIONS=str(folder / "none.csv"))
    assert isinstance(own.exception, SourceError)


def test_the_first_nightly_run_knows_nothing_of_the_week_before(
    engine: Engine, settings: Settings, tmp_path: Path
):
    fill(engine, campus())
    names = forecast(engine, settings, tmp_path, TODAY)
    with workspace(engine, settings) as day_workspace:
        nightly_run(day_workspace, names)
    assert len(stored(engine, risk_tables.risk_period, TODAY))
    # Activity needs no forecast of the week before; results do.
    assert set(stored(engine, risk_tables.anomaly, TODAY)["kind"]) <= {"activity"}


def test_missing_forecasts_of_the_day_are_reported(engine: Engine, settings: Settings):
    with (
        workspace(engine, settings) as day_workspace,
        pytest.raises(NotReadyError, match=r"no forecasts of 2025-11-10 for math"),
    ):
        nightly.keep_periods(day_workspace, ["math"])
