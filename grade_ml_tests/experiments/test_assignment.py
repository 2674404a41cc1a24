"""Assignment: repeatable, sticky, independent, balanced within strata, exclusive within groups."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grade_ml.core.pseudonyms import Pseudonyms
from grade_ml.experiments.assignment import (
    ASSIGNED,
    block_size,
    in_two_arms,
    new_assignments,
    one_of_each_group,
    uniform,
)
from grade_ml_tests.factories import PSEUDONYMS

HALVES = {"standard": 0.5, "none": 0.5}
NOBODY = pd.DataFrame({"student_id": [], "stratum": []}, dtype=object)
names = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1)


def people(number: int, first: int = 0, strata: int = 1) -> pd.DataFrame:
    ids = [f"u{n}" for n in range(first, first + number)]
    return pd.DataFrame({"student_id": ids, "stratum": [f"s{n % strata}" for n in range(number)]})


def drawn(
    students: pd.DataFrame,
    shares: dict[str, float],
    name: str = "e",
    earlier: pd.DataFrame = NOBODY,
    *,
    stratified: bool = False,
) -> pd.DataFrame:
    students = students if stratified else students.assign(stratum="")
    return new_assignments(students, earlier, shares, name, PSEUDONYMS)


@st.composite
def shares(draw: st.DrawFn) -> dict[str, float]:
    parts = draw(st.lists(st.integers(1, 6), min_size=2, max_size=4))
    return {f"arm-{n}": part / sum(parts) for n, part in enumerate(parts)}


@settings(max_examples=25)
@given(ids=st.lists(names, unique=True, min_size=1, max_size=30), stratified=st.booleans())
def test_the_order_and_the_company_of_students_say_nothing(ids: list[str], stratified: bool):
    students = pd.DataFrame({"student_id": ids, "stratum": "all"})
    assigned = drawn(students, HALVES, stratified=stratified)
    assert list(assigned) == list(ASSIGNED) and sorted(assigned["student_id"]) == sorted(ids)
    turned = drawn(students[::-1], HALVES, stratified=stratified)
    pd.testing.assert_frame_equal(assigned, turned)
    if not stratified:
        alone = drawn(students.head(1), HALVES).iloc[0]
        assert alone["arm"] == assigned.set_index("student_id").loc[ids[0], "arm"]


@settings(max_examples=15)
@given(first=shares(), then=shares(), stratified=st.booleans())
def test_who_has_an_arm_keeps_it_when_shares_change(first, then, stratified: bool):
    known = drawn(people(20), first, stratified=stratified)
    more = drawn(people(40), then, earlier=known, stratified=stratified)
    assert set(more["student_id"]) == {f"u{n}" for n in range(20, 40)}
    assert set(more["arm"]) <= set(then)
    assert more["probability"].tolist() == [then[arm] for arm in more["arm"]]


def test_arms_have_their_shares_and_two_experiments_are_independent():
    number = 20_000
    three = {"a": 0.2, "b": 0.5, "c": 0.3}
    first, other = (drawn(people(number), three, name)["arm"] for name in ("one", "other"))
    assigned = first.value_counts(normalize=True)
    for arm, share in three.items():
        assert abs(assigned[arm] - share) < 4 * np.sqrt(share * (1 - share) / number)
    left, right = (pd.get_dummies(arms).to_numpy(float) for arms in (first, other))
    assert np.abs(np.corrcoef(left.T, right.T)[:3, 3:]).max() < 4 / np.sqrt(number)


def test_hashes_are_uniform_and_need_the_secret():
    ids = people(20_000)["student_id"]
    mine = uniform(PSEUDONYMS, "e", ids)
    assert mine.min() >= 0 and mine.max() < 1
    counts = np.histogram(mine, 100, (0, 1))[0]
    assert ((counts - 200) ** 2 / 200).sum() < 160  # 99.99% of chi-squared with 99 degrees
    others = uniform(Pseudonyms(b"another secret"), "e", ids)
    assert abs(np.corrcoef(mine, others)[0, 1]) < 4 / np.sqrt(len(ids))


def test_texts_that_join_alike_are_distinguished():
    ids = pd.Series(["bc"]), pd.Series(["c"])
    assert uniform(PSEUDONYMS, "a", ids[0]) != uniform(PSEUDONYMS, "ab", ids[1])


@settings(max_examples=20)
@given(
    share=shares(),
    waves=st.lists(st.integers(0, 25), min_size=1, max_size=4),
    strata=st.integers(1, 4),
)
def test_in_each_stratum_the_arms_differ_by_one_block_at_most(share, waves, strata):
    earlier, all_students = NOBODY, people(0)
    for size in waves:  # late comers continue where the last block ended
        all_students = pd.concat([all_students, people(size, len(all_students), strata)])
        assigned = drawn(all_students, share, earlier=earlier, stratified=True)
        earlier = pd.concat(
            [drawing for drawing in (earlier, assigned) if len(drawing)] or [NOBODY]
        )
    size = block_size(share)
    for _, rows in earlier.groupby("stratum"):
        counts = rows["arm"].value_counts().reindex(list(share), fill_value=0)
        whole = len(rows) // size
        for arm, part in share.items():
            # At most so many whole blocks, and all of the last block.
            assert counts[arm] >= np.floor(whole * size * part + 1e-6) - (size == 20)
            assert counts[arm] <= np.ceil((whole + 1) * size * part - 1e-6) + (size == 20)


def test_equal_arms_of_a_stratum_differ_by_one_student():
    assigned = drawn(people(99, strata=3), HALVES, stratified=True)
    sizes = assigned.groupby(["stratum", "arm"]).size()
    assert set(sizes) == {16, 17}


def test_a_student_alone_in_a_stratum_has_each_arm_with_its_share():
    quarter = {"a": 0.25, "b": 0.75}
    students = people(8_000, strata=8_000)
    assigned = drawn(students, quarter, stratified=True)["arm"].eq("a").mean()
    assert abs(assigned - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 8_000)


def pairs(students: pd.DataFrame, *experiments: str) -> pd.DataFrame:
    return students[["student_id"]].merge(pd.DataFrame({"experiment_id": experiments}), how="cross")


def test_a_student_takes_part_in_one_experiment_of_a_group():
    students = people(3_000)
    not_assigned = pairs(students.head(0), "one")
    assigned = one_of_each_group(
        pairs(students, "one", "two", "three"), not_assigned, "g", PSEUDONYMS
    )
    assert sorted(assigned["student_id"]) == sorted(students["student_id"])
    assert assigned["experiment_id"].value_counts(normalize=True).between(0.3, 0.37).all()

    # An experiment that joins later gets newcomers only; no student is moved.
    later = pairs(people(6_000), "one", "two", "three", "four")
    again = one_of_each_group(later, assigned, "g", PSEUDONYMS)
    home = assigned.set_index("student_id")["experiment_id"]
    assert again.set_index("student_id")["experiment_id"].loc[home.index].equals(home)
    newcomers = again[~again["student_id"].isin(home.index)]
    assert newcomers["experiment_id"].value_counts(normalize=True).between(0.22, 0.28).all()

    # In an experiment that takes no part in this draw: no place in another of the group.
    assert one_of_each_group(pairs(students, "two"), pairs(students, "one"), "g", PSEUDONYMS).empty


def test_the_group_is_independent_of_the_arm():
    students = people(20_000)
    of_group = one_of_each_group(
        pairs(students, "one", "two"), pairs(students.head(0), "one"), "g", PSEUDONYMS
    )
    chosen = of_group.loc[of_group["experiment_id"] == "one", ["student_id"]]
    arms = drawn(chosen, HALVES, "one")["arm"]
    assert abs(arms.eq("none").mean() - 0.5) < 4 * 0.5 / np.sqrt(len(arms))


def test_a_student_seen_in_two_arms_is_detected():
    assigned = pd.DataFrame({"student_id": ["a", "b", "c"], "arm": ["x", "y", "x"]})
    seen = pd.DataFrame({"student_id": ["a", "a", "b", "b"], "arm": ["x", "x", "y", "x"]})
    assert in_two_arms(assigned, seen) == {"b"}
    assert in_two_arms(assigned, seen.head(2)) == frozenset()


@pytest.mark.parametrize(
    ("parts", "size"),
    [([0.5, 0.5], 2), ([0.25, 0.75], 4), ([1 / 3, 2 / 3], 3), ([0.123, 0.877], 20)],
)
def test_a_block_holds_each_share(parts: list[float], size: int):
    assert block_size(dict(zip("ab", parts, strict=True))) == size
