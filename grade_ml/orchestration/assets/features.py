"""The group `features`: point-in-time snapshots and score sequences, stored per course."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from dagster import (
    MaterializeResult,
    TableColumn,
    TableSchema,
)

from grade_ml.features.catalogue import ATTRIBUTES, FEATURES, KEYS, SEQUENCE_COLUMNS
from grade_ml.orchestration.assets.reads import OUTCOMES, RECORDS
from grade_ml.orchestration.courses import Courses, course_asset
from grade_ml.orchestration.plots import ROWS
from grade_ml.orchestration.resources import Platform

if TYPE_CHECKING:
    from grade_ml.features.refresh import Refreshed

_COLUMNS = TableSchema(
    [
        *(TableColumn(name, "key", description) for name, description in KEYS.items()),
        *(TableColumn(feature.name, "float", feature.description) for feature in FEATURES),
        *(TableColumn(name, "float or text", text) for name, text in ATTRIBUTES.items()),
    ]
)


@course_asset(
    group_name="features",
    deps=RECORDS,
    kinds={"pandas", "parquet"},
    owners=["team:data-engineering"],
    code_version="1",
    metadata={"dagster/column_schema": _COLUMNS},
)
def grade_snapshots(courses: Courses, platform: Platform) -> MaterializeResult[None]:
    """Describe each enrollment at each cut (weekly, and today) by what was visible then."""
    from grade_ml.features.refresh import refresh

    with platform.workspace() as workspace:
        refreshed = refresh(workspace.connection, workspace.frames, courses.keys, platform.declared)
    return _reported(courses, platform, refreshed)


@course_asset(
    group_name="features",
    deps=["students", *OUTCOMES],
    kinds={"pandas", "parquet"},
    owners=["team:data-engineering"],
    code_version="1",
    metadata={
        "dagster/column_schema": TableSchema(
            [TableColumn(name, description=text) for name, text in SEQUENCE_COLUMNS.items()]
        )
    },
)
def score_sequences(courses: Courses, platform: Platform) -> MaterializeResult[None]:
    """List each enrollment's coursework with the day from which each value is known."""
    from grade_ml.features.refresh import refresh_sequences

    with platform.workspace() as workspace:
        refreshed = refresh_sequences(
            workspace.connection, workspace.frames, courses.keys, platform.institution
        )
    return _reported(courses, platform, refreshed)


def _reported(
    courses: Courses, platform: Platform, refreshed: "Mapping[str, Refreshed]"
) -> MaterializeResult[None]:
    """Report how many rows of each course are stored, and what stands out."""
    for key, course in refreshed.items():
        figures = {"dagster/row_count": course.rows, "unchanged": course.unchanged}
        left_out = {"left_out": dict(course.left_out)} if course.left_out else {}
        redesigned = {"redesigned": [*course.redesigned.values()]} if course.redesigned else {}
        courses.add_asset_metadata(figures | left_out | redesigned, partition_key=key)
    texts = [text for course in refreshed.values() for text in course.redesigned.values()]
    return MaterializeResult(
        metadata={
            "as_of": platform.as_of.isoformat(),
            "computed": sum(not course.unchanged for course in refreshed.values()),
            "redesigned_sections": len(texts),
            **({"first_redesigned": texts[:ROWS]} if texts else {}),
        }
    )


FEATURE_ASSETS = [grade_snapshots, score_sequences]
