"""The group `gradebook`: one asset per table that `grade-ml load` fills.

Materializing one of them reads nothing in and changes no row: it looks at the table and reports
what is there, so that everything downstream has a lineage and a version.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dagster import (
    AssetsDefinition,
    DataVersion,
    MaterializeResult,
    MetadataValue,
    ResourceParam,
    TableColumn,
    TableColumnConstraints,
    TableSchema,
    asset,
)
from sqlalchemy import Connection, Table

from grade_ml.gradebook import quality, schema
from grade_ml.orchestration import plots
from grade_ml.orchestration.resources import Platform
from grade_ml.orchestration.retrying import retried

Pictures = dict[str, Any]


def _no_pictures(_: Connection) -> Pictures:
    return {}


def _enrollments_per_term(connection: Connection) -> Pictures:
    counts = quality.enrollments_per_term(connection)
    return {"per_term": plots.bars("Enrollments per term", counts, "enrollments")}


def _scores_and_submissions(connection: Connection) -> Pictures:
    scores = quality.score_histogram(connection)
    weeks = quality.weekly(connection, schema.result.c.submitted_on)
    return {
        "score_distribution": plots.bars("Scores", scores, "results", "score, per cent"),
        "submissions": plots.line("Submissions per week", weeks, "submissions"),
    }


def _activity_per_week(connection: Connection) -> Pictures:
    weeks = quality.weekly(connection, schema.activity.c.day)
    return {"per_week": plots.line("Days with activity per week", weeks, "rows")}


@dataclass(frozen=True)
class _Source:
    table: Table
    name: str
    description: str
    pictures: Callable[[Connection], Pictures] = _no_pictures
    #: Other tables that the pictures read.
    shown_with: tuple[str, ...] = ()


SOURCES = (
    _Source(schema.student, "students", "Everyone who ever enrolled, with what is known of them."),
    _Source(schema.term, "terms", "The terms of the calendar."),
    _Source(schema.course, "courses", "The courses; each is one key of the partition set."),
    _Source(schema.section, "sections", "A course as it is taught in one term."),
    _Source(
        schema.enrollment,
        "enrollments",
        "A student in a section, with the dates of joining and leaving and the outcome.",
        _enrollments_per_term,
        ("sections", "terms"),
    ),
    _Source(schema.assignment, "assignments", "What is set, when it is due, how much it weighs."),
    _Source(
        schema.result,
        "results",
        "Submissions and their scores, per cent of what could be reached.",
        _scores_and_submissions,
    ),
    _Source(
        schema.activity,
        "activity",
        "What students did in the learning platform, per day and kind.",
        _activity_per_week,
    ),
)
NAME_OF_TABLE = {source.table: source.name for source in SOURCES}


def _column_schema(table: Table) -> TableSchema:
    return TableSchema(
        columns=[
            TableColumn(
                name=column.name,
                type=str(column.type).lower(),
                description=column.comment,
                constraints=TableColumnConstraints(nullable=bool(column.nullable)),
            )
            for column in table.columns
        ]
    )


def _missingness(found: quality.Profile) -> dict[str, Any]:
    shares = found.null_shares
    if not shares:
        return {}
    bars = [(name, 100 * share) for name, share in shares.items()]
    picture = plots.bars("Columns without a value", bars, "per cent of rows", top=100)
    return {"missingness": picture, **{f"missing_{name}": shares[name] for name in shares}}


def _report(connection: Connection, source: _Source) -> MaterializeResult[None]:
    found = quality.profile(connection, source.table)
    metadata: dict[str, Any] = {
        "dagster/row_count": found.rows,
        "quarantined_rows": found.quarantined,
        **({"newest_date": found.newest.isoformat()} if found.newest else {}),
        **(source.pictures(connection) if found.rows else {}),
        **_missingness(found),
    }
    return MaterializeResult(metadata=metadata, data_version=DataVersion(found.version))


def _gradebook_asset(source: _Source) -> AssetsDefinition:
    parents = {key.column.table for key in source.table.foreign_keys}

    @asset(
        name=source.name,
        group_name="gradebook",
        description=source.description + " Rows come by `grade-ml load`.",
        deps=sorted({NAME_OF_TABLE[parent] for parent in parents} | {*source.shown_with}),
        kinds={"postgres"},
        owners=["team:data-engineering"],
        code_version="1",
        metadata={
            "dagster/column_schema": _column_schema(source.table),
            "dagster/table_name": MetadataValue.text(source.table.fullname),
        },
    )
    @retried
    def profiled(platform: ResourceParam[Platform]) -> MaterializeResult[None]:
        from grade_ml.gradebook import loading

        with platform.connection() as connection:
            loading.forget(connection, platform.as_of)
            return _report(connection, source)

    return profiled


GRADEBOOK_ASSETS = [_gradebook_asset(source) for source in SOURCES]
