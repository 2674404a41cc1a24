from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa
from click.testing import CliRunner
from sqlalchemy import Engine

from grade_ml.cli.status import command
from grade_ml.core.settings import Settings
from grade_ml.gradebook import schema


@pytest.fixture
def installation(
    settings: Settings, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> Settings:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return settings


def status() -> dict:
    ran = CliRunner().invoke(command, ["--json"], catch_exceptions=False)
    assert ran.exit_code == 0
    return json.loads(ran.stdout)


def test_an_installation_that_never_started_stays_untouched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("GRADE_ML_HOME", str(tmp_path))
    ran = CliRunner().invoke(command, catch_exceptions=False)
    assert ran.exit_code == 0
    for said in ("never started", "grade-ml up", "Empty", "None yet"):
        assert said in ran.stdout
    assert list(tmp_path.iterdir()) == []
    assert status()["gradebook"] is None


@pytest.mark.usefixtures("engine")
def test_an_empty_gradebook_without_runs(installation: Settings):
    report = status()
    assert report["gradebook"]["last_load"] is None
    assert report["gradebook"]["rows"]["student"] == 0
    assert report["predictions"] is None
    assert report["jobs"]["last_runs"]["train_traditional_models"] is None
    assert report["jobs"]["daemon_alive"] is False
    assert report["champions"] == {}
    assert report["services"]["postgresql"] == "elsewhere"


@pytest.mark.usefixtures("installation")
def test_rows_and_the_last_load(engine: Engine):
    with engine.begin() as connection:
        connection.execute(sa.insert(schema.course), [{"course_id": "A"}, {"course_id": "B"}])
        connection.execute(
            sa.insert(schema.load).values(
                source="csv",
                loaded_at=datetime(2026, 1, 2, tzinfo=UTC),
                rows_loaded={"course": 2},
                rows_unchanged={},
                rows_removed={},
                rows_quarantined=0,
            )
        )
    gradebook = status()["gradebook"]
    assert gradebook["rows"]["course"] == 2
    assert gradebook["last_load"]["source"] == "csv"
    shown = CliRunner().invoke(command).stdout
    assert "Last load: csv" in shown and "course" in shown


@pytest.mark.usefixtures("installation")
def test_a_database_that_does_not_answer_is_said_and_not_raised(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GRADE_ML_DATABASE_URL", "postgresql://nobody:secret@127.0.0.1:1/none")
    report = status()
    assert "does not answer" in report["gradebook"]["error"]
    assert "secret" not in json.dumps(report)
    assert "cannot be read" in CliRunner().invoke(command).stdout
