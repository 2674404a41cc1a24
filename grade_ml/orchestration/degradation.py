"""The check that warns if an output is degraded."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, cast

from dagster import (
    AssetCheckEvaluation,
    AssetCheckKey,
    AssetCheckResult,
    AssetCheckSeverity,
    AssetCheckSpec,
    DagsterInstance,
)
from dagster._core.storage.asset_check_execution_record import (
    COMPLETED_ASSET_CHECK_EXECUTION_RECORD_STATUSES,
    AssetCheckExecutionRecord,
)

from grade_ml.core.degradation import faults
from grade_ml.core.optional import absent_in, remedy
from grade_ml.orchestration.recorded import COMPLETE, REASONS

if TYPE_CHECKING:
    from dagster._core.storage.event_log import EventLogStorage


def complete(asset: str) -> AssetCheckSpec:
    """Return the name and the description of the check of `asset`."""
    return AssetCheckSpec(
        COMPLETE,
        asset=asset,
        description="Nothing is degraded by a fault: neither a library nor a model is missing. "
        f"A library that was never installed raises no alert and can stay out. {remedy('all')}",
    )


def is_complete(reasons: Iterable[str]) -> AssetCheckResult:
    """Return the result of the check; each of `reasons` states what is degraded, and why.

    Reasons that are expected are left out: the metadata of the asset has them.
    """
    distinct = faults(reasons)
    return AssetCheckResult(
        check_name=COMPLETE,
        passed=not distinct,
        severity=AssetCheckSeverity.WARN,
        metadata={REASONS: distinct},
    )


def completeness(instance: DagsterInstance) -> dict[str, tuple[str, ...]]:
    """Return by asset why it is degraded, by the newest result of its check; empty if it is not."""
    keys = [AssetCheckKey(key, COMPLETE) for key in instance.all_asset_keys()]
    storage = instance.event_log_storage
    executions = storage.get_latest_asset_check_execution_by_key(keys) if keys else {}
    results = {
        key.asset_key.to_user_string(): _answer(storage, key, newest)
        for key, newest in executions.items()
    }
    return {
        name: tuple(map(str, cast(Sequence[str], result.metadata[REASONS].value)))
        for name, result in sorted(results.items())
        if result
    }


def repairable(instance: DagsterInstance, lost: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Return `completeness`, of missing libraries only those that the installation has `lost`."""
    return {
        name: tuple(why for why in reasons if (module := absent_in(why)) is None or module in lost)
        for name, reasons in completeness(instance).items()
    }


def _answer(
    storage: EventLogStorage, key: AssetCheckKey, newest: AssetCheckExecutionRecord | None
) -> AssetCheckEvaluation | None:
    """Return the newest result: a run that has begun has none yet, and may never have one."""
    if newest and newest.status not in COMPLETED_ASSET_CHECK_EXECUTION_RECORD_STATUSES:
        before = storage.get_asset_check_execution_history(
            key, limit=1, status=COMPLETED_ASSET_CHECK_EXECUTION_RECORD_STATUSES
        )
        newest = before[0] if before else None
    return newest.event.asset_check_evaluation if newest and newest.event else None
