"""Groups of students: values of texts, bands of numbers, none of a single person."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from grade_ml.ensemble.groups import SETTINGS, bands_of, grouped


def people(weeks: int = 3, **columns: object) -> pd.DataFrame:
    """Return a row per student and week."""
    frame = pd.DataFrame(columns)
    frame["student"] = [f"s{i}" for i in range(len(frame))]
    return pd.concat([frame] * weeks)


@given(
    st.lists(st.integers(1900, 2015) | st.none(), min_size=1, max_size=400),
    st.integers(0, 300),
)
def test_bands_of_numbers_have_students_enough(years: list[int | None], copies: int) -> None:
    years = [*years, *[2001] * copies]
    rows = people(protected_birthYear=np.array(years, dtype="float32"))
    bounds = bands_of(rows, "student")["birthYear"]
    groups = grouped(rows, "student")["protected_birthYear"]
    assert groups.notna().sum() <= rows["protected_birthYear"].notna().sum()
    sizes = rows["student"].groupby(groups.to_numpy()).nunique()
    assert (sizes >= SETTINGS.least_students).all()
    if bounds:
        assert len(sizes) == len(bounds) + 1 <= SETTINGS.bands
        assert (sizes >= SETTINGS.least_in_band).all()
        assert sizes.sum() == rows.loc[groups.notna().to_numpy(), "student"].nunique()


def test_bands_are_named_and_stay_what_they_were() -> None:
    years = np.repeat(np.arange(1990, 2010), 20).astype("float32")
    rows = people(protected_birthYear=years)
    bands = json.loads(json.dumps(bands_of(rows, "student")))
    assert bands == {"birthYear": [1994, 1999, 2004]}
    names = ["up to 1994", "over 1994, up to 1999", "over 1999, up to 2004", "over 2004"]
    cohorts = grouped(rows, "student", bands)["protected_birthYear"]
    assert cohorts.value_counts().to_dict() == dict.fromkeys(names, 300)
    # One course of the same students, later.
    later = rows[rows["protected_birthYear"] > 2000]
    assert set(grouped(later, "student", bands)["protected_birthYear"]) == set(names[2:])


def test_few_numbers_are_categories_and_few_students_no_group() -> None:
    rows = people(
        protected_flag=np.array([0.0] * 93 + [1.0] * 7, dtype="float32"),
        protected_faith=pd.Categorical(["a"] * 60 + ["b"] * 36 + ["rare"] * 4),
        protected_name=[f"name {i}" for i in range(100)],
        attribute_region="north",
    )
    groups = grouped(rows, "student")
    assert set(groups["protected_flag"]) == {"0", "1"}
    assert set(groups["protected_faith"].dropna()) == {"a", "b"}
    assert groups["protected_name"].isna().all()
    assert (groups["attribute_region"] == "north").all()


def test_nothing_has_no_groups() -> None:
    rows = people(protected_sex=["f", "m"] * 20, protected_age=np.arange(40.0))
    assert grouped(rows[:0], "student").empty
    unknown = rows.assign(protected_sex=None, protected_age=np.nan)
    assert grouped(unknown, "student")[["protected_sex", "protected_age"]].isna().all(axis=None)
