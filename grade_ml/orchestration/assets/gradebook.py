"""The group `gradebook`: one asset per table that `grade-ml load` fills.

Materializing one of them loads nothing and changes no row: it reads the table and reports its
contents, so that everything downstream has a lineage and a version.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from typing import Any

from dagster import (
    AssetsDefinition,
    DataVersion,
    MaterializeResult,
    ResourceParam,
    asset,
)
from sqlalchemy import Connection, Table

from grade_ml.gradebook import quality, schema
from grade_ml.orchestration import plots
from grade_ml.orchestration.resources import Platform
from grade_ml.orchestration.steps import step

Pictures = dict[str, Any]


def _no_pictures(_: Connection, __: date) -> Pictures:
    return {}


def _enrollments_per_term(connection: Connection, _: date) -> Pictures:
    counts = quality.enrollments_per_term(connection)
    return {"per_term": plots.bars("Enrollments per term", counts, "enrollments", "term")}


def _scores_and_submissions(connection: Connection, as_of: date) -> Pictures:
    scores = quality.score_histogram(connection)
    weeks = _whole(quality.weekly(connection, schema.result.c.submitted_on), as_of)
    return {
        "score_distribution": plots.bars("Scores", scores, "results", "score, points of 100"),
        "submissions": plots.line("Submissions per week", weeks, "submissions"),
    }


def _activity_per_week(connection: Connection, as_of: date) -> Pictures:
    weeks = _whole(quality.weekly(connection, schema.activity.c.day), as_of)
    return {"per_week": plots.line("Activity per week", weeks, "rows (student, day and kind)")}


def _whole(weeks: list[tuple[date, int]], as_of: date) -> list[tuple[date, int]]:
    """Return the weeks without the current one, which would look like a collapse until Sunday."""
    return [(monday, rows) for monday, rows in weeks if not 0 <= (as_of - monday).days < 6]


@dataclass(frozen=True)
class _Source:
    table: Table
    name: str
    description: str
    pictures: Callable[[Connection, date], Pictures] = _no_pictures
    #: Other tables that the pictures read.
    shown_with: tuple[str, ...] = ()


SOURCES = (
    _Source(schema.student, "students", "All students who ever enrolled, with their attributes."),
    _Source(schema.term, "terms", "The terms of the calendar."),
    _Source(schema.course, "courses", "The courses; each is a key of the partition set."),
    _Source(schema.section, "sections", "A course as it is taught in one term."),
    _Source(
        schema.enrollment,
        "enrollments",
        "A student in a section, with the dates of joining and leaving and the outcome.",
        _enrollments_per_term,
        ("sections", "terms"),
    ),
    _Source(
        schema.assignment,
        "assignments",
        "The assignments of each section, with due date, weight and maximum score.",
    ),
    _Source(
        schema.result,
        "results",
        "Submissions and their scores, in per cent of the maximum.",
        _scores_and_submissions,
    ),
    _Source(
        schema.activity,
        "activity",
        "Actions of students in the learning platform, per day and kind.",
        _activity_per_week,
    ),
)
NAME_OF_TABLE = {source.table: source.name for source in SOURCES}


def _missingness(profile: quality.Profile) -> dict[str, Any]:
    return {f"missing_{name}": share for name, share in profile.null_shares.items()}


def _report(connection: Connection, source: _Source, as_of: date) -> MaterializeResult[None]:
    profile = quality.profile(connection, source.table)
    metadata: dict[str, Any] = {
        "dagster/row_count": profile.rows,
        "quarantined_rows": profile.quarantined,
        **({"newest_date": profile.newest.isoformat()} if profile.newest else {}),
        **(source.pictures(connection, as_of) if profile.rows else {}),
        **_missingness(profile),
    }
    return MaterializeResult(metadata=metadata, data_version=DataVersion(profile.version))


def _gradebook_asset(source: _Source) -> AssetsDefinition:
    parents = {key.column.table for key in source.table.foreign_keys}

    @asset(
        name=source.name,
        group_name="gradebook",
        description=source.description + " `grade-ml load` fills it.",
        deps=sorted({NAME_OF_TABLE[parent] for parent in parents} | {*source.shown_with}),
        kinds={"postgres"},
        owners=["team:data-engineering"],
        code_version="1",
        metadata={
            "dagster/table_name": source.table.fullname,
        },
    )
    @step
    def profiled(platform: ResourceParam[Platform]) -> MaterializeResult[None]:
        from grade_ml.gradebook import loading

        with platform.connection() as connection:
            loading.forget(connection, platform.as_of)
            return _report(connection, source, platform.as_of)

    return profiled


GRADEBOOK_ASSETS = [_gradebook_asset(source) for source in SOURCES]
