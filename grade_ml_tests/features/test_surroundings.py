from datetime import date

import numpy as np
import pandas as pd
import pytest

from grade_ml.features.surroundings import columns_of, with_surroundings

CAMPUS, A = "51.5074,-0.1278", "course/A"
WIDE = pd.DataFrame(
    [
        (date(2024, 3, 1), CAMPUS, 10.0, 3.0, "observed", np.nan),
        (date(2024, 3, 2), CAMPUS, np.nan, np.nan, "not available", np.nan),
        (date(2024, 3, 1), A, np.nan, np.nan, None, -4.0),
        (date(2024, 3, 2), A, np.nan, np.nan, None, -5.0),
    ],
    columns=[
        "day",
        "place",
        "weather_temperature",
        "weather_temperature_age_hours",
        "weather_temperature_status",
        "course_difficulty_points",
    ],
)
SNAPSHOTS = pd.DataFrame(
    {
        "course_id": pd.Categorical(["B", "A", "A", "A"]),
        "cut_on": pd.to_datetime(["2024-03-01", "2024-03-02", "2024-03-01", "2024-02-29"]),
        "attribute_region": ["north", "north", "south", "south"],
    },
    index=[7, 3, 5, 1],
)


def test_each_snapshot_sees_its_day_and_its_course() -> None:
    seen = with_surroundings(SNAPSHOTS, WIDE)
    pd.testing.assert_frame_equal(seen[SNAPSHOTS.columns], SNAPSHOTS)
    assert list(seen.columns.difference(SNAPSHOTS.columns)) == [
        "external_course_difficulty_points",
        "external_weather_temperature",
    ]
    np.testing.assert_array_equal(
        seen[["external_weather_temperature", "external_course_difficulty_points"]],
        [[10, np.nan], [np.nan, -5], [10, -4], [np.nan, np.nan]],
    )


def test_what_is_known_later_changes_nothing() -> None:
    later = WIDE[1::2].assign(day=date(2024, 3, 3), weather_temperature=99.0)
    pd.testing.assert_frame_equal(
        with_surroundings(SNAPSHOTS, pd.concat([WIDE, later])), with_surroundings(SNAPSHOTS, WIDE)
    )


def test_nothing_collected_and_no_snapshots_keep_the_shape() -> None:
    nothing = with_surroundings(SNAPSHOTS, WIDE[:0])
    assert len(nothing) == len(SNAPSHOTS)
    assert nothing.filter(like="external_").isna().all(axis=None)
    never_any = WIDE[:0][["day", "place"]]
    pd.testing.assert_frame_equal(with_surroundings(SNAPSHOTS, never_any), SNAPSHOTS)
    none = with_surroundings(SNAPSHOTS[:0], WIDE)
    assert list(none.columns) == list(with_surroundings(SNAPSHOTS, WIDE).columns)


def test_two_rows_of_one_place_and_day_are_refused() -> None:
    with pytest.raises(ValueError, match=r"unique|duplicate"):
        with_surroundings(SNAPSHOTS, pd.concat([WIDE, WIDE]))


def test_the_columns_of_a_source_are_distinguished() -> None:
    seen = with_surroundings(SNAPSHOTS, WIDE)
    assert columns_of(seen, ["course_difficulty"]) == ["external_course_difficulty_points"]
    assert columns_of(seen, ["weather"]) == ["external_weather_temperature"]
    assert columns_of(seen, []) == []
