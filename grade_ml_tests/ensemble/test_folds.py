import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grade_ml.ensemble.folds import section_folds, validation_folds

ROWS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 12)), min_size=2, max_size=80)


@given(ROWS, st.integers(2, 5), st.integers(0, 3))
def test_no_section_and_no_student_is_on_both_sides(pairs, count, seed) -> None:
    rows = pd.DataFrame(pairs, columns=["section_id", "student_id"]).astype("string")
    rows["course_id"] = "C"
    held_out = np.zeros(len(rows), dtype=int)
    one_section = rows["section_id"].nunique() == 1
    for train, held in section_folds(rows, count, seed):
        held_out += held
        sides = rows[train], rows[held]
        assert not set(sides[0]["student_id"]) & set(sides[1]["student_id"])
        assert one_section or not set(sides[0]["section_id"]) & set(sides[1]["section_id"])
    assert (held_out == 1).all()


@pytest.mark.parametrize("seed", [0, 1])
def test_folds_do_not_depend_on_the_order_of_rows(seed: int) -> None:
    rows = pd.DataFrame(
        {
            "section_id": list("aabbccdd"),
            "student_id": list("12345678"),
            "course_id": list("xxxxyyyy"),
        },
        dtype="string",
    )
    shuffled = rows.sample(frac=1, random_state=3)
    folds = [held[np.argsort(shuffled.index)] for _, held in section_folds(shuffled, 3, seed)]
    for (_, held), again in zip(section_folds(rows, 3, seed), folds, strict=True):
        assert (held == again).all()


def test_sections_of_one_course_are_held_out_apart() -> None:
    rows = pd.DataFrame(
        {"section_id": list("aabbcdef"), "student_id": range(8), "course_id": list("xxxxyyzz")}
    )
    for train, held in section_folds(rows, 2, seed=0):
        assert set(rows[train]["course_id"]) == set(rows[held]["course_id"]) == set("xyz")


def terms(count: int, days: int = 120) -> pd.DataFrame:
    """Return weekly rows of two courses over terms; each student takes two terms in a row."""
    rows = pd.DataFrame(
        [
            (f"{course}{term}", course, f"{course}{term + late}-{number}", term)
            for term in range(count)
            for course in "xy"
            for late in (0, 1)
            for number in range(3)
        ],
        columns=["section_id", "course_id", "student_id", "term"],
    ).merge(pd.DataFrame({"cut_day": [7.0, 14.5, 70.0]}), how="cross")
    # A course that begins a week later is of the same term.
    late = pd.to_timedelta(7 * (rows["course_id"] == "y"), "D")
    began = pd.Timestamp("2020-02-03") + days * pd.to_timedelta(rows["term"], "D") + late
    rows["cut_on"] = began + pd.to_timedelta(np.floor(rows["cut_day"]), "D")
    return rows


@pytest.mark.parametrize(("count", "held_terms"), [(5, [3, 4]), (6, [3, 4, 5]), (8, [5, 6, 7])])
def test_later_terms_are_predicted_from_earlier_terms(count: int, held_terms: list[int]) -> None:
    rows = terms(count)
    folds = validation_folds(rows, 3, seed=0)
    assert [set(rows.loc[held, "term"]) for _, held in folds] == [{term} for term in held_terms]
    for train, held in folds:
        known, unseen = rows[train], rows[held]
        assert len(unseen) == (rows["term"] == unseen["term"].iloc[0]).sum()
        assert known["term"].max() < unseen["term"].min()
        assert not set(known["student_id"]) & set(unseen["student_id"])


def test_a_forward_fold_knows_every_student_that_it_may() -> None:
    rows = terms(5)
    train, held = validation_folds(rows, 3, seed=0)[0]
    shared = rows["student_id"].isin(rows.loc[held, "student_id"])
    assert (train == ((rows["term"] < 3) & ~shared)).all()


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_with_few_terms_sections_are_held_out(count: int) -> None:
    rows = terms(count)
    folds = validation_folds(rows, 3, seed=0)
    assert len(folds) == min(3, 2 * count)
    assert (sum(held.astype(int) for _, held in folds) == 1).all()
    for train, held in folds:
        assert not set(rows.loc[train, "section_id"]) & set(rows.loc[held, "section_id"])
        assert not set(rows.loc[train, "student_id"]) & set(rows.loc[held, "student_id"])


def test_sections_that_begin_within_a_month_are_one_term() -> None:
    rows = terms(8, days=30)
    assert (sum(held.astype(int) for _, held in validation_folds(rows, 3, seed=0)) == 1).all()


def test_students_are_held_out_where_all_take_every_section() -> None:
    rows = terms(1)
    rows["student_id"] = rows.groupby("section_id").cumcount().astype(str)
    folds = validation_folds(rows, 3, seed=0)
    assert (sum(held.astype(int) for _, held in folds) == 1).all()
    for train, held in folds:
        assert train.any()
        assert not set(rows.loc[train, "student_id"]) & set(rows.loc[held, "student_id"])
