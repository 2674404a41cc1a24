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
    """Return sections whose classes share effects of SD `between`; the last ones are shifted."""
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
    found = [compare(one) for one in campus]
    usual = Usual.of(found)
    return [judge(one, usual, alpha=0.05, seed=0) for one in found]


def campus(seed, courses=10, **given):
    return [course((seed, number), **given) for number in range(courses)]


def test_sections_that_differ_as_sections_do_have_not_drifted():
    found = [report.drifted for seed in range(10) for report in judged(campus(seed))]
    assert np.mean(found) <= 0.08
    one = course((0, 0))
    assert detect_drift(one.reference, one.current).drifted


@pytest.mark.parametrize("past", [1, 2])
def test_few_past_sections_invent_nothing_where_other_courses_tell_what_is_usual(past):
    few = [course((seed, 99), past=past) for seed in range(40)]
    usual = Usual.of([compare(one) for one in campus(1)])
    found = [judge(compare(one), usual, alpha=0.05, seed=0) for one in few]
    assert all(one.conclusive for one in found)
    assert np.mean([one.drifted for one in found]) <= 0.125


def test_one_past_section_alone_decides_nothing():
    report = judged([course(1, past=1, shift=3.0)])[0]
    assert not report.conclusive and not report.drifted
    assert report.features["p"].isna().all()
    assert report.features["effect"].notna().all()


def test_a_shift_beyond_what_is_usual_is_found_and_named():
    found = judged(campus(3, shift=2.5))
    assert np.mean([one.drifted for one in found]) >= 0.8
    named = np.mean([one.features["drifted"].to_numpy() for one in found], axis=0)
    assert named[:6].mean() > 0.5
    assert named[6:].mean() < 0.1
    told = found[0].features.set_index("feature").loc["feature_0"]
    assert told["effect"] > 0.5 and "median" in told["reason"]


def test_sections_that_never_differ_leave_it_to_chance_among_students():
    """A course whose past sections are alike by luck must not call the next one drift."""
    found = [report.drifted for seed in range(10) for report in judged(campus(seed, between=0.0))]
    assert np.mean(found) <= 0.08
    seen = judged(campus(11, between=0.0, shift=1.0))
    assert np.mean([one.drifted for one in seen]) >= 0.9


def test_courses_are_borrowed_from_only_as_far_as_they_are_alike():
    alike = Usual.of([compare(one) for one in campus(0, courses=20)])
    spreads = [0.1, 0.1, 0.1, 3.0, 3.0, 3.0] * 3
    mixed = [course((0, number), between=spread) for number, spread in enumerate(spreads)]
    different = Usual.of([compare(one) for one in mixed])
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
    names = {name for one in changed for name in one.features.query("drifted")["feature"]}
    assert {"feature_0", "programme"} <= names
    same = judged([with_gaps((6, n), 0.02) for n in range(6)])
    assert not any(one.drifted for one in same)


def test_order_of_rows_and_of_courses_does_not_matter():
    some = campus(2, courses=3, shift=1.5)
    mixed = [
        replace(
            one,
            reference=one.reference.iloc[::-1],
            reference_sections=one.reference_sections.iloc[::-1],
        )
        for one in some[::-1]
    ]
    for one, other in zip(judged(some), judged(mixed)[::-1], strict=True):
        assert one.drifted == other.drifted
        np.testing.assert_allclose(one.features["effect"], other.features["effect"], atol=1e-6)
