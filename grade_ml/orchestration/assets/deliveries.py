"""The group `deliveries`: loads of records, from the inbox and from a OneRoster server.

Apart from the tables: without inbox and server these assets fail, and "Materialize all" with them.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from dagster import (
    AssetsDefinition,
    Config,
    Failure,
    MaterializeResult,
    MetadataValue,
    ResourceParam,
    asset,
)
from pydantic import Field

from grade_ml.core import texts
from grade_ml.gradebook.rest.settings import OneRosterSettings
from grade_ml.orchestration.resources import Platform
from grade_ml.orchestration.steps import step

if TYPE_CHECKING:
    from grade_ml.gradebook.loading import LoadReport

OWNERS = ["team:data-engineering"]


@asset(
    group_name="deliveries",
    kinds={"postgres"},
    owners=OWNERS,
    code_version="1",
    metadata={"dagster/table_name": "gradebook.delivery"},
)
@step
def inbox_deliveries(platform: ResourceParam[Platform]) -> Iterator[MaterializeResult[None]]:
    """Load the deliveries in GRADE_ML_INBOX, in order, and move each to done or refused.

    The run fails, after the rest was loaded, if a delivery was refused or could not be moved.
    """
    from grade_ml.gradebook import inbox

    done = inbox.empty(platform.engine, platform.settings, now=platform.clock.now())
    reports = [outcome.report for outcome in done.outcomes if outcome.report]
    summary = "\n".join(str(outcome) for outcome in done.outcomes) + "\n".join(done.notes)
    yield MaterializeResult(
        metadata={
            "deliveries": len(reports),
            "refused": len(done.outcomes) - len(reports),
            "summary": MetadataValue.md(texts.block(summary)),
            **counts(reports),
        }
    )
    problems = [outcome.problem for outcome in done.outcomes if outcome.problem]
    problems += [str(outcome) for outcome in done.outcomes if not outcome.report]
    if problems:
        raise Failure(" ".join(problems), allow_retries=False)


class SyncConfig(Config):
    """The extent of a sync: the changes since the last sync (once a week everything), or all."""

    full: bool = Field(default=False, description="Read everything, not only what changed.")


def gradebook_sync_asset(server: OneRosterSettings) -> AssetsDefinition:
    """Return the asset `gradebook_sync`, which reads from `server`."""

    @asset(
        group_name="deliveries",
        kinds={"http", "postgres"},
        owners=OWNERS,
        code_version="1",
        metadata={"dagster/table_name": "gradebook.oneroster_sync"},
    )
    @step
    def gradebook_sync(
        config: SyncConfig, platform: ResourceParam[Platform]
    ) -> MaterializeResult[None]:
        """Load what changed on the OneRoster server of GRADE_ML_ONEROSTER_URL."""
        from grade_ml.gradebook.rest.sync import sync

        done = sync(
            platform.engine,
            platform.settings,
            server,
            now=platform.now,
            clock=platform.clock,
            full=config.full,
        )
        read = [f"{name}: {rows:,} rows, {done.modes[name]}" for name, rows in done.rows.items()]
        return MaterializeResult(
            metadata={
                "read": MetadataValue.md(texts.bullets([*read, *done.notes])),
                "rows_read": sum(done.rows.values()),
                **counts([done.report] if done.report else []),
            }
        )

    return gradebook_sync


def counts(reports: Iterable["LoadReport"]) -> dict[str, Any]:
    """Return rows by table as numbers that the UI plots over time, and the notes of loads."""
    total: Counter[str] = Counter()
    notes: dict[str, None] = {}
    for report in reports:
        for kind in ("loaded", "unchanged", "removed"):
            for table, rows in getattr(report, kind).items():
                total[f"{table}_{kind}"] += rows
        total["quarantined_rows"] += report.quarantined
        notes |= dict.fromkeys(report.notes)
    return {"quarantined_rows": 0, **total, "notes": MetadataValue.md(texts.bullets(notes))}
