import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grade_ml.ensemble.folds import section_folds

ROWS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 12)), min_size=2, max_size=80)


@given(ROWS, st.integers(2, 5), st.integers(0, 3))
def test_no_section_and_no_student_stands_on_both_sides(pairs, count, seed) -> None:
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
