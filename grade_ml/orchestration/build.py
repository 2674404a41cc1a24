"""Puts the definitions together; tests give other settings here instead of patching."""

from __future__ import annotations

from dagster import Definitions

from grade_ml.core.settings import Settings
from grade_ml.orchestration.assets.gradebook import GRADEBOOK_ASSETS
from grade_ml.orchestration.checks import GRADEBOOK_CHECKS
from grade_ml.orchestration.resources import platform_resource


def build_defs(settings: Settings | None = None) -> Definitions:
    """Return everything that Dagster is to know; nothing is connected to.

    Raises
    ------
    ConfigurationError
        A setting has a value that cannot be used.
    """
    settings = settings or Settings.from_environment()
    return Definitions(
        assets=GRADEBOOK_ASSETS,
        asset_checks=GRADEBOOK_CHECKS,
        resources={"platform": platform_resource(settings)},
    )
