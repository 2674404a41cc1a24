from __future__ import annotations

from datetime import date

import numpy as np
import pandas as pd
import pytest

from grade_ml.monitoring import concept

#: Rows of a stream are means of 15 scores: 1,000 scores before a change and 1,000 after.
STREAMS, ROWS = 20, 1000 // concept.SETTINGS.batch


def rows(values: np.ndarray) -> pd.DataFrame:
    days = pd.date_range("2025-01-01", periods=len(values), freq="D")
    names = [f"a{number:04d}" for number in range(len(values))]
    return pd.DataFrame(
        {"matured_on": days, "section_id": "s", "assignment_id": names, "scores": 15}
    ).assign(error=values, z=values)


@pytest.mark.parametrize(("detector", "delay"), [("Page-Hinkley", 120), ("ADWIN", 300)])
def test_a_detector_is_silent_without_a_change_and_detects_half_a_deviation(detector, delay):
    """The benchmark `drift.py` has the exact figures."""
    make, size = concept.detectors()[detector], concept.SETTINGS.batch
    false, delays = 0, []
    for seed in range(STREAMS):
        values = np.random.default_rng(seed).standard_normal(3 * ROWS)
        values[2 * ROWS :] += 0.5 * np.sqrt(size)
        alarms = list(concept.replay(make(), values))
        false += any(ROWS <= place < 2 * ROWS for place in alarms)
        after = (size * (place - 2 * ROWS + 1) for place in alarms if place >= 2 * ROWS)
        delays.append(next(after, 10 * delay))
    assert false <= 2
    assert np.median(delays) <= delay


def test_an_alarm_has_the_day_and_the_direction_and_is_not_repeated():
    random = np.random.default_rng(0)
    values = np.concatenate([random.normal(0, 1, 20), random.normal(-3, 1, 20)])
    alarms = concept.alarms(random.standard_normal(40), rows(values))
    first = alarms[0]
    assert first.detector == "Page-Hinkley" and first.direction == -1
    assert date(2025, 1, 21) <= first.on <= date(2025, 1, 28)
    assert first.since == date(2025, 1, 21)
    assert [alarm.detector for alarm in alarms].count("Page-Hinkley") == 1


def test_a_shift_too_small_to_be_worth_a_training_is_no_alarm_however_long_it_lasts():
    random = np.random.default_rng(0)
    reference, noise = random.standard_normal(400), random.standard_normal(600)
    assert list(concept.replay(concept.detectors()["ADWIN"](), [*reference, *(noise - 0.5)]))
    assert concept.alarms(reference, rows(noise - 0.5)) == []
    assert concept.alarms(reference, rows(noise - 1.2))


def test_replaying_part_by_part_gives_the_same_alarms():
    """Only rows are stored between runs: a longer stream only adds alarms."""
    random = np.random.default_rng(1)
    values = np.concatenate([random.normal(0, 1, 30), random.normal(2, 1, 30)])
    whole = concept.alarms([], rows(values))
    for length in (20, 40, 60):
        part = concept.alarms([], rows(values[:length]))
        assert part == [alarm for alarm in whole if alarm.on < date(2025, 1, 1 + 0) + length * DAY]


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
                "share": 0.0,
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


def test_rows_of_an_assignment_are_independent():
    """Its difficulty is in the first row alone; late scores that are always lower are expected."""

    def later_is_lower(events: pd.DataFrame) -> pd.DataFrame:
        return events.assign(score=events["score"] - 4 * (events["scored_on"].dt.dayofweek > 0))

    seen = pd.concat([scored(60, 30, seed=seed) for seed in range(3)])
    expectation = concept.learn(later_is_lower(seen))
    assert expectation is not None
    rows = concept.stream(later_is_lower(scored(60, 60, seed=7)), expectation, None)
    wide = rows.pivot_table(index="assignment_id", columns="batch", values="z")
    assert len(wide.columns) == 4
    assert abs(np.corrcoef(wide[0], wide[1])[0, 1]) < 0.3
    assert abs(wide[1].mean()) < 0.4 and wide[1].std() == pytest.approx(0.9, abs=0.25)


def test_a_change_in_the_midst_of_marking_shows_in_the_same_assignment():
    expectation = concept.learn(scored(60, 30))
    assert expectation is not None
    scores = scored(60, 8, seed=2)
    day = pd.Timestamp("2025-02-12")  # the third day on which the sixth assignment is scored
    harsh = scores.assign(score=scores["score"] - 15 * (scores["scored_on"] >= day))
    rows = concept.stream(harsh, expectation, None)
    sixth = rows[rows["assignment_id"] == "s2-05"].set_index("batch")["z"]
    assert abs(sixth[0]) < 2 and sixth.min() < -2
    (first, *_) = concept.alarms(concept.stream(scored(60, 30), expectation, None)["z"], rows)
    assert first.direction == -1 and first.on <= date(2025, 2, 20)


def test_a_model_that_knows_of_a_change_is_not_trained_for_it_again():
    expectation = concept.learn(scored(60, 30))
    assert expectation is not None
    lower = scored(60, 12, seed=4)
    lower["score"] *= 0.75
    assert concept.stream(lower, expectation, None)["z"].mean() < -1.5
    informed = lower.assign(implied=0.75 * lower["implied"], share=-0.25)
    assert abs(concept.stream(informed, expectation, None)["z"].mean()) < 0.5


def test_a_row_never_changes_once_it_has_matured():
    expectation = concept.learn(scored(60, 30))
    assert expectation is not None
    scores, day = scored(12, 8, seed=3), date(2025, 2, 10)
    early = concept.stream(scores[scores["scored_on"] <= str(day)], expectation, day)
    late = concept.stream(scores, expectation, date(2025, 6, 1))
    assert 0 < len(early) < len(late)
    pd.testing.assert_frame_equal(late.head(len(early)), early)


def test_too_few_assignments_teach_nothing():
    assert concept.learn(scored(60, 3)) is None
    assert concept.learn(scored(60, 3).head(0)) is None
