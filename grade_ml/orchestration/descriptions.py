"""Adds to the description of an asset in the UI: what fills it, when, its page and its columns.

The text is derived from jobs, schedules, sensors and tables, so that it cannot be out of date.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from dagster import (
    AssetKey,
    AssetsDefinition,
    AssetSpec,
    ScheduleDefinition,
    SensorDefinition,
    TableColumn,
    TableColumnConstraints,
    TableSchema,
    map_asset_specs,
)
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition
from sqlalchemy.dialects import postgresql

from grade_ml.core import columns
from grade_ml.early_warning import tables as early_warning
from grade_ml.experiments import store as experiments
from grade_ml.explanations import tables as explanations
from grade_ml.external import tables as external
from grade_ml.forecasting import tables as forecasting
from grade_ml.gradebook import schema as gradebook
from grade_ml.maintenance import history
from grade_ml.monitoring import store as monitoring
from grade_ml.orchestration import timetable
from grade_ml.orchestration.partitions import course
from grade_ml.serving import predictions

#: The modules whose tables' columns are shown; none imports pandas, for which the definitions must
#: not wait.
_TABLES_OF = (
    *(early_warning, experiments, explanations, external, forecasting, gradebook, history),
    *(monitoring, predictions),
)


@dataclass(frozen=True)
class Starters:
    """The schedules and sensors, which start jobs."""

    schedules: Sequence[ScheduleDefinition]
    sensors: Sequence[SensorDefinition]

    def of(self, job: str) -> Iterator[str]:
        """Yield each schedule and sensor that starts `job`, and when."""
        for schedule in self.schedules:
            if schedule.job_name == job:
                when = timetable.in_words(str(schedule.cron_schedule))
                yield f"schedule `{schedule.name}`, {when} ({schedule.execution_timezone})"
        for sensor in self.sensors:
            if sensor.has_jobs and job in {target.name for target in sensor.jobs}:
                yield f"sensor `{sensor.name}`"


def described(
    assets: Iterable[AssetsDefinition],
    jobs: Iterable[UnresolvedAssetJobDefinition],
    longer: Iterable[timetable.Sequence],
    starters: Starters,
) -> list[AssetsDefinition]:
    """Return the assets with descriptions of what fills them and how to see all partitions.

    Parameters
    ----------
    longer
        The sequences that run several of `jobs`.
    """
    known = list(assets)
    tables = {
        table.fullname: table for module in _TABLES_OF for table in module.metadata.tables.values()
    }
    filled: dict[str, set[AssetKey]] = {job.name: {*job.selection.resolve(known)} for job in jobs}
    for sequence in longer:
        filled[sequence.name] = set().union(*(filled[part] for part in sequence.parts))

    def more(spec: AssetSpec) -> AssetSpec:
        filling = [name for name, keys in filled.items() if spec.key in keys]
        texts = [spec.description, _shown(spec), _filled_by(filling, starters)]
        text = "\n\n".join(filter(None, texts))
        described = spec.replace_attributes(description=text)
        table = tables.get(str(spec.metadata.get("dagster/table_name")))
        if table is None:
            return described
        return described.merge_attributes(metadata={"dagster/column_schema": _columns(table)})

    mapped: Any = map_asset_specs(more, known)
    return list(mapped)


def _shown(spec: AssetSpec) -> str | None:
    if spec.partitions_def is None:
        return None
    key = "course" if spec.partitions_def == course else "day"
    return (
        f"**One {key} of many**: this page shows the {key} that was computed last. "
        f"*Metadata → Plots* compares all {key}s, and *Partitions* lists them."
    )


def _filled_by(jobs: Iterable[str], starters: Starters) -> str:
    lines = [
        f"- job `{name}`: {'; '.join(starters.of(name)) or 'when a user launches it'}"
        for name in jobs
    ]
    return "\n".join(["**Filled by**\n", *lines])


def _columns(table: sa.Table) -> TableSchema:
    return TableSchema(
        [
            TableColumn(
                column.name,
                column.type.compile(postgresql.dialect()).lower(),  # type: ignore[no-untyped-call]
                columns.description(column),
                TableColumnConstraints(nullable=bool(column.nullable)),
            )
            for column in table.columns
        ]
    )
