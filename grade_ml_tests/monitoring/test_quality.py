"""Expectations learned from training data: violations are named, chance is not reported."""

from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from grade_ml.core.errors import NotReadyError
from grade_ml.gradebook.catalog import Load
from grade_ml.monitoring.quality import Expectations, Rule, arrival_delays, check, learn

LOAD = Load(7, datetime(2026, 3, 2, tzinfo=UTC), "oneroster")


def rows(seed, size):
    generator = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "score": generator.uniform(0, 100, size),
            "lateness": np.where(generator.random(size) < 0.1, np.nan, generator.normal(size=size)),
            "region": pd.Categorical(generator.choice(["north", "south"], size)),
            "wait": generator.exponential(5, size),
        }
    )


@pytest.fixture(scope="module")
def expectations():
    return learn(rows(0, 1000), [50, 60, 70], delays=["wait"])


def test_a_batch_like_the_training_data_has_no_violation(expectations):
    assert [check(rows(seed, 60), expectations, LOAD) for seed in range(1, 13)] == [[]] * 12


def test_a_violation_names_batch_column_value_share_and_remedy(expectations):
    odd = rows(1, 60).assign(score=lambda frame: frame["score"].where(frame.index >= 15, 740.0))
    (violation,) = check(odd, expectations, LOAD)
    assert (violation.column, violation.rule, violation.share) == ("score", Rule.RANGE, 0.25)
    assert (violation.source, violation.load) == ("oneroster", LOAD.key)
    assert violation.value.startswith("740 is not within -99.")
    assert violation.remedy in str(violation)
    assert "oneroster" in str(violation)


@pytest.mark.parametrize(
    ("column", "change", "rule"),
    [
        ("lateness", lambda values: values.where(values.index % 2 == 0), Rule.NULLS),
        ("score", lambda values: values.where(values.index % 2 == 0, -np.inf), Rule.RANGE),
        ("score", lambda values: values.astype(str) + "%", Rule.TYPE),
        (
            "region",
            lambda values: values.astype(str).where(values.index > 9, "west"),
            Rule.CATEGORY,
        ),
        ("wait", lambda values: values + 14, Rule.DELAY),
    ],
)
def test_each_kind_of_violation_has_its_rule(expectations, column, change, rule):
    batch = rows(1, 60)
    batch[column] = change(batch[column])
    assert [
        (violation.column, violation.rule) for violation in check(batch, expectations, LOAD)
    ] == [(column, rule)]


def test_a_missing_column_and_a_batch_cut_short_are_reported(expectations):
    violations = check(rows(1, 60).drop(columns="score"), expectations, LOAD)
    assert [(violation.column, violation.rule) for violation in violations] == [
        ("score", Rule.MISSING)
    ]
    assert [violation.rule for violation in check(rows(1, 6), expectations, LOAD)] == [Rule.VOLUME]
    twenty_times = pd.concat([rows(seed, 60) for seed in range(20)], ignore_index=True)
    assert [v.rule for v in check(twenty_times, expectations, LOAD)] == [Rule.VOLUME]
    assert [v.rule for v in check(rows(1, 0), expectations, LOAD)] == [Rule.VOLUME]


def test_one_odd_value_in_sixty_is_chance_in_a_column_that_may_hold_it(expectations):
    batch = rows(1, 60)
    batch.loc[0, "lateness"] = 9.0
    assert check(batch, expectations, LOAD) == []


def test_a_class_that_lies_beyond_those_before_it_as_a_whole_is_no_violation():
    """Of a feature relative to the class, most students hold one value, which differs by class."""
    before = pd.DataFrame({"above_class": np.repeat([0.42, 0.50, 0.47], 60)})
    violations = check(pd.DataFrame({"above_class": [0.39] * 60}), learn(before, [60] * 3), LOAD)
    assert violations == []
    percent = check(pd.DataFrame({"above_class": [39.0] * 60}), learn(before, [60] * 3), LOAD)
    assert [violation.rule for violation in percent] == [Rule.RANGE]


def test_expectations_survive_json(expectations):
    assert Expectations.from_json(expectations.to_json()) == expectations


@given(
    share=st.floats(0.0, 0.9),
    training=st.integers(30, 2000),
    size=st.integers(5, 300),
    seed=st.integers(0, 10_000),
)
@settings(max_examples=30, deadline=None)
def test_a_null_share_within_sampling_error_is_no_violation(share, training, size, seed):
    generator = np.random.default_rng(seed)
    values = pd.DataFrame({"a": np.where(generator.random(training) < share, np.nan, 1.0)})
    learned = learn(values, [size])
    known = float(values["a"].isna().mean())
    usual = int(binom.ppf(0.84, size, known))
    batch = pd.DataFrame({"a": np.where(np.arange(size) < usual, np.nan, 1.0)})
    assert Rule.NULLS not in [violation.rule for violation in check(batch, learned, LOAD)]


def test_free_text_is_not_compared_word_by_word():
    texts = pd.DataFrame({"comment": [f"text {number}" for number in range(500)]})
    later = pd.DataFrame({"comment": [f"other {number}" for number in range(60)]})
    assert check(later, learn(texts, [60]), LOAD) == []


def test_nothing_can_be_learned_from_nothing():
    with pytest.raises(NotReadyError, match="no rows"):
        learn(rows(0, 0), [])


def test_delays_count_days_to_the_grade_or_to_the_load():
    results = pd.DataFrame(
        {
            "assignment_id": ["a", "a", "b", "b", "b"],
            "status": ["graded", "submitted", "missing", "graded", "exempt"],
            "submitted_on": pd.to_datetime(
                ["2026-02-01", "2026-02-20", None, "2026-03-09", "2026-02-01"]
            ),
            "graded_on": pd.to_datetime(["2026-02-11", None, None, "2026-03-10", "2026-02-02"]),
        }
    )
    assignments = pd.DataFrame({"assignment_id": ["a", "b"], "section_id": ["one", "other"]})
    delays = arrival_delays(results, assignments, LOAD.loaded_at)
    assert delays["to_grade"].tolist()[0] == 10
    assert delays["section_id"].tolist() == ["one", "one"]
    assert delays["waiting"].tolist()[1] == 10
    assert len(delays) == 2
