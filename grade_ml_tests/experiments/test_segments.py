"""Segments: detected if they exist, seldom if they do not, and never claimed of a few students."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from grade_ml.experiments.comparison import paired, split
from grade_ml.experiments.segments import LEAST_SEGMENT, Segments, segments

KINDS = ["course", "phase"]


def campus(seed: int, **effects: float) -> pd.DataFrame:
    """Return labels of 600 students, each in one of four courses and in all three phases."""
    random = np.random.default_rng(seed)
    rows = pd.DataFrame(
        {
            "student": np.repeat(np.arange(600), 3),
            "course": np.repeat(random.choice(["A", "B", "C", "D"], 600), 3),
            "phase": np.tile(["first", "middle", "last"], 600),
            "treated": np.repeat(random.random(600) < 0.5, 3),
        }
    )
    alike = np.repeat(random.normal(size=600), 3)
    rows["value"] = 0.8 * alike + 0.6 * random.normal(size=1800)
    shift = rows["course"].map(effects).fillna(rows["phase"].map(effects)).fillna(0)
    return rows.assign(difference=rows["value"] + shift, value=rows["value"] + shift * rows.treated)


def segments_of(rows: pd.DataFrame, two: bool = False) -> Segments:
    if two:
        return segments(rows, KINDS, value="value", student="student", treated="treated")
    return segments(rows, KINDS, value="difference", student="student")


def test_a_segment_equals_a_comparison_of_its_students() -> None:
    rows = campus(1, A=1.0)
    course = rows[rows["course"] == "A"].groupby("student").mean(numeric_only=True)
    alone = paired(np.zeros(len(course)), course["difference"])
    segment = next(row for row in segments_of(rows).rows if row.name == "A")
    assert (segment.difference, segment.units) == (pytest.approx(alone.difference), alone.units)
    assert segment.p == pytest.approx(2 * stats.norm.sf(abs(alone.z)))
    assert segment.claimed
    apart = split(course["value"], course["treated"].to_numpy() > 0)
    segment_of_two = next(row for row in segments_of(rows, two=True).rows if row.name == "A")
    assert (segment_of_two.difference, segment_of_two.units) == (
        pytest.approx(apart.difference),
        apart.units,
    )
    assert segment_of_two.p == pytest.approx(2 * stats.norm.sf(abs(apart.z)))


@pytest.mark.parametrize("two", [False, True])
def test_an_effect_in_one_course_is_an_interaction_of_courses(two: bool) -> None:
    course, phase = segments_of(campus(2, B=1.5), two).interactions
    assert (course.kind, course.segments, phase.segments) == ("course", 4, 3)
    assert course.p_adjusted < 0.001
    assert phase.p > 0.01


def test_an_effect_in_one_phase_is_seen_though_its_students_are_in_all() -> None:
    """Differences of one student's phases vary less than they would of different students."""
    rows = campus(3, last=0.25)
    phase = segments_of(rows).interactions[1]
    by_phase = rows.pivot(index="student", columns="phase", values="difference")
    contrasts = by_phase[["first", "middle"]].sub(by_phase["last"], axis=0)
    gap = contrasts.mean().to_numpy()
    assert phase.q == pytest.approx(gap @ np.linalg.inv(contrasts.cov() / 600) @ gap, rel=1e-6)
    assert phase.p < 0.001


def test_p_values_are_adjusted_over_all_segments_of_the_look() -> None:
    result = segments_of(campus(4, B=0.4))
    p = np.array([row.p for row in result.rows])
    adjusted = stats.false_discovery_control(p)
    assert [row.p_adjusted for row in result.rows] == pytest.approx(adjusted)
    assert [row.claimed for row in result.rows] == (adjusted <= 0.05).tolist()


def test_rows_of_one_student_are_one_value() -> None:
    rows = campus(5)
    again = pd.concat([rows, rows, rows], ignore_index=True)
    for segment, other in zip(segments_of(again).rows, segments_of(rows).rows, strict=True):
        assert (segment.name, segment.units) == (other.name, other.units)
        assert (segment.low, segment.high, segment.p) == pytest.approx(
            (other.low, other.high, other.p)
        )
    assert {row.units[0] for row in segments_of(rows).rows if row.kind == "phase"} == {600}


def test_without_a_difference_few_looks_claim_a_difference() -> None:
    looks = [segments_of(campus(seed)) for seed in range(10, 90)]
    assert np.mean([any(row.claimed for row in look.rows) for look in looks]) < 0.13
    for kind in range(2):
        p = [look.interactions[kind].p for look in looks]
        assert stats.kstest(p, "uniform").pvalue > 0.001


def test_a_handful_of_students_is_never_claimed() -> None:
    rows = campus(6, A=50.0)
    few = rows[(rows["course"] != "A") | (rows["student"] < 20)]
    segment = next(row for row in segments_of(few).rows if row.name == "A")
    assert segment.units[0] < LEAST_SEGMENT
    assert not segment.claimed
    assert f"{segment.units[0]} students are too few" in segment.reason
    assert math.isnan(segment.p_adjusted)


def test_what_cannot_be_compared_is_left_out_or_reported() -> None:
    rows = campus(7)
    odd = rows.assign(
        difference=rows["difference"].mask(rows["phase"] == "first", np.nan),
        course=rows["course"].replace("D", ""),
    )
    odd.loc[(odd["course"] == "C") & odd["difference"].notna(), "difference"] = 0.5
    result = {row.name: row for row in segments_of(odd).rows}
    assert set(result) == {"A", "B", "C", "middle", "last"}
    assert result["C"].reason == "The values do not vary."
    assert not result["C"].claimed
    assert segments_of(rows.head(0)).rows == ()
    assert math.isnan(segments_of(rows.head(3)).interactions[0].p)
