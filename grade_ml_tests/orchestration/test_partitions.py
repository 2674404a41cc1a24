from __future__ import annotations

from datetime import date

import pytest
from dagster import DagsterInstance
from hypothesis import given
from hypothesis import strategies as st

from grade_ml.core.errors import NotFoundError
from grade_ml.orchestration import catalog, partitions
from grade_ml.orchestration.in_flight import covered
from grade_ml.orchestration.partitions import course
from grade_ml.orchestration.ranges import range_tags, ranges

IN_MEMORY = True
keys = st.lists(st.sampled_from("abcdefgh"), unique=True)


@given(known=keys, chosen=st.sets(st.sampled_from("abcdefgh")))
def test_ranges_cover_exactly_what_is_chosen(known: list[str], chosen: set[str]):
    spans = list(ranges(known, chosen))
    in_ranges = [covered(known, range_tags(*span)) for span in spans]
    assert set().union(*in_ranges) == chosen & set(known)
    assert sum(len(part) for part in in_ranges) == len(chosen & set(known))


@given(known=keys, wanted=keys, busy=st.sets(st.sampled_from("abcdefgh")))
def test_a_change_leads_to_what_is_wanted_and_spares_what_is_busy(
    known: list[str], wanted: list[str], busy: set[str]
):
    change = catalog.decide(known, wanted, busy)
    after = (set(known) | set(change.add)) - set(change.remove)
    assert after == set(wanted) | (set(known) & busy)
    assert after - set(wanted) == set(change.waiting)


def test_a_change_is_bounded_and_finished_by_further_changes(instance: DagsterInstance):
    wanted = [f"c{number}" for number in range(catalog.MAX_CHANGES + 1)]
    assert len(catalog.pending(instance, wanted).add) == catalog.MAX_CHANGES
    assert sorted(catalog.synchronize(instance, wanted)) == sorted(wanted)
    assert catalog.synchronize(instance, ["c7"]) == ["c7"]
    assert instance.get_dynamic_partitions(str(course.name)) == ["c7"]


@pytest.mark.parametrize("text", ["SIM-MATH101", "20240131", "2024-02-30", "0001-01-01", ""])
def test_what_is_no_day_is_named(text: str):
    with pytest.raises(NotFoundError, match=f"There is no day '{text}'"):
        partitions.require_days([text], date(2024, 11, 1))
