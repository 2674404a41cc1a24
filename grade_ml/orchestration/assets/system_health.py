"""The asset that rates the health of the installation itself, every hour."""

from dagster import (
    AssetExecutionContext,
    AssetsDefinition,
    AssetSpec,
    MaterializeResult,
    ResourceParam,
    multi_asset,
)

from grade_ml.orchestration import standing
from grade_ml.orchestration.reporting import system_health as reporting
from grade_ml.orchestration.resources import Platform
from grade_ml.orchestration.steps import step

#: Days that the picture of the score shows.
HISTORY_DAYS = 30


def system_health_asset(*, has_inbox: bool) -> AssetsDefinition:
    """Return the asset `system_health`.

    Without an inbox nothing is ever delivered, and Dagster would warn at each launch that the asset
    upstream was never materialized.
    """
    deliveries = ["inbox_deliveries"] if has_inbox else []

    # A job has the name of its asset; Dagster allows that only if the step has another name.
    @multi_asset(
        name="look_at_the_system",
        specs=[
            AssetSpec(
                "system_health",
                deps=["model_health", "drift_report", "sections", *deliveries],
                description="Rate the health of the installation in one number, with reasons.",
                group_name="maintenance",
                owners=["team:ml-engineering"],
                kinds={"matplotlib", "postgres"},
                code_version="1",
                metadata={"dagster/table_name": "maintenance.system_health"},
            )
        ],
    )
    @step
    def system_health(
        context: AssetExecutionContext, platform: ResourceParam[Platform]
    ) -> MaterializeResult[None]:
        """Examine jobs, queue, records, models, disk, memory and databases."""
        from grade_ml.maintenance import exposition, history, libraries, report
        from grade_ml.maintenance.health import health

        facts = standing.facts(platform, context.instance, context.run.run_id)
        rated = health(facts)
        with platform.connection() as connection:
            history.record(connection, rated)
            libraries.record(connection, rated.as_of)
            scores = history.scores(connection, rated.as_of, HISTORY_DAYS)
        figures = report.drawn(facts, rated, scores)
        page = report.write(platform.settings.storage_root, report.html(facts, rated, figures))
        metrics = exposition.write(platform.settings, exposition.exposition(facts, rated))
        return MaterializeResult(metadata=reporting.of_health(rated, figures, page, metrics))

    return system_health
