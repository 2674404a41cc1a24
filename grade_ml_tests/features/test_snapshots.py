"""Features computed by hand, and the promise that nothing after a cut is seen."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta

import numpy as np
import pandas as pd
import pytest

from grade_ml.campus import simulated
from grade_ml.features.catalogue import KEYS, NUMERIC_FEATURES
from grade_ml.features.snapshots import fraction_cuts, grade_snapshots, weekly_cuts
from grade_ml.features.validation import schema
from grade_ml.gradebook.frames import Gradebook
from grade_ml_tests.features.records import (
    START,
    day,
    enrolled,
    gradebook,
    result,
    section,
    students,
    work,
)

TODAY = (START + pd.Timedelta(days=60)).date()


def book(**changed: list[dict[str, object]]) -> Gradebook:
    """Two students in a section of 100 days: Ann hands in early and late, Bob misses the second."""
    rows = {
        "students": students("ann", "bob"),
        "courses": [{"course_id": "math"}],
        "sections": [section("now", 0, 100)],
        "enrollments": [enrolled("ann"), enrolled("bob", on=None)],
        "assignments": [
            work("w1", 10, 20),
            work("w2", 30, 30),
            work("w3", 80, 50),
            work("quiz", 20, 0, category="quiz"),
            work("final", 95, 60, category="Exam"),
        ],
        "results": [
            result("ann", "w1", 80, 8, 12),
            result("ann", "w2", 50, 33, 40),
            result("ann", "quiz", 100, 19, 19),
            result("bob", "w1", 60, 10, 10),
        ],
    }
    return gradebook(**(rows | changed))


def at(cut: float, records: Gradebook | None = None, student: str = "ann") -> pd.Series:
    cuts = pd.DataFrame({"section_id": ["now"], "cut_day": [float(cut)]})
    rows = grade_snapshots(records or book(), cuts, TODAY)
    return rows.set_index(rows["student_id"].astype(str)).loc[student]


def agrees(row: pd.Series, **expected: float) -> bool:
    values = {name: row[name] for name in expected}
    assert values == pytest.approx(expected, nan_ok=True)
    return True


def test_a_score_counts_from_the_day_it_is_graded() -> None:
    assert agrees(at(8), assignments_submitted=1, assignments_pending=1, assignments_ahead=1)
    assert agrees(at(8), score_mean=np.nan, grade_if_nothing_more=0, weight_remaining=100)
    assert agrees(at(12), assignments_pending=0, score_mean=80, grade_if_nothing_more=16)
    assert agrees(at(11.99), score_mean=np.nan, assignments_due=1, assignments_missed=0)


def test_points_and_what_remains() -> None:
    assert agrees(
        at(45),
        grade_if_nothing_more=0.2 * 80 + 0.3 * 50,
        weight_remaining=50,
        grade_if_all_perfect=31 + 50,
        grade_rate_so_far=62,
        grade_if_rest_as_so_far=31 + 0.5 * 62,
        weight_due=50,
        weight_late=30,
        next_due_weight=50,
        days_to_next_due=35,
        days_since_due=15,
        days_since_submission=12,
        progress=0.45,
        days_remaining=55,
    )


def test_missed_work_counts_as_nothing() -> None:
    bob = at(45, student="bob")
    assert agrees(
        bob,
        assignments_due=3,
        assignments_missed=2,
        missed_share=2 / 3,
        missed_streak=2,
        weight_missed=30,
        grade_if_nothing_more=12,
        grade_rate_so_far=100 * 12 / 50,
        score_mean=60,
        points_trend=-30,
        enrolled_days_ahead=np.nan,
    )


def test_level_spread_and_trend_of_the_scores() -> None:
    assert agrees(
        at(45),
        score_mean=(80 + 100 + 50) / 3,
        score_min=50,
        score_max=100,
        score_first=80,
        score_last=50,
        score_last_step=50 - 90,
        score_trend=-15,
        score_sd=np.std([80, 100, 50]),
        major_score_mean=65,
        minor_score_mean=100,
        unweighted_score_mean=100,
        unweighted_submitted=1,
        lateness_mean=(-2 - 1 + 3) / 3,
        lateness_last=3,
        assignments_late=1,
    )


def test_the_position_in_the_class_is_that_of_the_day() -> None:
    records = book(
        enrollments=[
            enrolled("ann"),
            enrolled("bob"),
            enrolled("eve", on=20),
            enrolled("fay", withdrawn_on=day(40)),
        ],
        students=students("ann", "bob", "eve", "fay"),
    )
    assert agrees(at(15, records), class_size=3, class_withdrawn_share=0)
    assert agrees(at(45, records), class_size=3, class_withdrawn_share=0.25)
    # Rates at day 45: Ann 62, Bob 24, Eve 0.
    assert agrees(
        at(45, records),
        class_rate_mean=86 / 3,
        rate_above_class=62 - 86 / 3,
        rate_percentile=2.5 / 3,
    )


def test_only_open_enrollments_have_rows() -> None:
    records = book(enrollments=[enrolled("ann", on=20), enrolled("bob", withdrawn_on=day(30))])
    cuts = pd.DataFrame({"section_id": "now", "cut_day": [19.0, 20.0, 29.5, 30.0]})
    rows = grade_snapshots(records, cuts, TODAY)
    seen = rows.groupby("cut_day")["student_id"].agg(lambda ids: "".join(sorted(map(str, ids))))
    assert seen.to_dict() == {19.0: "bob", 20.0: "annbob", 29.5: "annbob", 30.0: "ann"}


def test_an_exam_counts_once_the_course_has_published_an_exam() -> None:
    assert agrees(at(45), weight_due=50)
    earlier = book()
    earlier = replace(
        earlier,
        sections=pd.concat(
            [earlier.sections, gradebook(sections=[section("then", -300, -200)]).sections]
        ),
        enrollments=pd.concat(
            [
                earlier.enrollments,
                gradebook(enrollments=[enrolled("bob", "then", -310)]).enrollments,
            ]
        ),
        assignments=pd.concat(
            [
                earlier.assignments,
                gradebook(assignments=[work("old exam", -205, 50, "then", "exam")]).assignments,
            ]
        ),
        results=pd.concat(
            [earlier.results, gradebook(results=[result("bob", "old exam", 70, -205, 20)]).results]
        ),
    )
    assert agrees(at(19, earlier), weight_due=20)
    assert agrees(at(45, earlier), weight_due=100 * 50 / 160, weight_remaining=100 * 110 / 160)


def test_history_of_student_and_course() -> None:
    records = gradebook(
        students=students("ann", "bob"),
        courses=[{"course_id": "math"}, {"course_id": "art"}],
        sections=[
            section("now", 0, 100),
            section("then", -300, -200),
            section("beside", -50, 30, "art"),
        ],
        enrollments=[
            enrolled("ann"),
            enrolled("ann", "then", -310, outcome="fail"),
            enrolled("bob", "then", -310, outcome="pass"),
            enrolled("ann", "beside", -60, outcome="pass"),
        ],
        assignments=[work("old", -250, 10, "then"), work("art", 0, 10, "beside")],
        results=[
            result("ann", "old", 30, -250, -240),
            result("bob", "old", 70, -250, -240),
            result("ann", "art", 90, 0, 45),
        ],
    )
    assert agrees(
        at(30, records),
        earlier_sections=1,
        earlier_attempts=1,
        earlier_grade_mean=30,
        earlier_at_risk_share=1,
        concurrent_sections=1,
        course_sections=2,
        course_grade_mean=50,
        course_at_risk_share=0.5,
    )
    assert agrees(at(31, records), earlier_sections=2, earlier_at_risk_share=0.5)
    # The score of the other section was not known until day 45.
    assert agrees(at(44, records), earlier_grade_mean=15, concurrent_sections=0)
    assert agrees(at(45, records), earlier_grade_mean=60)


def test_activity_is_known_only_where_the_source_has_it() -> None:
    assert agrees(at(45), activity_total=np.nan, days_since_activity=np.nan)
    acts = [
        {"section_id": "now", "student_id": "ann", "day": day(d), "kind": "forum", "count": c}
        for d, c in ((-100, 1), (-3, 2), (10, 4), (40, 8), (44, 16), (50, 99))
    ]
    records = book(activity=acts)
    assert agrees(
        at(45, records),
        activity_total=31,
        activity_last_7=24,
        activity_last_28=24,
        activity_days=5,
        activity_days_last_28=2,
        days_since_activity=1,
        activity_of_class=2,
        activity_change=0.5,
    )
    assert agrees(at(45, records, "bob"), activity_total=0, days_since_activity=np.nan)


def test_a_student_is_seen_beside_the_class() -> None:
    ann, bob = at(45), at(45, student="bob")
    assert agrees(bob, assignments_missed_percentile=0.75, assignments_missed_above_class=1)
    assert agrees(ann, assignments_missed_percentile=0.25, assignments_missed_above_class=-1)
    assert ann["grade_if_nothing_more_percentile"] > bob["grade_if_nothing_more_percentile"]


def test_a_section_without_assignments_has_rows_without_scores() -> None:
    row = at(45, book(assignments=[], results=[]))
    assert agrees(row, progress=0.45, grade_rate_so_far=np.nan, assignments_due=0)


def test_attributes_become_columns() -> None:
    records = book(
        students=students("ann", "bob", ann='{"region": "north", "studied_credits": 30}'),
        enrollments=[enrolled("ann", attributes='{"studied_credits": 60}'), enrolled("bob")],
    )
    ann, bob = at(45, records), at(45, records, "bob")
    assert (ann["attribute_region"], ann["attribute_studied_credits"]) == ("north", 60)
    assert pd.isna(bob["attribute_region"]) and pd.isna(bob["attribute_studied_credits"])


def test_weekly_cuts_end_with_the_section_or_with_today() -> None:
    sections = gradebook(
        sections=[section("ended", -40, -20), section("runs", -9, 50), section("next", 1, 50)]
    ).sections
    cuts = weekly_cuts(sections, START.date())
    days = cuts.groupby("section_id")["cut_day"].agg(list).to_dict()
    assert days == {"ended": [0, 7, 14], "runs": [0, 7, 9]}


def test_cuts_at_shares_of_a_section_are_not_rounded() -> None:
    cuts = fraction_cuts(gradebook(sections=[section("now", 0, 241)]).sections, [0.25, 0.5])
    assert cuts["cut_day"].tolist() == [60.25, 120.5]


@pytest.mark.parametrize("cut", [-1.0, 61.0])
def test_a_cut_outside_of_what_can_be_known_is_refused(cut: float) -> None:
    with pytest.raises(ValueError, match=r"section now .* must lie between"):
        at(cut)


@pytest.fixture(scope="module")
def campus() -> Gradebook:
    config = simulated.CampusConfig(students=120, courses=3, terms=4, seed=7)
    return simulated.gradebook(config, date(2025, 11, 10))


def test_every_value_keeps_its_promise(campus: Gradebook) -> None:
    today = date(2025, 11, 10)
    rows = grade_snapshots(campus, weekly_cuts(campus.sections, today), today)
    schema().validate(rows)
    assert list(rows)[: len(KEYS) + len(NUMERIC_FEATURES)] == [*KEYS, *NUMERIC_FEATURES]
    known = rows[list(NUMERIC_FEATURES)].notna().any()
    assert known[[name for name in known.index if "unweighted" not in name]].all()


def test_a_row_does_not_depend_on_the_other_cuts_and_sections(campus: Gradebook) -> None:
    today = date(2025, 11, 10)
    cuts = weekly_cuts(campus.sections, today)
    all_snapshots = grade_snapshots(campus, cuts, today)
    chosen = cuts[(cuts["section_id"] == cuts["section_id"].iloc[-1])].iloc[[3]]
    alone = grade_snapshots(campus, chosen, today)
    same = all_snapshots.merge(alone[["section_id", "student_id", "cut_day"]])
    pd.testing.assert_frame_equal(
        same[list(NUMERIC_FEATURES)], alone[list(NUMERIC_FEATURES)].reset_index(drop=True)
    )


@pytest.mark.parametrize("seed", [0, 1])
def test_what_happens_after_the_day_changes_nothing(campus: Gradebook, seed: int) -> None:
    """Everything recorded after a day is removed or changed at random; the past stays."""
    then = date(2025, 7, 1) + timedelta(days=40 * seed)
    cuts = weekly_cuts(campus.sections, then)
    before = grade_snapshots(campus, cuts, then)
    after = grade_snapshots(_other_future(campus, pd.Timestamp(then), seed), cuts, then)
    pd.testing.assert_frame_equal(before, after)


def _other_future(book: Gradebook, then: pd.Timestamp, seed: int) -> Gradebook:
    random = np.random.default_rng(seed)
    results, enrollments = book.results.copy(), book.enrollments.copy()
    submitted, graded = results["submitted_on"] > then, results["graded_on"] > then
    results.loc[graded, "score"] = random.uniform(0, 100, graded.sum())
    results.loc[graded, "graded_on"] += pd.to_timedelta(random.integers(0, 90, graded.sum()), "D")
    results = results[~(submitted & (random.random(len(results)) < 0.5))].reset_index(drop=True)
    left = enrollments["withdrawn_on"] > then
    enrollments.loc[left, "withdrawn_on"] = pd.NaT
    open_ = enrollments["section_id"].map(book.sections.set_index("section_id")["ends_on"]) >= then
    enrollments.loc[open_ & ~(enrollments["withdrawn_on"] <= then), "outcome"] = random.choice(
        ["pass", "fail", "distinction"]
    )
    stays = ~((enrollments["enrolled_on"] > then) & (random.random(len(enrollments)) < 0.5))
    activity = book.activity.copy()
    later = activity["day"] > then
    activity.loc[later, "count"] = random.integers(0, 1000, later.sum())
    assert graded.any() and left.any() and later.any()
    return replace(
        book,
        results=results,
        enrollments=enrollments[stays].reset_index(drop=True),
        activity=activity,
    )
