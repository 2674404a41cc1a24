"""What the parts of the instance have in common that dagster.yaml names by module and class."""

from __future__ import annotations

from dagster._config.config_schema import UserConfigSchema


class WithoutOptions:
    """A part that dagster.yaml says nothing more of: `config` there is empty or missing."""

    @classmethod
    def config_type(cls) -> UserConfigSchema:
        """Return the options in dagster.yaml: none."""
        return {}
