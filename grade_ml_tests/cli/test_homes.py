"""What each command does on a home that cannot be used, and on a home with an odd path."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from dotenv import dotenv_values

from grade_ml.cli import group, up
from grade_ml.core import settings as settings_module
from grade_ml.core.database import DatabaseUrls
from grade_ml.core.errors import ConfigurationError, GradeMLError
from grade_ml.core.settings import Settings
from grade_ml.orchestration.instance import prepare_home
from grade_ml_tests.conftest import new_database

pytestmark = pytest.mark.slow


@pytest.fixture(params=["file", "file/home", "/proc/home", "n" * 300])
def unusable(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A home that cannot be made, of the superuser neither."""
    (tmp_path / "file").write_text("")
    home = tmp_path / request.param
    for field in Settings.model_fields.values():
        monkeypatch.delenv(str(field.validation_alias), raising=False)
    monkeypatch.setenv("GRADE_ML_HOME", str(home))
    return home


@pytest.mark.parametrize(
    "command",
    [
        "load simulated --students 20",
        "run refresh_gradebook",
        "predict --student a --course b",
        "backtest --train-terms a --test-terms b",
    ],
)
def test_a_command_names_the_home_that_cannot_be_written(unusable: Path, command: str):
    result = CliRunner().invoke(group, command.split())
    assert isinstance(result.exception, ConfigurationError)
    assert str(unusable) in result.exception.message
    assert "GRADE_ML_HOME" in result.exception.remedy


@pytest.mark.parametrize(
    "command",
    [
        "predict",
        "predict --student a --course b",
        "predict --explain --goal 70",
        "predict --forecast",
        "backtest --train-terms a --test-terms b",
        "experiment list",
    ],
)
def test_the_first_command_of_an_installation_makes_the_tables(
    server: DatabaseUrls, environment: dict[str, str], command: str
):
    with new_database(server, "grade_ml_without_tables", "template1") as url:
        result = CliRunner().invoke(
            group, command.split(), env=environment | {"GRADE_ML_DATABASE_URL": url}
        )
    assert result.exit_code == 0 or isinstance(result.exception, GradeMLError), result.exception


def test_up_names_the_home_that_cannot_be_written(unusable: Path):
    with pytest.raises(ConfigurationError, match="GRADE_ML_HOME"), up._only_one(unusable, ""):
        pass


def test_status_reports_that_the_home_cannot_be_written(unusable: Path):
    result = CliRunner().invoke(group, ["status", "--json"])
    assert result.exit_code == 0
    assert "cannot be written" in json.loads(result.output)["services"]["postgresql"]


def test_the_home_of_dagster_is_named_by_its_own_variable(tmp_path: Path):
    (tmp_path / "file").write_text("")
    settings = Settings(_env_file=None, home=tmp_path, dagster_home=tmp_path / "file" / "home")
    with pytest.raises(ConfigurationError, match="DAGSTER_HOME"):
        prepare_home(settings)


@pytest.mark.parametrize("name", ["it's", "$HOME #x", 'ü \\ "q"', "a\\'b"])
def test_the_home_of_dagster_is_remembered_whatever_its_name(tmp_path: Path, name: str):
    file = tmp_path / ".env"
    file.write_text("GRADE_ML_TIMEZONE=Europe/Zürich", encoding="utf-8")
    up.remember_dagster_home(file, tmp_path / name)
    assert dotenv_values(file) == {
        "GRADE_ML_TIMEZONE": "Europe/Zürich",
        "DAGSTER_HOME": str(tmp_path / name),
    }


@pytest.mark.security
def test_two_homes_one_after_the_other_keep_what_is_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(settings_module, "REPOSITORY", tmp_path)
    for field in Settings.model_fields.values():
        monkeypatch.delenv(str(field.validation_alias), raising=False)
    (tmp_path / ".env").write_text(f"GRADE_ML_HOME={tmp_path / 'first'}\n")
    first = prepare_home(Settings.from_environment())
    up.remember_dagster_home(tmp_path / ".env", first)
    assert first == tmp_path / "first" / "dagster"
    monkeypatch.setenv("GRADE_ML_HOME", str(tmp_path / "second"))
    assert prepare_home(Settings.from_environment()) == tmp_path / "second" / "dagster"
    monkeypatch.delenv("GRADE_ML_HOME")
    assert prepare_home(Settings.from_environment()) == first
