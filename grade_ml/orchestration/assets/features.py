"""The group `features`: point-in-time snapshots and score sequences, kept per course."""

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
        found = refresh(workspace.connection, workspace.frames, courses.keys, platform.declared)
    return _told(courses, platform, found)


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
    """List each enrollment's coursework with the day from which on each thing is known."""
    from grade_ml.features.refresh import refresh_sequences

    with platform.workspace() as workspace:
        found = refresh_sequences(
            workspace.connection, workspace.frames, courses.keys, platform.institution
        )
    return _told(courses, platform, found)


def _told(
    courses: Courses, platform: Platform, found: "Mapping[str, Refreshed]"
) -> MaterializeResult[None]:
    """Tell of each course how many rows are stored, and whether an earlier run made them."""
    for key, one in found.items():
        figures = {"dagster/row_count": one.rows, "unchanged": one.unchanged}
        odd = {"left_out": dict(one.left_out)} if one.left_out else {}
        courses.add_asset_metadata(figures | odd, partition_key=key)
    return MaterializeResult(
        metadata={
            "as_of": platform.as_of.isoformat(),
            "computed": sum(not one.unchanged for one in found.values()),
        }
    )


FEATURE_ASSETS = [grade_snapshots, score_sequences]
