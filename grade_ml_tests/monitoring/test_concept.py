from __future__ import annotations

from datetime import date

import numpy as np
import pandas as pd
import pytest

from grade_ml.monitoring import concept

STREAMS, ROWS = 20, 1000


def rows(values: np.ndarray) -> pd.DataFrame:
    days = pd.date_range("2025-01-01", periods=len(values), freq="D")
    names = [f"a{number:04d}" for number in range(len(values))]
    return pd.DataFrame(
        {"matured_on": days, "section_id": "s", "assignment_id": names, "scores": 15}
    ).assign(error=values, z=values)


@pytest.mark.parametrize("detector", ["Page-Hinkley", "ADWIN"])
def test_a_detector_keeps_quiet_without_a_change_and_finds_one_of_half_a_deviation(detector):
    """The benchmark `drift.py` has the exact figures."""
    make = concept.detectors()[detector]
    false, delays = 0, []
    for seed in range(STREAMS):
        values = np.random.default_rng(seed).standard_normal(ROWS + 300)
        values[ROWS:] += 0.5
        found = list(concept.replay(make(), values))
        false += any(place < ROWS for place in found)
        delays.append(next((place - ROWS for place in found if place >= ROWS), 300))
    assert false <= 3
    assert np.median(delays) <= 150


def test_an_alarm_tells_the_day_and_the_direction_and_is_not_repeated():
    random = np.random.default_rng(0)
    values = np.concatenate([random.normal(0, 1, 20), random.normal(-3, 1, 20)])
    found = concept.alarms(random.standard_normal(40), rows(values))
    first = found[0]
    assert first.detector == "Page-Hinkley" and first.direction == -1
    assert date(2025, 1, 21) <= first.on <= date(2025, 1, 28)
    assert [one.detector for one in found].count("Page-Hinkley") == 1


def test_replaying_part_by_part_gives_the_same_alarms():
    """What is kept between runs are the rows: a longer stream only adds alarms."""
    random = np.random.default_rng(1)
    values = np.concatenate([random.normal(0, 1, 30), random.normal(2, 1, 30)])
    whole = concept.alarms([], rows(values))
    for length in (20, 40, 60):
        part = concept.alarms([], rows(values[:length]))
        assert part == [one for one in whole if one.on < date(2025, 1, 1 + 0) + length * DAY]


DAY = pd.Timedelta(days=1).to_pytimedelta()


def scored(students: int, assignments: int, shift: float = 0.0, seed: int = 0) -> pd.DataFrame:
    """Return events of one section with an assignment each week."""
    random = np.random.default_rng(seed)
    skill = random.normal(60, 10, students)
    parts = [
        pd.DataFrame(
            {
                "section_id": f"s{seed}",
                "student": np.arange(students),
                "assignment_id": f"s{seed}-{number:02d}",
                "category": "quiz",
                "implied": skill,
                "score": skill + random.normal(0, 10, students) + random.normal(0, 3) + shift,
                "scored_on": pd.Timestamp("2025-01-06")
                + pd.Timedelta(days=7 * number)
                + pd.to_timedelta(random.integers(0, 5, students), unit="D"),
            }
        )
        for number in range(assignments)
    ]
    return pd.concat(parts, ignore_index=True)


def test_assignments_of_training_terms_have_mean_0_and_sd_1():
    expectation = concept.learn(scored(60, 30))
    assert expectation is not None
    assert expectation.slope == pytest.approx(1, abs=0.15)
    assert expectation.spread == pytest.approx(10, abs=1)
    z = concept.stream(scored(60, 30, seed=1), expectation, None)["z"]
    assert abs(z.mean()) < 0.6 and 0.7 < z.std() < 1.4
    assert concept.stream(scored(60, 6, shift=-15, seed=2), expectation, None)["z"].mean() < -2


def test_a_row_never_changes_once_it_has_matured():
    expectation = concept.learn(scored(60, 30))
    assert expectation is not None
    found, day = scored(12, 8, seed=3), date(2025, 2, 10)
    early = concept.stream(found[found["scored_on"] <= str(day)], expectation, day)
    late = concept.stream(found, expectation, date(2025, 6, 1))
    assert 0 < len(early) < len(late)
    pd.testing.assert_frame_equal(late.head(len(early)), early)


def test_too_few_assignments_teach_nothing():
    assert concept.learn(scored(60, 3)) is None
    assert concept.learn(scored(60, 3).head(0)) is None


def test_a_score_is_compared_with_what_was_predicted_before_it():
    scores = pd.DataFrame(
        {
            "section_id": "s",
            "student": [1, 1, 2],
            "assignment_id": ["a", "b", "a"],
            "category": "quiz",
            "score": [50.0, 70.0, 90.0],
            "scored_on": pd.to_datetime(["2025-03-10", "2025-03-20", "2025-03-10"]),
        }
    )
    predictions = pd.DataFrame(
        {
            "section_id": "s",
            "student": [1, 1, 1],
            "on": pd.to_datetime(["2025-03-03", "2025-03-10", "2025-03-20"]),
            "grade": [60.0, 50.0, 10.0],
            "collected": [0.0, 10.0, 0.0],
            "weight_remaining": [100.0, 80.0, 100.0],
        }
    )
    found = concept.events(scores, predictions).set_index("assignment_id")
    # Not that of the day itself, which may have seen the score; none for the second student.
    assert found["implied"].to_dict() == {"a": 60.0, "b": 50.0}
