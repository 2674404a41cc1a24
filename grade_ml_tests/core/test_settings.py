from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis.strategies import dates, datetimes, from_regex, integers, just, sampled_from

from grade_ml.core import settings as module
from grade_ml.core.dates import parse_date, parse_moment
from grade_ml.core.errors import ConfigurationError
from grade_ml.core.settings import AlertSettings, Settings
from grade_ml.external.settings import ExternalSettings
from grade_ml.gradebook.rest.settings import OneRosterSettings
from grade_ml_tests import REPOSITORY


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder and a repository without `.env`, and an environment without our variables."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "REPOSITORY", tmp_path / "repository")
    for field in Settings.model_fields.values():
        monkeypatch.delenv(str(field.validation_alias), raising=False)


def write_env(folder: Path, *lines: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / ".env").write_text("\n".join(lines) + "\n")


@pytest.mark.usefixtures("nowhere")
def test_only_the_documented_variables_are_read(monkeypatch: pytest.MonkeyPatch):
    for name in ("HOME", "TIMEZONE", "STORAGE", "DATABASE_URL", "AS_OF"):
        monkeypatch.setenv(name, "/elsewhere")
    settings = Settings(_env_file=None)
    assert settings == Settings(
        _env_file=None, home=settings.home, storage=None, timezone="UTC", as_of=None
    )


def test_by_default_the_home_of_a_checkout_is_in_it():
    assert Settings(_env_file=None).home == REPOSITORY / ".grade_ml"


@pytest.mark.usefixtures("nowhere")
def test_by_default_the_home_of_an_installed_package_is_the_users(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr(module, "REPOSITORY", None)
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    write_env(tmp_path / ".grade_ml", "GRADE_ML_TIMEZONE=Europe/Paris")
    home = Settings.from_environment().home
    assert home.is_relative_to(tmp_path / "user")
    home.mkdir(parents=True)
    write_env(home, "GRADE_ML_TIMEZONE=Europe/London", "DAGSTER_HOME=d")
    settings = Settings.from_environment()
    assert (settings.home, settings.timezone) == (home, "Europe/London")
    assert settings.dagster_home == tmp_path / "d"


def test_only_a_checkout_of_this_project_is_recognised(tmp_path: Path):
    assert module._repository(REPOSITORY) == REPOSITORY
    assert module._repository(tmp_path) is None
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "grade-ml-user"\n')
    assert module._repository(tmp_path) is None


@pytest.mark.usefixtures("nowhere")
def test_variables_and_dotenv(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("GRADE_ML_HOME", "relative")
    monkeypatch.setenv("GRADE_ML_TIMEZONE", "Asia/Tokyo")
    write_env(
        tmp_path / "repository",
        "GRADE_ML_STORAGE=s3://a",
        "GRADE_ML_TIMEZONE=Europe/London",
        "GRADE_ML_ADVISER_LOAD=3",
    )
    write_env(tmp_path / "relative", "GRADE_ML_STORAGE=s3://b", "GRADE_ML_TIMEZONE=Europe/Paris")
    settings = Settings.from_environment()
    assert settings.home == tmp_path / "relative"
    assert settings.storage_root == "s3://b"
    assert settings.adviser_load == 3
    assert settings.date_at(datetime(2026, 1, 1, 20, tzinfo=UTC)) == date(2026, 1, 2)


@pytest.mark.security
@pytest.mark.usefixtures("nowhere")
@pytest.mark.parametrize("read", [Settings, AlertSettings, ExternalSettings, OneRosterSettings])
def test_the_env_of_the_current_folder_is_not_read(tmp_path: Path, read: Any):
    before = read.from_environment()
    names = [
        str(field.validation_alias or read.model_config["env_prefix"] + name.upper())
        for name, field in read.model_fields.items()
    ]
    write_env(tmp_path, *(f"{name}=http://203.0.113.1/" for name in names))
    assert read.from_environment() == before
    assert not before.model_fields_set


@pytest.mark.usefixtures("nowhere")
def test_the_home_may_be_named_by_the_repository(tmp_path: Path):
    write_env(tmp_path / "repository", f"GRADE_ML_HOME={tmp_path / 'home'}")
    write_env(tmp_path / "home", "GRADE_ML_TIMEZONE=Europe/Paris")
    settings = Settings.from_environment()
    assert (settings.home, settings.timezone) == (tmp_path / "home", "Europe/Paris")


@pytest.mark.usefixtures("nowhere")
@pytest.mark.parametrize("name", ["GRADE_ML_HOME", "grade_ml_home"])
def test_a_home_does_not_name_another(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str):
    monkeypatch.setenv("GRADE_ML_HOME", str(tmp_path / "home"))
    write_env(tmp_path / "home", f"{name}={tmp_path / 'other'}")
    with pytest.raises(ConfigurationError, match=rf"{tmp_path}/home/\.env sets GRADE_ML_HOME"):
        Settings.from_environment()


@pytest.mark.security
@pytest.mark.usefixtures("nowhere")
@pytest.mark.parametrize(
    ("environment", "env_files", "expected"),
    [
        ({}, ({"DAGSTER_HOME": "d"}, {}), "d"),
        ({}, ({"GRADE_ML_HOME": "first", "DAGSTER_HOME": "d"}, {}), "d"),
        ({"GRADE_ML_HOME": "first"}, ({"GRADE_ML_HOME": "first", "DAGSTER_HOME": "d"}, {}), "d"),
        ({"GRADE_ML_HOME": "first"}, ({"DAGSTER_HOME": "d"}, {}), None),
        ({"GRADE_ML_HOME": "second"}, ({"GRADE_ML_HOME": "first", "DAGSTER_HOME": "d"}, {}), None),
        ({"GRADE_ML_HOME": "first"}, ({"DAGSTER_HOME": "d"}, {"DAGSTER_HOME": "e"}), "e"),
        ({"GRADE_ML_HOME": "first", "DAGSTER_HOME": "f"}, ({"DAGSTER_HOME": "d"}, {}), "f"),
    ],
)
def test_the_home_of_dagster_belongs_to_the_home_that_is_named_beside_it(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    environment: dict[str, str],
    env_files: tuple[dict[str, str], dict[str, str]],
    expected: str | None,
):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    for folder, lines in zip(("repository", "first"), env_files, strict=True):
        write_env(tmp_path / folder, *(f"{name}={value}" for name, value in lines.items()))
    dagster_home = Settings.from_environment().dagster_home
    assert dagster_home == (expected and tmp_path / expected)


@pytest.mark.usefixtures("nowhere")
def test_places_are_the_same_from_every_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    for name in ("GRADE_ML_HOME", "GRADE_ML_STORAGE", "GRADE_ML_INBOX", "GRADE_ML_INSTITUTION"):
        monkeypatch.setenv(name, name.lower())
    settings = Settings.from_environment()
    for name, value in settings.places.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert Settings.from_environment() == settings


@pytest.mark.usefixtures("nowhere")
def test_a_bad_value_names_its_variable(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GRADE_ML_AS_OF", "yesterday")
    with pytest.raises(ConfigurationError, match=r"GRADE_ML_AS_OF.*'yesterday'"):
        Settings.from_environment()


@pytest.mark.security
@pytest.mark.usefixtures("nowhere")
@pytest.mark.parametrize(
    "value",
    [
        "20260301",
        "1772323200",
        "1772323200.5",
        "2026",
        "2026-3-1",
        "2026-02-30",
        "2026-W09-7",
        "2026-03-01T",
        "2026-03-01x10:00",
        "2026-03-01T25:00",
        "-1",
        "1e9",
        "nan",
        "0001-01-01",
        "1677-09-21",
        "1899-12-31",
        "2200-01-01",
        "2262-04-12 00:00Z",
        "9999-12-31",
    ],
)
def test_what_only_resembles_a_date_is_refused(monkeypatch: pytest.MonkeyPatch, value: str):
    monkeypatch.setenv("GRADE_ML_AS_OF", value)
    with pytest.raises(ConfigurationError, match="GRADE_ML_AS_OF"):
        Settings.from_environment()


@pytest.mark.parametrize("chosen", ["setting", "question"])
@given(
    moment=datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=just(UTC)),
    zone=sampled_from(["UTC", "Pacific/Kiritimati", "Pacific/Niue"]),
    days=integers(-30_000, 30_000),
)
def test_no_question_is_of_a_day_in_the_future(chosen: str, moment: datetime, zone: str, days: int):
    today = moment.astimezone(ZoneInfo(zone)).date()
    day = today + timedelta(days=days)
    of_setting = day if chosen == "setting" else None
    settings = Settings(_env_file=None, timezone=zone, as_of=of_setting)
    of_question = day if chosen == "question" else None
    if day <= today:
        assert settings.date_at(moment, of_question) == day
        return
    with pytest.raises(ConfigurationError, match=rf"{day} lies in the future: today is {today}"):
        settings.date_at(moment, of_question)


@pytest.mark.usefixtures("nowhere")
@pytest.mark.parametrize("value", [20260301, 1772323200.5, True])
def test_a_number_is_no_date(value: Any):
    with pytest.raises(ValueError, match="not a date"):
        Settings(_env_file=None, as_of=value)


@given(
    day=dates(date(1900, 1, 1), date(2199, 12, 31)),
    moment=datetimes(datetime(1900, 1, 1), datetime(2199, 12, 31), timezones=just(UTC)),
)
def test_dates_and_moments_are_read_as_written(day: date, moment: datetime):
    assert parse_moment(day.isoformat()) == parse_date(day.isoformat()) == day
    assert parse_moment(moment.isoformat()) == parse_moment(moment.isoformat(" ")) == moment


@given(text=from_regex(r"[0-9]+(\.[0-9]+)?", fullmatch=True))
def test_no_number_is_read_as_a_date(text: str):
    with pytest.raises(ValueError, match="not a date"):
        parse_moment(text)


@pytest.mark.usefixtures("nowhere")
@pytest.mark.parametrize(
    "value",
    [
        "America",
        "Europe",
        "America/Indiana",
        ".",
        "..",
        "posix",
        "Etc",
        "/etc/localtime",
        "UTC/",
        "zone.tab",
        "tzdata.zi",
        "Europe/",
        "../zoneinfo/UTC",
        "Mars/Olympus",
    ],
)
def test_what_is_no_time_zone_is_refused(monkeypatch: pytest.MonkeyPatch, value: str):
    monkeypatch.setenv("GRADE_ML_TIMEZONE", value)
    with pytest.raises(ConfigurationError, match=r"GRADE_ML_TIMEZONE.*IANA"):
        Settings.from_environment()


@pytest.mark.usefixtures("nowhere")
@pytest.mark.parametrize(
    "encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1", "cp1252", "utf-8-sig"]
)
def test_an_env_file_in_another_encoding_is_named(tmp_path: Path, encoding: str):
    (tmp_path / "repository").mkdir()
    (tmp_path / "repository" / ".env").write_bytes(
        "GRADE_ML_STORAGE=/srv/noten-für-alle\n".encode(encoding)
    )
    with pytest.raises(
        ConfigurationError, match=rf"{tmp_path}/repository/\.env is not plain UTF-8"
    ):
        Settings.from_environment()


@pytest.mark.usefixtures("nowhere")
@pytest.mark.parametrize("home", ["~nobody-of-this-name/x", "a\nb", "a\x1bb", "a\udc80"])
def test_a_text_that_cannot_be_a_path_is_named(monkeypatch: pytest.MonkeyPatch, home: str):
    monkeypatch.setenv("GRADE_ML_HOME", home)
    with pytest.raises(ConfigurationError, match="GRADE_ML_HOME"):
        Settings.from_environment()


@pytest.mark.usefixtures("nowhere")
def test_an_empty_variable_is_unset(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GRADE_ML_DATABASE_URL", "")
    assert Settings.from_environment().database_url is None
