from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path

import pytest

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
def test_an_empty_variable_is_unset(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GRADE_ML_DATABASE_URL", "")
    assert Settings.from_environment().database_url is None
