"""Interventions: the table is checked, loads hold, and no student is dropped in silence."""

from __future__ import annotations

from datetime import date

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grade_ml.core.errors import SourceError
from grade_ml.early_warning.interventions import (
    COLUMNS,
    PLAN,
    Instead,
    Rule,
    Timing,
    monday,
    plan,
    proposals,
    read_table,
)
from grade_ml.early_warning.risk_periods import PERIODS, Driver

RULES = read_table()
TODAY = date(2025, 9, 24)  # a Wednesday


def periods(*rows: tuple[str, float, str, int]) -> pd.DataFrame:
    """Periods of (student, severity, driver, weeks ahead)."""
    frame = pd.DataFrame(
        [
            {
                "course_id": "c",
                "section_id": "s",
                "student_id": student,
                "as_of": pd.Timestamp(TODAY),
                "start_week": 4 + ahead,
                "end_week": 5 + ahead,
                "starts_on": pd.Timestamp(TODAY),
                "weeks_ahead": ahead,
                "severity": severity,
                "below_pass_probability": severity,
                "missed_probability": 0.1,
                "driver": str(driver),
            }
            for student, severity, driver, ahead in rows
        ],
        columns=list(PERIODS),
    )
    return frame


NOTHING = plan(periods(), RULES, pd.DataFrame(columns=list(PLAN)), TODAY, 1).head(0)


def test_the_table_has_an_action_an_owner_and_evidence_for_every_driver_and_timing():
    assert {(rule.driver, rule.timing) for rule in RULES} == {
        (driver, timing) for driver in Driver for timing in Timing
    }
    claims = ("improves the grade by", "will pass", "guarantee")
    assert not [rule for rule in RULES if any(word in rule.action for word in claims)]


def write(folder, rows: list[str], header: str = ",".join(COLUMNS)):
    path = folder / "own.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


WHOLE = [f"{driver},{timing},do it,tutor,none" for driver in Driver for timing in Timing]


def test_a_university_may_bring_its_own(tmp_path):
    rules = read_table(write(tmp_path, WHOLE))
    assert {rule.action for rule in rules} == {"do it"}


def test_bad_rows_are_named_by_row_column_and_value(tmp_path):
    rows = ["lazy,now,call,tutor,x", "silent,soon,call,,x", *WHOLE]
    with pytest.raises(SourceError) as caught:
        read_table(write(tmp_path, rows))
    message = caught.value.message
    assert "own.csv" in message
    assert "Row 2, column driver: 'lazy' is not one of out_of_reach" in message
    assert "Row 3, column timing: 'soon' is not one of now, later" in message
    assert "Row 3, column owner: ''" in message
    assert "Correct these rows" in caught.value.remedy


@pytest.mark.parametrize(
    ("rows", "header", "named"),
    [
        (WHOLE, "driver,timing,action,owner", "evidence"),
        (WHOLE[1:], ",".join(COLUMNS), "out_of_reach now"),
        (["silent,now"], ",".join(COLUMNS), "Row 2, column action: None"),
    ],
)
def test_what_is_missing_is_named(tmp_path, rows, header, named):
    with pytest.raises(SourceError, match=named):
        read_table(write(tmp_path, rows, header))


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(SourceError, match=r"nowhere\.csv") as caught:
        read_table(tmp_path / "nowhere.csv")
    assert "GRADE_ML_INTERVENTIONS" in caught.value.remedy


def test_actions_are_ranked_per_student_by_severity():
    ranked = proposals(
        periods(("a", 0.7, Driver.LOW_SCORES, 4), ("a", 0.9, Driver.WORK_DUE, 0)), RULES
    )
    assert ranked["rank"].tolist() == [1, 2, 3]
    assert ranked["driver"].tolist() == ["work_due", "low_scores", "low_scores"]
    assert ranked["timing"].tolist() == ["now", "later", "later"]


def test_a_full_week_leaves_the_less_urgent_out_and_lists_them():
    rows = periods(*((f"u{n}", 0.5 + n / 100, Driver.WORK_DUE, 0) for n in range(10)))
    planning = plan(rows, RULES, NOTHING, TODAY, load=3)
    planned = planning[planning["planned_on"].notna()]
    assert sorted(planned["student_id"]) == ["u7", "u8", "u9"]
    left = planning[planning["planned_on"].isna()]
    assert len(left) == 7
    assert left["left_out"].str.contains("3 tasks of this week").all()


def test_a_first_task_comes_before_another_students_second():
    rules = [rule for rule in RULES if rule.driver is Driver.MISSED_IN_A_ROW]
    rows = periods(("a", 0.99, Driver.MISSED_IN_A_ROW, 0), ("b", 0.6, Driver.MISSED_IN_A_ROW, 0))
    planning = plan(rows, rules, NOTHING, TODAY, load=2)
    assert set(planning.loc[planning["planned_on"].notna(), "student_id"]) == {"a", "b"}


def test_what_was_planned_earlier_in_the_week_stays_and_counts():
    monday_periods = periods(("a", 0.6, Driver.WORK_DUE, 0))
    on_monday = plan(monday_periods, RULES, NOTHING, monday(TODAY), load=1)
    assert on_monday["planned_on"].tolist() == [pd.Timestamp("2025-09-22")]
    rows = periods(("a", 0.6, Driver.WORK_DUE, 0), ("b", 0.9, Driver.WORK_DUE, 0))
    planning = plan(rows, RULES, on_monday, TODAY, load=1).set_index("student_id")
    assert planning.loc["a", "planned_on"] == pd.Timestamp("2025-09-22")
    assert pd.isna(planning.loc["b", "planned_on"])
    assert (planning["as_of"] == pd.Timestamp(TODAY)).all()
    # Next week there is capacity again.
    assert plan(rows, RULES, NOTHING, TODAY, load=2)["planned_on"].notna().all()


cases = st.lists(
    st.tuples(
        st.sampled_from([f"u{n}" for n in range(6)]),
        st.floats(0.5, 1),
        st.sampled_from(list(Driver)),
        st.integers(0, 6),
    ),
    max_size=15,
)


@settings(max_examples=30, deadline=None)
@given(monday_cases=cases, cases=cases, load=st.integers(0, 4))
def test_no_load_is_ever_exceeded_and_all_proposals_are_listed(monday_cases, cases, load):
    first = plan(periods(*monday_cases), RULES, NOTHING, monday(TODAY), load)
    planned = first[first["planned_on"].notna()]
    planning = plan(periods(*cases), RULES, planned, TODAY, load)
    assert list(planning) == list(PLAN)
    taken = planning[planning["planned_on"].notna()]
    assert taken.groupby(["section_id", "owner"]).size().le(load).all()
    tasks = ["section_id", "student_id", "owner", "action"]
    listed = set(planning[tasks].itertuples(index=False, name=None))
    possible = proposals(periods(*cases), RULES)[tasks].itertuples(index=False, name=None)
    assert set(possible) <= listed
    assert len(listed) == len(planning)
    assert (planning["planned_on"].isna() == (planning["left_out"] != "")).all()


ELSE = tuple(Rule(d, t, "write", "mentor", "a trial") for d in Driver for t in Timing)
HELD = Instead(RULES, "withheld by an experiment")


def test_an_exception_has_another_table_or_the_reason_why_nothing_is_planned():
    rows = periods(*((name, 0.9, Driver.WORK_DUE, 0) for name in "abc"))
    exceptions = {("c", "a"): HELD, ("c", "b"): Instead(ELSE), ("other", "c"): HELD}
    planning = plan(rows, RULES, NOTHING, TODAY, 5, exceptions).set_index("student_id")
    assert planning.loc["a", "left_out"] == "withheld by an experiment"
    assert planning.loc["b", ["owner", "left_out"]].tolist() == ["mentor", ""]
    # Of another course: the table in force.
    assert planning.loc["c"].equals(
        plan(rows, RULES, NOTHING, TODAY, 5).set_index("student_id").loc["c"]
    )
    assert planning["planned_on"].isna().tolist() == [True, False, False]


@settings(max_examples=20, deadline=None)
@given(
    cases=cases, held=st.sets(st.sampled_from([f"u{n}" for n in range(6)])), load=st.integers(0, 4)
)
def test_what_is_withheld_is_listed_and_takes_nobodys_place(cases, held, load):
    planning = plan(
        periods(*cases), RULES, NOTHING, TODAY, load, {("c", student): HELD for student in held}
    )
    free = periods(*(case for case in cases if case[0] not in held))
    of_others = planning[~planning["student_id"].isin(held)].reset_index(drop=True)
    alone = plan(free, RULES, NOTHING, TODAY, load)
    pd.testing.assert_frame_equal(of_others, alone, check_dtype=False)
    withheld = planning[planning["student_id"].isin(held)]
    assert withheld["planned_on"].isna().all()
    assert set(withheld["student_id"]) == {case[0] for case in cases} & held
    assert withheld["left_out"].eq(HELD.withheld).all()
