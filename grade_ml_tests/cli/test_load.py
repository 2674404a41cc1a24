"""`grade-ml load`, as a person and as a program call it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result
from sqlalchemy import Engine

from grade_ml.campus.simulated import Truth, truth_folder
from grade_ml.cli.load import command
from grade_ml.core.clock import Clock
from grade_ml.core.errors import SourceError
from grade_ml.core.settings import Settings
from grade_ml.gradebook import schema
from grade_ml_tests.factories import write_oulad
from grade_ml_tests.gradebook import roster


@pytest.fixture
def environment(settings: Settings) -> dict[str, str]:
    """The variables that point a command at the test's own services."""
    return {
        "GRADE_ML_HOME": str(settings.home),
        "GRADE_ML_DATABASE_URL": str(settings.database_url),
        "DAGSTER_POSTGRES_URL": str(settings.dagster_postgres_url),
        "MLFLOW_TRACKING_URI": str(settings.mlflow_tracking_uri),
        "GRADE_ML_STORAGE": settings.storage_root,
    }


def _run(environment: dict[str, str], *arguments: str) -> Result:
    return CliRunner().invoke(
        command, arguments, env={**environment, "COLUMNS": "200"}, catch_exceptions=False
    )


def test_a_summary_per_table_is_printed_and_the_second_load_reports_no_change(
    environment: dict[str, str], tmp_path: Path
) -> None:
    folder = str(write_oulad(tmp_path / "oulad", modules=["AAA"]))
    first = _run(environment, "oulad", folder)
    second = _run(environment, "oulad", folder)

    lines = {line.split()[1]: line.split() for line in first.stdout.splitlines() if "│" in line}
    assert lines["result"][3::2] == ["30", "0", "0", "0"]
    assert "Nothing changed" not in first.stdout
    assert "Nothing changed" in second.stdout
    assert "Reading studentVle.csv" in first.stderr


class Then(Clock):
    """A clock that stands still."""

    def now(self) -> datetime:
        return datetime(2031, 5, 6, 7, tzinfo=UTC)


def test_a_load_is_recorded_at_the_time_of_the_clock_that_is_handed_in(
    environment: dict[str, str], tmp_path: Path, engine: Engine
) -> None:
    folder = str(write_oulad(tmp_path / "oulad", modules=["AAA"]))
    CliRunner().invoke(command, ["oulad", folder], env=environment, obj=Then())
    with engine.connect() as connection:
        assert connection.execute(sa.select(schema.load.c.loaded_at)).scalar() == Then().now()


def test_json_is_the_only_thing_on_stdout(environment: dict[str, str], tmp_path: Path) -> None:
    folder = write_oulad(tmp_path / "oulad", modules=["AAA"])
    with (folder / "studentAssessment.csv").open("a") as file:
        file.write("11,4242424242,3,0,50\n")
    report = json.loads(_run(environment, "oulad", str(folder), "--json").stdout)

    assert report["source"] == "oulad"
    assert report["loaded"]["enrollment"] == 12
    assert report["quarantined"] == 1
    assert report["problems"][0]["row"] == 32
    assert "4242424242" not in json.dumps(report)


def test_a_bad_row_is_shown_with_its_place_and_remedy_but_no_student(
    environment: dict[str, str], tmp_path: Path
) -> None:
    folder = write_oulad(tmp_path / "oulad", modules=["AAA"])
    with (folder / "studentAssessment.csv").open("a") as file:
        file.write("11,4242424242,3,0,50\n12,65000,3,0,500\n")
    output = _run(environment, "oulad", str(folder)).output

    assert "studentAssessment.csv, row 33, score: 500.0 is not between 0 and 200" in output
    assert "studentAssessment.csv, row 32, id_student: [hidden] is no known student" in output
    assert "4242424242" not in output


def test_shift_to_today_uses_the_setting_for_today(
    environment: dict[str, str], tmp_path: Path
) -> None:
    folder = str(write_oulad(tmp_path / "oulad", modules=["AAA"]))
    environment["GRADE_ML_AS_OF"] = "2020-06-01"
    first = _run(environment, "oulad", folder, "--shift-to-today", "--json")
    again = _run(environment, "oulad", folder, "--shift-to-today", "--json")

    assert json.loads(first.stdout)["loaded"]["result"] < 30
    assert not json.loads(again.stdout)["changed"]


def test_a_simulated_campus_is_loaded_once_and_its_truth_kept(
    environment: dict[str, str], settings: Settings
) -> None:
    environment["GRADE_ML_AS_OF"] = "2026-11-24"
    call = ("simulated", "--students", "40", "--courses", "2", "--terms", "2", "--seed", "3")
    first = json.loads(_run(environment, *call, "--json").stdout)
    again = json.loads(_run(environment, *call, "--json").stdout)

    assert first["loaded"]["student"] == 40
    assert first["quarantined"] == 0
    assert not again["changed"]
    truth = Truth.read(truth_folder(settings))
    assert truth.parameters["config"]["seed"] == 3
    assert len(truth.enrollments) == first["loaded"]["enrollment"]


def test_a_drift_is_injected_into_a_campus_that_is_there(environment: dict[str, str]) -> None:
    environment["GRADE_ML_AS_OF"] = "2026-11-24"
    call = ("simulated", "--students", "40", "--courses", "2", "--terms", "2", "--seed", "3")
    _run(environment, *call)
    shift = ("--grading-shift", "-15", "2026-10-20", "--json")
    report = json.loads(_run(environment, *call, *shift).stdout)
    assert report["loaded"]["result"] > 0 == report["loaded"].get("student", 0)
    assert _run(environment, *call, "--grading-shift", "-15", "soon").exit_code == 2
    # Nothing was planned, so help that works changes what the drift changed, and no more.
    helped = json.loads(_run(environment, *call, "--help-works", "0.4", "--json").stdout)
    assert helped["loaded"] == report["loaded"]


def test_a_negative_seed_is_an_error_before_any_service_starts(tmp_path: Path) -> None:
    home = tmp_path / "home"
    result = _run({"GRADE_ML_HOME": str(home)}, "simulated", "--seed", "-1")
    assert result.exit_code == 2
    assert "--seed" in result.stderr
    assert not home.exists()


def test_a_whole_oneroster_delivery_ends_what_it_no_longer_names(
    environment: dict[str, str], tmp_path: Path
) -> None:
    environment["GRADE_ML_AS_OF"] = "2025-10-14"
    shorter = roster.source(enrollments=roster.source()["enrollments"][1:])
    first, second = (
        str(roster.write(tmp_path / name, rows))
        for name, rows in (("first", roster.source()), ("second", shorter))
    )
    _run(environment, "oneroster", first)
    environment["GRADE_ML_VANISHING_SHARE"] = "0.2"
    with pytest.raises(SourceError, match="1 of 4 enrollments would vanish"):
        _run(environment, "oneroster", second)
    output = _run(environment, "oneroster", second, "--allow-vanishing").output

    assert "1 enrollment is no longer in the source and ends on 2025-10-14." in output


@pytest.mark.parametrize("source", ["oulad", "oneroster", "csv"])
def test_a_path_that_does_not_exist_is_an_error_before_any_service_starts(
    tmp_path: Path, source: str
) -> None:
    home = tmp_path / "home"
    with pytest.raises(SourceError, match="does not exist"):
        _run({"GRADE_ML_HOME": str(home)}, source, str(tmp_path / "nothing"))
    assert not home.exists()


def test_every_source_has_help() -> None:
    for source in ("oulad", "oneroster", "csv", "simulated"):
        assert "--json" in _run({}, source, "--help").stdout
