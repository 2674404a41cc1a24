"""The fixed settings, read once at the edge (environment and `.env`) and passed inwards.

A URL that is unset means the embedded service under `home`. Nothing here connects to anything.
A `.env` counts in two places, which belong to the user who installed grade_ml: the home and, if
grade_ml is imported from one, the repository. That of the current folder does not: the folder may
be a delivery from another organisation.
"""

from __future__ import annotations

import errno
from codecs import BOM_UTF8
from collections.abc import Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from re import fullmatch
from typing import Annotated, Self
from unicodedata import category
from zoneinfo import ZoneInfo, available_timezones

from dotenv import dotenv_values
from platformdirs import user_data_path
from pydantic import (
    AfterValidator,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from grade_ml.core.dates import parse_moment
from grade_ml.core.errors import ConfigurationError
from grade_ml.core.guard import HOST_NAME
from grade_ml.core.masking import is_ambiguous, remember, remember_url


def _repository(folder: Path) -> Path | None:
    """Return `folder`, from which grade_ml is imported, if it is a checkout of the project."""
    try:
        project = (folder / "pyproject.toml").read_text("utf-8")
    except OSError:  # grade_ml is installed
        return None
    return folder if 'name = "grade-ml"\n' in project else None


#: The checkout that is imported from; None where grade_ml is installed from a wheel.
REPOSITORY = _repository(Path(__file__).resolve().parents[2])
#: More than this share of the enrollments, results or line items of the classes in question may
#: not be missing from a delivery that states it is whole. In the week in which most students change
#: or drop a class, 5 to 15% do; an export that was cut, or of one school of several, lacks more.
VANISHING_SHARE = 0.3
#: A home whose path leads nowhere has no `.env`; what uses the home names it.
_NO_FILE = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)
#: The fields of `Settings` that are paths, or may be.
_PATHS = (
    *("home", "storage", "inbox", "dagster_home", "interventions", "institution"),
    "metrics_file",
)
#: The variables that name databases elsewhere than on the embedded server.
URLS = ("GRADE_ML_DATABASE_URL", "DAGSTER_POSTGRES_URL", "MLFLOW_TRACKING_URI")


def _default_home() -> Path:
    """Return `.grade_ml` in the repository, or a folder of the user's if there is no repository.

    Not one in the current folder: each folder in which a command is called would be another
    installation, and a delivery could bring one with a `.env` in it.
    """
    return REPOSITORY / ".grade_ml" if REPOSITORY else user_data_path("grade_ml", appauthor=False)


def _env_of_repository() -> list[Path]:
    return [REPOSITORY / ".env"] if REPOSITORY else []


def _known_timezone(value: str) -> str:
    # Opening a name would also accept a file beside the zones, and stumble over a folder of them.
    if value not in available_timezones():
        raise ValueError("not an IANA time zone such as Europe/London")
    return value


#: The name of an IANA time zone.
TimezoneName = Annotated[str, AfterValidator(_known_timezone)]


def _absolute(value: Path) -> Path:
    if {category(character) for character in str(value)} & {"Cc", "Cs"}:
        raise ValueError("a path with control characters, or not in UTF-8")
    try:
        return value.expanduser().resolve()
    except (OSError, RuntimeError) as error:  # the home of an unknown user, links in a circle
        raise ValueError(str(error)) from error


def _absolute_unless_url(value: str) -> str:
    return value if "://" in value else str(_absolute(Path(value)))


#: A path that leads to the same place from every folder.
AbsolutePath = Annotated[Path, AfterValidator(_absolute)]
AbsolutePathOrUrl = Annotated[str, AfterValidator(_absolute_unless_url)]
#: A month is more than any job may take; what is longer is a slip.
Hours = Annotated[float, Field(gt=0, le=24 * 31)]


def _is_there(env_file: Path) -> bool:
    """Refuse a `.env` of which a part, or its first name, would be misread or not read."""
    try:
        if not env_file.is_file():
            return False
        content = env_file.read_bytes()
    except OSError as error:
        if error.errno in _NO_FILE:
            return False
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
    return True


def _is_secret(field: FieldInfo | None, value: object) -> bool:
    return "SecretStr" in str(field and field.annotation) or "://" in str(value)


class EnvironmentSettings(BaseSettings):
    """Settings that are read from the environment and from `.env`, and never change."""

    model_config = SettingsConfigDict(
        # Without it HOME and TIMEZONE of the environment would be read as the fields of that name.
        env_prefix="GRADE_ML_",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        populate_by_name=True,
    )

    @model_validator(mode="after")
    def _hide_secrets(self) -> Self:
        for value in dict(self).values():
            if isinstance(value, SecretStr):
                remember(value.get_secret_value())
            elif isinstance(value, str):
                remember_url(value)
        return self

    @classmethod
    def from_environment(cls) -> Self:
        """Read the environment, the `.env` of the home and that of the repository; the first wins.

        Raises
        ------
        ConfigurationError
            A variable cannot be used, or `.env` is no text in UTF-8; it is named.
        """
        return cls._read(*_env_of_repository(), _env_of_home())

    @classmethod
    def _read(cls, *env_files: Path) -> Self:
        """Read the environment and the `env_files` that exist, of which the last wins."""
        try:
            return cls(_env_file=[path for path in env_files if _is_there(path)])
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(str(part) for part in first["loc"])
            if first["loc"][0] in cls.model_fields:
                name = (cls.model_config["env_prefix"] + name).upper()
            reason = first["msg"].removeprefix("Value error, ").rstrip(".")
            field = cls.model_fields.get(str(first["loc"][0]))
            value = (
                "" if _is_secret(field, first["input"]) else f" has the value {first['input']!r}"
            )
            raise ConfigurationError(
                f"The setting {name}{value or ' cannot be used'}: {reason}.",
                f"Correct or unset {name} in the environment or in .env.",
            ) from error
        except SettingsError as error:
            raise ConfigurationError(
                f"A setting is not JSON: {error}.",
                f"Correct or unset it, {cls.model_config['env_prefix']}… in the environment or "
                "in .env.",
            ) from error


class _Place(EnvironmentSettings):
    """The home of all embedded services."""

    home: AbsolutePath = Field(default_factory=_default_home, validation_alias="GRADE_ML_HOME")


def _home_named_in(*env_files: Path) -> str | None:
    values = {
        name: value
        for env_file in env_files
        if _is_there(env_file)
        for name, value in dotenv_values(env_file).items()
    }
    return {name.upper(): value for name, value in values.items()}.get("GRADE_ML_HOME")


def _env_of_home() -> Path:
    """Return the path of the home's `.env`, which must not name another home itself."""
    env_file = _Place._read(*_env_of_repository()).home / ".env"
    if _home_named_in(env_file):
        places = " or in ".join(["the environment", *map(str, _env_of_repository())])
        raise ConfigurationError(
            f"The file {env_file} sets GRADE_ML_HOME, which led to it.",
            f"Set it in {places}, and remove it there.",
        )
    return env_file


class Settings(_Place):
    """The settings of one installation; names and meaning are a public contract.

    `as_of` is the date at which everything is computed (a date, or a datetime that is turned into
    a date of `timezone`); unset means today. `tuning_seconds` is how long parameters are searched
    in each nightly run that trains the ensemble again; 0 means not at all. `vanishing_share` is how
    much of what is known a whole delivery may leave out, 0-1 (see docs/oneroster.md). `secret` keys
    what models keep of students; unset means the file `secret` in `home`. `metrics_file` is where
    figures for Prometheus go; unset means `metrics/grade_ml.prom` in `home`.

    `run_…` are the limits of runs: how many go at once, how many of those may train, forecast or
    explain, how many hours a job may take (a JSON object by job; others have
    `orchestration.queue.HOURS`), and how much memory a step leaves free.
    """

    database_url: str | None = Field(default=None, validation_alias="GRADE_ML_DATABASE_URL")
    dagster_postgres_url: str | None = Field(default=None, validation_alias="DAGSTER_POSTGRES_URL")
    mlflow_tracking_uri: str | None = Field(default=None, validation_alias="MLFLOW_TRACKING_URI")
    storage: AbsolutePathOrUrl | None = Field(default=None, validation_alias="GRADE_ML_STORAGE")
    inbox: AbsolutePathOrUrl | None = Field(default=None, validation_alias="GRADE_ML_INBOX")
    timezone: TimezoneName = Field(default="UTC", validation_alias="GRADE_ML_TIMEZONE")
    as_of: date | datetime | None = Field(default=None, validation_alias="GRADE_ML_AS_OF")
    dagster_home: AbsolutePath | None = Field(default=None, validation_alias="DAGSTER_HOME")
    tuning_seconds: float = Field(default=1200, ge=0, validation_alias="GRADE_ML_TUNING_SECONDS")
    interventions: AbsolutePath | None = Field(
        default=None, validation_alias="GRADE_ML_INTERVENTIONS"
    )
    institution: AbsolutePath | None = Field(default=None, validation_alias="GRADE_ML_INSTITUTION")
    secret: SecretStr | None = Field(default=None, validation_alias="GRADE_ML_SECRET")
    vanishing_share: float = Field(
        default=VANISHING_SHARE, ge=0, le=1, validation_alias="GRADE_ML_VANISHING_SHARE"
    )
    metrics_file: AbsolutePath | None = Field(
        default=None, validation_alias="GRADE_ML_METRICS_FILE"
    )
    adviser_load: int = Field(default=20, ge=0, validation_alias="GRADE_ML_ADVISER_LOAD")
    #: A run works with all cores, so that a third at the same time would only cost memory.
    run_at_once: int = Field(default=2, ge=1, validation_alias="GRADE_ML_RUN_AT_ONCE")
    #: What trains, forecasts or explains takes gigabytes, and all cores.
    run_ml_tasks: int = Field(default=1, ge=1, le=1000, validation_alias="GRADE_ML_RUN_ML_TASKS")
    run_hours: Mapping[str, Hours] = Field(default={}, validation_alias="GRADE_ML_RUN_HOURS")
    #: PostgreSQL, daemon, webserver and code server take so much of a quiet machine.
    run_memory_reserve_mb: float = Field(
        default=500, ge=0, validation_alias="GRADE_ML_RUN_MEMORY_RESERVE_MB"
    )

    @field_validator("database_url", "dagster_postgres_url", "mlflow_tracking_uri")
    @classmethod
    def _with_one_meaning(cls, value: str | None) -> str | None:
        if value is not None and is_ambiguous(value):
            raise ValueError(
                "it is ambiguous where its password ends; write @ as %40, / as %2F, # as %23, "
                "? as %3F and \\ as %5C in the password"
            )
        return value

    @field_validator("database_url", "dagster_postgres_url")
    @classmethod
    def _of_a_database(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith("postgresql"):
            raise ValueError("not a URL such as postgresql+psycopg://user:password@host/database")
        return value

    @field_validator("as_of", mode="before")
    @classmethod
    def _written_as_date(cls, value: object) -> object:
        """Never read a number as seconds since 1970."""
        if isinstance(value, str):
            return parse_moment(value)
        if value is None or isinstance(value, date):
            return value
        raise ValueError("not a date such as 2026-03-01")

    @classmethod
    def from_environment(cls) -> Self:
        """Read the environment and both `.env`; see `EnvironmentSettings.from_environment`.

        The DAGSTER_HOME of the repository's `.env`, where `grade-ml up` writes it, belongs to the
        home of the repository. With another one in GRADE_ML_HOME, logs would land in the first.
        """
        settings = super().from_environment()
        named = _home_named_in(*_env_of_repository())
        if settings.home == (_absolute(Path(named)) if named else _default_home()):
            return settings
        own = cls._read(settings.home / ".env").dagster_home
        return settings.model_copy(update={"dagster_home": own})

    @property
    def places(self) -> dict[str, str]:
        """The variables that name local places, absolute, for a process in another folder."""
        paths = {name: getattr(self, name) for name in _PATHS}
        return {
            str(type(self).model_fields[name].validation_alias): str(path)
            for name, path in paths.items()
            if path is not None
        }

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
    def metrics(self) -> Path:
        """The file of figures for Prometheus."""
        return self.metrics_file or self.home / "metrics" / "grade_ml.prom"

    @property
    def storage_root(self) -> str:
        """The root of artifacts and feature frames, a path or URL for `universal_pathlib`."""
        return self.storage or str(self.home / "storage")

    def date_at(self, moment: datetime, day: date | None = None) -> date:
        """Return the day of a question: `day`, else `as_of`, else the date of `moment`.

        Dates are those of `timezone`.

        Raises
        ------
        ConfigurationError
            It lies after `moment`. Work that is not due yet would count as missed: a section that
            runs until March was given final grades in November.
        """
        today = self._date_of(moment)
        chosen = day or (today if self.as_of is None else self._date_of(self.as_of))
        if chosen > today:
            name = "The day" if day else "The setting GRADE_ML_AS_OF ="
            raise ConfigurationError(
                f"{name} {chosen} lies in the future: today is {today}.",
                "Choose today or a day in the past; nothing is known of later ones.",
            )
        return chosen

    def _date_of(self, day: date) -> date:
        if not isinstance(day, datetime):
            return day
        aware = day if day.tzinfo else day.replace(tzinfo=UTC)
        return aware.astimezone(self.zone).date()


class AlertSettings(EnvironmentSettings):
    """Where alerts go besides the log: `GRADE_ML_ALERT_…`; what is unset is not used.

    `mail_to` is a JSON list of addresses. Mail is sent if `smtp_host` and `mail_to` are set.
    `smtp_tls` uses TLS from the first byte (port 465), `smtp_starttls` before any mail is sent
    (ports 25 and 587); certificates are verified by the system's authorities or SSL_CERT_FILE.
    `seconds` is how long one message may take, from the first byte to the last.
    """

    model_config = SettingsConfigDict(env_prefix="GRADE_ML_ALERT_")

    smtp_host: str | None = None
    smtp_port: int = 25
    smtp_starttls: bool = False
    smtp_tls: bool = False
    smtp_user: str | None = None
    smtp_password: SecretStr | None = None
    mail_from: str = "grade_ml@localhost"
    mail_to: tuple[str, ...] = ()
    #: Takes Slack's format.
    webhook_url: SecretStr | None = None
    #: A tick of a sensor has 60, for both channels.
    seconds: float = Field(default=20, gt=0)


class RetentionSettings(EnvironmentSettings):
    """How many days removable files are kept: `GRADE_ML_RETENTION_…`.

    The tables declare how long their rows are kept. A day is the least: what a running run has
    just made is younger.
    """

    model_config = SettingsConfigDict(env_prefix="GRADE_ML_RETENTION_")

    #: Versions of models that nothing needs, since they were registered or left a stage. A term:
    #: a reader who doubts a number of this term can still inspect the model that made it.
    versions_days: int = Field(default=120, ge=1)
    #: Runs with their events, checks and logs, but for the newest of each asset and partition. A
    #: run over 40 courses leaves 98 events, 150 kB, and a day has 30 runs: 400 MB.
    runs_days: int = Field(default=90, ge=1)
    #: The output of runs; a nightly run that failed is investigated within a month.
    logs_days: int = Field(default=30, ge=1)


def _host_name(value: str) -> str:
    if not fullmatch(HOST_NAME, value.lower()):
        raise ValueError("not the name of a host, such as grades.example.edu, without port or *")
    return value.lower()


def _http_url(value: str) -> str:
    if not fullmatch(r"https?://[^\s/?#]+(/[^\s?#]*)?", value):
        raise ValueError("not an address such as http://127.0.0.1:3000")
    return value


class UiSettings(EnvironmentSettings):
    """Who may use the UI, and where: `GRADE_ML_UI_…`.

    `hosts` is a JSON list of names beside this machine's own under which browsers reach it through
    a reverse proxy. If `token` is set, the UI refuses requests without it. `url` is where
    tasks find it if it is not that of the `up` on this machine.
    """

    model_config = SettingsConfigDict(env_prefix="GRADE_ML_UI_")

    hosts: tuple[Annotated[str, AfterValidator(_host_name)], ...] = ()
    #: 16 characters chosen at random cannot be guessed over HTTP.
    token: SecretStr | None = Field(default=None, min_length=16)
    url: Annotated[str, AfterValidator(_http_url)] | None = None
