"""The common base of the parts of the instance that dagster.yaml names by module and class."""

from __future__ import annotations

from dagster._config.config_schema import UserConfigSchema


class WithoutOptions:
    """A part without options: its `config` in dagster.yaml is empty or missing."""

    @classmethod
    def config_type(cls) -> UserConfigSchema:
        """Return the options in dagster.yaml: none."""
        return {}
