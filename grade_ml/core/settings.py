"""The fixed settings, read once at the edge (environment and `.env`) and passed inwards.

A URL that is unset means the embedded service under `home`. Nothing here connects to anything.
"""

from __future__ import annotations

from codecs import BOM_UTF8
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Self
from unicodedata import category
from zoneinfo import ZoneInfo, available_timezones

from pydantic import AfterValidator, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from grade_ml.core.dates import parse_moment
from grade_ml.core.errors import ConfigurationError

REPOSITORY = Path(__file__).resolve().parents[2]
#: More than this share of the enrollments, results or line items of the classes in question may
#: not be missing from a delivery that says it is whole. In the week in which most students change
#: or drop a class, 5 to 15% do; an export that was cut, or of one school of several, lacks more.
VANISHING_SHARE = 0.3
#: The later one wins.
ENV_FILES = (REPOSITORY / ".env", Path(".env"))
#: The variables that name databases elsewhere than on the embedded server.
URLS = ("GRADE_ML_DATABASE_URL", "DAGSTER_POSTGRES_URL", "MLFLOW_TRACKING_URI")


def _known_timezone(value: str) -> str:
    # Opening a name would also accept a file beside the zones, and stumble over a folder of them.
    if value not in available_timezones():
        raise ValueError("not an IANA time zone such as Europe/London")
    return value


#: The name of an IANA time zone.
TimezoneName = Annotated[str, AfterValidator(_known_timezone)]


def _require_readable(env_file: Path) -> None:
    """Refuse a `.env` of which a part, or its first name, would be misread or not read."""
    if not env_file.is_file():
        return
    try:
        content = env_file.read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"The file {env_file} cannot be read: {error.strerror}.", "Correct its permissions."
        ) from error
    try:
        plain = not content.startswith(BOM_UTF8) and "\0" not in content.decode("utf-8")
    except UnicodeDecodeError:
        plain = False
    if not plain:
        raise ConfigurationError(
            f"The file {env_file} is not plain UTF-8.",
            "Save it as UTF-8 without a byte order mark (BOM).",
        )


class EnvironmentSettings(BaseSettings):
    """Settings that are read from the environment and from `.env`, and never change."""

    model_config = SettingsConfigDict(
        env_file=ENV_FILES,
        # Without it HOME and TIMEZONE of the environment would be read as the fields of that name.
        env_prefix="GRADE_ML_",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        populate_by_name=True,
    )

    @classmethod
    def from_environment(cls) -> Self:
        """Read the environment and `.env`.

        Raises
        ------
        ConfigurationError
            A variable cannot be used, or `.env` is no text in UTF-8; it is named.
        """
        for path in ENV_FILES:
            _require_readable(path.absolute())
        try:
            return cls()
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(str(part) for part in first["loc"])
            if first["loc"][0] in cls.model_fields:
                name = (cls.model_config["env_prefix"] + name).upper()
            reason = first["msg"].removeprefix("Value error, ").rstrip(".")
            raise ConfigurationError(
                f"The setting {name} has the value {first['input']!r}: {reason}.",
                f"Correct or unset {name} in the environment or in .env.",
            ) from error
        except SettingsError as error:
            raise ConfigurationError(
                f"A setting is not JSON: {error}.",
                f"Correct or unset it, {cls.model_config['env_prefix']}… in the environment or "
                "in .env.",
            ) from error


class Settings(EnvironmentSettings):
    """The settings of one installation; names and meaning are a public contract.

    `as_of` is the date at which everything is computed (a date, or a datetime that is turned into
    a date of `timezone`); unset means today. `tuning_seconds` is how long parameters are searched
    for each night in which the ensemble is trained anew; 0: not at all. `vanishing_share` is how
    much of what is known a whole delivery may leave out, 0-1 (see docs/loading.md). `secret` keys
    what models keep of students; unset means the file `secret` in `home`.
    """

    home: Path = Field(default=REPOSITORY / ".grade_ml", validation_alias="GRADE_ML_HOME")
    database_url: str | None = Field(default=None, validation_alias="GRADE_ML_DATABASE_URL")
    dagster_postgres_url: str | None = Field(default=None, validation_alias="DAGSTER_POSTGRES_URL")
    mlflow_tracking_uri: str | None = Field(default=None, validation_alias="MLFLOW_TRACKING_URI")
    storage: str | None = Field(default=None, validation_alias="GRADE_ML_STORAGE")
    inbox: str | None = Field(default=None, validation_alias="GRADE_ML_INBOX")
    timezone: TimezoneName = Field(default="UTC", validation_alias="GRADE_ML_TIMEZONE")
    as_of: date | datetime | None = Field(default=None, validation_alias="GRADE_ML_AS_OF")
    dagster_home: Path | None = Field(default=None, validation_alias="DAGSTER_HOME")
    tuning_seconds: float = Field(default=1200, ge=0, validation_alias="GRADE_ML_TUNING_SECONDS")
    interventions: Path | None = Field(default=None, validation_alias="GRADE_ML_INTERVENTIONS")
    institution: Path | None = Field(default=None, validation_alias="GRADE_ML_INSTITUTION")
    secret: SecretStr | None = Field(default=None, validation_alias="GRADE_ML_SECRET")
    vanishing_share: float = Field(
        default=VANISHING_SHARE, ge=0, le=1, validation_alias="GRADE_ML_VANISHING_SHARE"
    )
    adviser_load: int = Field(default=20, ge=0, validation_alias="GRADE_ML_ADVISER_LOAD")

    @field_validator("home", "dagster_home", "interventions", "institution")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        if value is None:
            return None
        if {category(character) for character in str(value)} & {"Cc", "Cs"}:
            raise ValueError("a path with control characters, or not in UTF-8")
        try:
            return value.expanduser().resolve()
        except (OSError, RuntimeError) as error:  # a home of nobody, links in a circle
            raise ValueError(str(error)) from error

    @field_validator("as_of", mode="before")
    @classmethod
    def _written_as_date(cls, value: object) -> object:
        """Never read a number as seconds since 1970."""
        if isinstance(value, str):
            return parse_moment(value)
        if value is None or isinstance(value, date):
            return value
        raise ValueError("not a date such as 2026-03-01")

    @field_validator("inbox")
    @classmethod
    def _absolute_inbox(cls, value: str | None) -> str | None:
        if value is None or "://" in value:
            return value
        return str(Path(value).expanduser().resolve())

    @property
    def zone(self) -> ZoneInfo:
        """The time zone of schedules and of calendar dates."""
        return ZoneInfo(self.timezone)

    @property
    def embedded(self) -> bool:
        """Whether any of the three databases lives on the embedded server."""
        return None in (self.database_url, self.dagster_postgres_url, self.mlflow_tracking_uri)

    @property
    def postgres_dir(self) -> Path:
        """The data directory of the embedded PostgreSQL server."""
        return self.home / "postgres"

    @property
    def staging(self) -> Path:
        """The folder of what is on its way into the gradebook; it may be emptied between loads."""
        return self.home / "staging"

    @property
    def storage_root(self) -> str:
        """The root of artifacts and feature frames, a path or URL for `universal_pathlib`."""
        return self.storage or str(self.home / "storage")

    def date_at(self, moment: datetime) -> date:
        """Return `as_of` if it is set, else the calendar date of `moment` in `timezone`."""
        chosen = moment if self.as_of is None else self.as_of
        if isinstance(chosen, datetime):
            aware = chosen if chosen.tzinfo else chosen.replace(tzinfo=UTC)
            return aware.astimezone(self.zone).date()
        return chosen


class AlertSettings(EnvironmentSettings):
    """Where alerts go besides the log: `GRADE_ML_ALERT_…`; what is unset is not used.

    `mail_to` is a JSON list of addresses. Mail is sent where `smtp_host` and `mail_to` are set.
    """

    model_config = SettingsConfigDict(env_prefix="GRADE_ML_ALERT_")

    smtp_host: str | None = None
    smtp_port: int = 25
    smtp_starttls: bool = False
    smtp_user: str | None = None
    smtp_password: SecretStr | None = None
    mail_from: str = "grade_ml@localhost"
    mail_to: tuple[str, ...] = ()
    #: Takes Slack's format.
    webhook_url: SecretStr | None = None
