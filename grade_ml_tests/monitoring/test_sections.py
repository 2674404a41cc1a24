"""Drift of a course: more than sections of it usually differ, not only more than students do."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from grade_ml.monitoring.sections import Usual, compare, judge
from grade_ml.monitoring.windows import Sides
from grade_ml.two_sample.drift import detect_drift

FEATURES = 20


def course(seed, past=4, *, between=0.5, shift=0.0, students=50, moved=6):
    """Return sections whose classes share effects of SD `between`; the last are shifted."""
    generator = np.random.default_rng(seed)
    frames = []
    for section in range(past + 1):
        # What a class shares reaches many features, as difficult assignments do.
        shared = between * (0.8 * generator.normal() + 0.6 * generator.normal(size=FEATURES))
        if section == past:
            shared[:moved] += shift
        values = generator.normal(shared, size=(students, FEATURES))
        frame = pd.DataFrame(values, columns=[f"feature_{n}" for n in range(FEATURES)])
        frames.append(frame.assign(section_id=f"{section}"))
    names = list(frames[0].columns[:-1])
    return Sides.of(pd.concat(frames[:-1], ignore_index=True), frames[-1], names)


def judged(campus):
    comparisons = [compare(course_windows) for course_windows in campus]
    usual = Usual.of(comparisons)
    return [judge(comparison, usual, alpha=0.05, seed=0) for comparison in comparisons]


def campus(seed, courses=10, **given):
    return [course((seed, number), **given) for number in range(courses)]


def test_sections_that_differ_as_sections_do_have_not_drifted():
    drifted = [report.drifted for seed in range(10) for report in judged(campus(seed))]
    assert np.mean(drifted) <= 0.08
    single = course((0, 0))
    assert detect_drift(single.reference, single.current).drifted


@pytest.mark.parametrize("past", [1, 2])
def test_few_past_sections_invent_nothing_if_other_courses_show_what_is_usual(past):
    few = [course((seed, 99), past=past) for seed in range(40)]
    usual = Usual.of([compare(course_windows) for course_windows in campus(1)])
    reports = [judge(compare(course_windows), usual, alpha=0.05, seed=0) for course_windows in few]
    assert all(report.conclusive for report in reports)
    assert np.mean([report.drifted for report in reports]) <= 0.125


def test_one_past_section_alone_decides_nothing():
    report = judged([course(1, past=1, shift=3.0)])[0]
    assert not report.conclusive and not report.drifted
    assert report.features["p"].isna().all()
    assert report.features["effect"].notna().all()


def test_a_shift_beyond_what_is_usual_is_detected_and_named():
    reports = judged(campus(3, shift=2.5))
    assert np.mean([report.drifted for report in reports]) >= 0.8
    named = np.mean([report.features["drifted"].to_numpy() for report in reports], axis=0)
    assert named[:6].mean() > 0.5
    assert named[6:].mean() < 0.1
    feature = reports[0].features.set_index("feature").loc["feature_0"]
    assert feature["effect"] > 0.5 and "median" in feature["reason"]


def test_sections_that_never_differ_leave_it_to_chance_among_students():
    """A course whose past sections are alike by luck must not call the next section drift."""
    drifted = [report.drifted for seed in range(10) for report in judged(campus(seed, between=0.0))]
    assert np.mean(drifted) <= 0.08
    seen = judged(campus(11, between=0.0, shift=1.0))
    assert np.mean([report.drifted for report in seen]) >= 0.9


def test_courses_are_borrowed_from_only_as_far_as_they_are_alike():
    alike = Usual.of([compare(course_windows) for course_windows in campus(0, courses=20)])
    spreads = [0.1, 0.1, 0.1, 3.0, 3.0, 3.0] * 3
    mixed = [course((0, number), between=spread) for number, spread in enumerate(spreads)]
    different = Usual.of([compare(course_windows) for course_windows in mixed])
    assert different.freedom < 5 < alike.freedom


def test_missing_values_and_categories_are_compared_between_sections_too():
    """A third has no value, and a third another programme, in one section as in none before."""

    def with_gaps(seed, share):
        sides = course(seed, between=0.0)
        random = np.random.default_rng(seed)
        frames = []
        for frame, part in ((sides.reference, 0.02), (sides.current, share)):
            gap = random.random((2, len(frame))) < part
            frames.append(
                frame.assign(
                    feature_0=frame["feature_0"].where(~gap[0]),
                    programme=np.where(gap[1], "evening", "day"),
                )
            )
        return replace(sides, reference=frames[0], current=frames[1])

    changed = judged([with_gaps((5, n), 0.6) for n in range(6)])
    names = {name for report in changed for name in report.features.query("drifted")["feature"]}
    assert {"feature_0", "programme"} <= names
    same = judged([with_gaps((6, n), 0.02) for n in range(6)])
    assert not any(report.drifted for report in same)


def test_order_of_rows_and_of_courses_does_not_matter():
    in_order = campus(2, courses=3, shift=1.5)
    mixed = [
        replace(
            course_windows,
            reference=course_windows.reference.iloc[::-1],
            reference_sections=course_windows.reference_sections.iloc[::-1],
        )
        for course_windows in in_order[::-1]
    ]
    for report, other in zip(judged(in_order), judged(mixed)[::-1], strict=True):
        assert report.drifted == other.drifted
        np.testing.assert_allclose(report.features["effect"], other.features["effect"], atol=1e-6)
