"""The check that warns where something worse replaced something better."""

from __future__ import annotations

from collections.abc import Iterable

from dagster import AssetCheckResult, AssetCheckSeverity, AssetCheckSpec

NAME = "complete"


def complete(asset: str) -> AssetCheckSpec:
    """Return what the check of `asset` is called and asks."""
    return AssetCheckSpec(
        NAME,
        asset=asset,
        description="Nothing stands in for something better: neither library nor model is missing.",
    )


def is_complete(reasons: Iterable[str]) -> AssetCheckResult:
    """Return the check's answer; each of `reasons` says what is less than it could be, and why."""
    told = list(dict.fromkeys(reasons))
    return AssetCheckResult(
        check_name=NAME,
        passed=not told,
        severity=AssetCheckSeverity.WARN,
        metadata={"degraded": told},
    )
