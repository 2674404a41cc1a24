"""The group `maintenance`: the clean-ups of the installation.

A job has the name of its asset, which Dagster allows only if the step of the asset has another
name: each of these is a multi-asset with a single asset.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from dagster import (
    AssetExecutionContext,
    AssetsDefinition,
    AssetSpec,
    Config,
    Failure,
    MaterializeResult,
    ResourceParam,
    multi_asset,
)
from pydantic import Field

from grade_ml.core.settings import RetentionSettings
from grade_ml.orchestration import cleanup
from grade_ml.orchestration.queue import MAINTENANCE
from grade_ml.orchestration.reporting import maintenance as reporting
from grade_ml.orchestration.resources import Platform
from grade_ml.orchestration.steps import step

if TYPE_CHECKING:
    from grade_ml.maintenance.cleaning import Report


def _spec(name: str, description: str, *kinds: str) -> AssetSpec:
    return AssetSpec(
        name,
        description=description,
        group_name="maintenance",
        owners=["team:ml-engineering"],
        kinds={*kinds},
        code_version="1",
    )


class CleanupConfig(Config):
    """The extent of a clean-up."""

    dry_run: bool = Field(
        default=False, description="Remove nothing, only list what would be removed."
    )
    force: bool = Field(default=False, description="Remove also the last items of a kind.")


def cleanup_assets(retention: RetentionSettings) -> list[AssetsDefinition]:
    """Return the assets `data_cleanup` and `model_cleanup`."""

    @multi_asset(
        name="remove_outdated_data",
        specs=[
            _spec(
                "data_cleanup",
                "Remove rows, runs and logs older than their retention; report the freed bytes.",
                "postgres",
            )
        ],
        pool=MAINTENANCE,
    )
    @step
    def data_cleanup(
        context: AssetExecutionContext, config: CleanupConfig, platform: ResourceParam[Platform]
    ) -> Iterator[MaterializeResult[Any]]:
        """Remove rows, runs and logs that are older than their retention."""
        report = cleanup.clean_data(
            platform, context.instance, retention, dry_run=config.dry_run, force=config.force
        )
        yield from _reported("data_cleanup", report)

    @multi_asset(
        name="remove_outdated_models",
        specs=[
            _spec(
                "model_cleanup",
                "Remove versions of models that are no longer needed, with their files and runs.",
                "mlflow",
            )
        ],
        pool=MAINTENANCE,
    )
    @step
    def model_cleanup(
        config: CleanupConfig, platform: ResourceParam[Platform]
    ) -> Iterator[MaterializeResult[Any]]:
        """Remove versions of models that are no longer needed."""
        report = cleanup.clean_models(
            platform, retention, dry_run=config.dry_run, force=config.force
        )
        yield from _reported("model_cleanup", report)

    return [data_cleanup, model_cleanup]


def _reported(asset: str, report: "Report") -> Iterator[MaterializeResult[Any]]:
    """Report what was removed, and fail if something could not be removed."""
    yield MaterializeResult(asset_key=asset, metadata=reporting.of_cleanup(report))
    if report.problems:
        raise Failure(" ".join(report.problems), allow_retries=False)
