from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis.strategies import dates, datetimes, from_regex, just

from grade_ml.core.dates import parse_date, parse_moment
from grade_ml.core.errors import ConfigurationError
from grade_ml.core.settings import REPOSITORY, Settings


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder without `.env`, and an environment without our variables."""
    monkeypatch.chdir(tmp_path)
    for field in Settings.model_fields.values():
        monkeypatch.delenv(str(field.validation_alias), raising=False)


@pytest.mark.usefixtures("nowhere")
def test_only_the_documented_variables_are_read(monkeypatch: pytest.MonkeyPatch):
    for name in ("HOME", "TIMEZONE", "STORAGE", "DATABASE_URL", "AS_OF"):
        monkeypatch.setenv(name, "/elsewhere")
    settings = Settings(_env_file=None)
    assert settings == Settings(
        _env_file=None, home=REPOSITORY / ".grade_ml", storage=None, timezone="UTC", as_of=None
    )


@pytest.mark.usefixtures("nowhere")
def test_variables_and_dotenv(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / ".env").write_text("GRADE_ML_STORAGE=s3://bucket\nGRADE_ML_TIMEZONE=Europe/London")
    monkeypatch.setenv("GRADE_ML_HOME", "relative")
    monkeypatch.setenv("GRADE_ML_TIMEZONE", "Asia/Tokyo")
    settings = Settings.from_environment()
    assert settings.home == tmp_path / "relative"
    assert settings.storage_root == "s3://bucket"
    assert settings.date_at(datetime(2026, 1, 1, 20, tzinfo=UTC)) == date(2026, 1, 2)


@pytest.mark.usefixtures("nowhere")
def test_a_bad_value_names_its_variable(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GRADE_ML_AS_OF", "yesterday")
    with pytest.raises(ConfigurationError, match=r"GRADE_ML_AS_OF.*'yesterday'"):
        Settings.from_environment()


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
    ],
)
def test_what_only_resembles_a_date_is_refused(monkeypatch: pytest.MonkeyPatch, value: str):
    monkeypatch.setenv("GRADE_ML_AS_OF", value)
    with pytest.raises(ConfigurationError, match="GRADE_ML_AS_OF"):
        Settings.from_environment()


@pytest.mark.usefixtures("nowhere")
@pytest.mark.parametrize("value", [20260301, 1772323200.5, True])
def test_a_number_is_no_date(value: Any):
    with pytest.raises(ValueError, match="not a date"):
        Settings(_env_file=None, as_of=value)


@given(day=dates(), moment=datetimes(timezones=just(UTC)))
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
    (tmp_path / ".env").write_bytes("GRADE_ML_STORAGE=/srv/noten-für-alle\n".encode(encoding))
    with pytest.raises(ConfigurationError, match=rf"{tmp_path}/\.env is not plain UTF-8"):
        Settings.from_environment()


@pytest.mark.usefixtures("nowhere")
@pytest.mark.parametrize("home", ["~nobody-of-this-name/x", "a\nb", "a\x1bb", "a\udc80"])
def test_a_path_that_cannot_be_one_is_named(monkeypatch: pytest.MonkeyPatch, home: str):
    monkeypatch.setenv("GRADE_ML_HOME", home)
    with pytest.raises(ConfigurationError, match="GRADE_ML_HOME"):
        Settings.from_environment()


@pytest.mark.usefixtures("nowhere")
def test_an_empty_variable_is_unset(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GRADE_ML_DATABASE_URL", "")
    assert Settings.from_environment().database_url is None
