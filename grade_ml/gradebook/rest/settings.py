"""Where the OneRoster server is and how to be let in: `GRADE_ML_ONEROSTER_…`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from grade_ml.core.errors import ConfigurationError
from grade_ml.core.settings import EnvironmentSettings

PREFIX = "GRADE_ML_ONEROSTER_"
#: What has to be set once the URL is.
_NEEDED = ("token_url", "client_id", "client_secret")
_SCOPES = {
    "1.1": ("roster-core", "roster", "roster-demographics", "gradebook"),
    "1.2": ("roster-core", "roster", "roster-demographics", "gradebook-core", "gradebook"),
}


class OneRosterSettings(EnvironmentSettings):
    """The server, the credentials, and the size of requests.

    `url` is the part before `/ims/oneroster`. `scope` is requested with the token; unset means
    the standard's scopes for reading.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX)

    url: str | None = Field(default=None, pattern="^https?://")
    token_url: str | None = Field(default=None, pattern="^https?://")
    client_id: str | None = None
    client_secret: SecretStr | None = None
    scope: str | None = None
    version: Literal["1.1", "1.2"] = "1.2"
    #: Rows of a page; servers may send fewer.
    page_size: int = Field(default=1000, ge=1, le=100_000)
    #: Requests at the same time.
    parallel: int = Field(default=4, ge=1, le=16)

    @property
    def scopes(self) -> str:
        """The scopes to request, separated by blanks."""
        if self.scope is not None:
            return self.scope
        place = f"https://purl.imsglobal.org/spec/or/v{self.version.replace('.', 'p')}/scope"
        return " ".join(f"{place}/{name}.readonly" for name in _SCOPES[self.version])

    def require(self) -> None:
        """Raise `ConfigurationError` unless a server and credentials are set."""
        if self.url is None:
            raise ConfigurationError(
                "No OneRoster server is set.",
                f"Set {PREFIX}URL, and {', '.join(PREFIX + name.upper() for name in _NEEDED)}.",
            )
        missing = [PREFIX + name.upper() for name in _NEEDED if getattr(self, name) is None]
        if missing:
            raise ConfigurationError(
                f"{PREFIX}URL is set but not {' and '.join(missing)}.",
                "Set it in the environment or in .env.",
            )
