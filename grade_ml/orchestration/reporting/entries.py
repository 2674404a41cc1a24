"""Metadata as the UI shows it: readable names with their unit, numbers with sensible digits.

Every step passes its results through this module (see `orchestration.steps`), so assets and checks
name figures as in the code, and all of them are shown alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dagster import (
    AssetCheckResult,
    FloatMetadataValue,
    IntMetadataValue,
    MaterializeResult,
    MetadataValue,
)

from grade_ml.core import quantities, texts

#: The key under which terms are explained.
MEANING = "meaning"


def entries(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata under readable names, and the meanings of terms among them.

    Numbers stay numbers, which the UI plots over time. Unknown values are left out.
    """
    numbers = {
        name: value.value if isinstance(value, FloatMetadataValue | IntMetadataValue) else value
        for name, value in metadata.items()
    }
    known = {name: quantities.shown(name, value) for name, value in numbers.items()}
    shown = {quantities.title(name): text for name, text in known.items() if text is not None}
    means = quantities.meanings(name for name, text in known.items() if text is not None)
    if not means:
        return shown
    lines = (f"- **{texts.markdown(name)}**: {texts.markdown(why)}" for name, why in means.items())
    return {**shown, MEANING: MetadataValue.md("\n".join(lines))}


def result(value: Any) -> Any:
    """Return the result of a step for Dagster, with its metadata as the UI shows it."""
    if isinstance(value, MaterializeResult):
        return value._replace(
            metadata=None if value.metadata is None else entries(value.metadata),
            check_results=[result(check) for check in value.check_results or ()],
        )
    if isinstance(value, AssetCheckResult):
        return AssetCheckResult(
            passed=value.passed,
            asset_key=value.asset_key,
            check_name=value.check_name,
            metadata=entries(value.metadata),
            severity=value.severity,
            description=value.description,
        )
    return value
