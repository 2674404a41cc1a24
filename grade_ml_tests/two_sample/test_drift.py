"""`detect_drift`: quiet where nothing differs, awake where something does, never silent."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from grade_ml.core.errors import ConfigurationError
from grade_ml.monitoring import detect_drift

STATISTICS = ["ks", "cvm", "psi", "kl", "js", "wasserstein", "chi2"]


def normal(seed, rows, columns=6, shift=0.0):
    """Return normal columns, the first shifted by `shift` standard deviations."""
    values = np.random.default_rng(seed).normal(size=(rows, columns))
    values[:, 0] += shift
    return pd.DataFrame(values, columns=[f"feature_{number}" for number in range(columns)])


def by_feature(report):
    return report.features.set_index("feature")


def test_one_row_for_each_feature_with_all_that_was_promised():
    report = detect_drift(normal(1, 300), normal(2, 60))
    promised = ["feature", "kind", "status", "reason", *STATISTICS, "p", "p_adjusted", "drifted"]
    assert {*promised, "effect"} <= set(report.features)
    assert list(report.features["feature"]) == list(normal(1, 1))
    assert (report.features["p_adjusted"] >= report.features["p"]).all()
    assert report.conclusive


def test_a_shift_is_detected_named_and_described():
    report = detect_drift(normal(1, 500), normal(2, 100, shift=1.0))
    assert report.drifted
    features = by_feature(report)
    assert list(features.index[features["drifted"]]) == ["feature_0"]
    assert features.loc["feature_0", "reason"].startswith("median ")
    assert features.loc["feature_0", "effect"] > 0.3
    down = detect_drift(normal(1, 500), normal(2, 100, shift=-1.0))
    assert by_feature(down).loc["feature_0", "effect"] < -0.3


def test_same_inputs_and_seed_give_the_same_report():
    reference, current = normal(1, 300), normal(2, 60)
    first, second = (detect_drift(reference, current, seed=3) for _ in range(2))
    pd.testing.assert_frame_equal(first.features, second.features)
    assert first.multivariate == second.multivariate


def test_statistics_are_those_of_scipy():
    reference, current = normal(1, 200), normal(2, 50, shift=0.5)
    features = by_feature(detect_drift(reference, current))
    for name in reference:
        a, b = reference[name], current[name]
        assert features.loc[name, "ks"] == pytest.approx(stats.ks_2samp(a, b).statistic)
        assert features.loc[name, "cvm"] == pytest.approx(
            stats.cramervonmises_2samp(a, b).statistic
        )
        assert features.loc[name, "wasserstein"] == pytest.approx(stats.wasserstein_distance(a, b))
        wins = stats.mannwhitneyu(b, a).statistic / (len(a) * len(b))
        assert features.loc[name, "effect"] == pytest.approx(2 * wins - 1)


def test_statistics_of_tied_values_with_gaps_are_those_of_the_known_values():
    generator = np.random.default_rng(0)
    reference = pd.Series(generator.integers(0, 5, 200).astype(float))
    current = pd.Series(generator.integers(0, 6, 60).astype(float))
    reference[:20], current[:3] = np.nan, np.nan
    row = detect_drift(reference.to_frame("a"), current.to_frame("a")).features.iloc[0]
    a, b = reference.dropna(), current.dropna()
    assert row["ks"] == pytest.approx(stats.ks_2samp(a, b).statistic)
    assert row["wasserstein"] == pytest.approx(stats.wasserstein_distance(a, b))
    assert row["missing"] == pytest.approx(3 / 60 - 20 / 200)


def test_chi_square_of_categories_is_that_of_scipy():
    generator = np.random.default_rng(0)
    reference = pd.DataFrame({"a": generator.choice(list("xyz"), 300)})
    current = pd.DataFrame({"a": generator.choice(list("xyz"), 80)})
    row = detect_drift(reference, current).features.iloc[0]
    table = pd.concat([side["a"].value_counts() for side in (reference, current)], axis=1)
    expected = stats.chi2_contingency(table.to_numpy(), correction=False)
    assert row["chi2"] == pytest.approx(expected.statistic, rel=1e-4)
    assert row["p"] == pytest.approx(expected.pvalue, abs=0.05)
    assert row[["ks", "cvm", "wasserstein"]].isna().all()


def test_p_values_agree_with_those_of_scipy_where_these_hold():
    reference, current = normal(1, 400), normal(2, 80, shift=0.3)
    features = by_feature(detect_drift(reference, current))
    for name in reference:
        a, b = reference[name], current[name]
        assert features.loc[name, "p_cvm"] == pytest.approx(
            stats.cramervonmises_2samp(a, b).pvalue, abs=0.06
        )
        assert features.loc[name, "p_ks"] == pytest.approx(stats.ks_2samp(a, b).pvalue, abs=0.15)


def test_tiny_chances_are_as_tiny_as_they_are():
    """999 permutations alone could not give less than .001, too much among hundreds of columns."""
    reference, current = normal(1, 1000), normal(2, 60, shift=0.75)
    row = by_feature(detect_drift(reference, current)).loc["feature_0"]
    exact = stats.cramervonmises_2samp(reference["feature_0"], current["feature_0"]).pvalue
    assert 1e-9 < exact < 1e-4
    assert exact / 30 < row["p_cvm"] < exact * 30


@given(st.randoms(use_true_random=False))
@settings(max_examples=8, deadline=None)
def test_order_of_rows_and_monotone_units_do_not_matter(random):
    seed = random.randrange(1000)
    reference, current = normal(seed, 120, 3), normal(seed + 1, 40, 3)
    report = detect_drift(reference, current)
    moved = detect_drift(np.exp(reference), np.exp(current))
    for name in ("ks", "cvm", "psi", "kl", "js", "effect", "p"):
        np.testing.assert_allclose(report.features[name], moved.features[name], rtol=1e-4)
    mixed = detect_drift(reference.sample(frac=1, random_state=seed), current)
    for name in (*STATISTICS[:-1], "effect"):
        np.testing.assert_allclose(report.features[name], mixed.features[name], rtol=1e-4)


@given(
    reference=st.lists(st.sampled_from([0.0, 1.0, 2.5, np.nan, np.inf, -np.inf]), max_size=40),
    current=st.lists(st.sampled_from([0.0, 1.0, 3.5, np.nan, np.inf]), max_size=40),
)
@settings(max_examples=30, deadline=None)
def test_whatever_the_numbers_each_column_has_a_status_and_a_sound_p(reference, current):
    report = detect_drift(
        pd.DataFrame({"a": pd.Series(reference, dtype=float), "b": range(len(reference))}),
        pd.DataFrame({"a": pd.Series(current, dtype=float), "b": range(len(current))}),
    )
    assert list(report.features["feature"]) == ["a", "b"]
    p = report.features["p"]
    assert p.dropna().between(0, 1).all()
    assert (p.notna() | (report.features["reason"] != "")).all()


def false_alarms(draw, reports, **arguments):
    return np.mean([detect_drift(*draw(seed), seed=seed, **arguments).drifted for seed in reports])


def together(seed, students, name):
    """Return 4 rows of each student, alike to an intra-class correlation of .9."""
    generator = np.random.default_rng(seed)
    own = np.repeat(generator.normal(size=(students, 5)), 4, axis=0)
    values = np.sqrt(0.9) * own + np.sqrt(0.1) * generator.normal(size=own.shape)
    frame = pd.DataFrame(values, columns=list("abcde"))
    return frame.assign(student=[f"{name}{n // 4}" for n in range(len(frame))])


def test_rows_of_a_student_are_no_evidence_of_their_own():
    """Without the cluster a third of these reports and more are false alarms."""
    draw = lambda seed: (together(seed, 60, "r"), together(seed + 10_000, 15, "c"))  # noqa: E731
    rows_alone = false_alarms(
        lambda seed: [side.drop(columns="student") for side in draw(seed)], range(16)
    )
    whole_students = false_alarms(draw, range(16), cluster="student")
    assert rows_alone > 0.5
    assert whole_students <= 0.16


def test_units_of_another_size_are_compared_one_row_each():
    reference = together(1, 60, "r")
    current = together(2, 40, "c").groupby("student").head(1)
    report = detect_drift(reference, current, cluster="student")
    assert (report.reference_units, report.current_units) == (60, 40)
    assert not report.drifted


def test_the_cluster_is_not_tested_itself():
    report = detect_drift(together(1, 60, "r"), together(2, 15, "c"), cluster="student")
    assert list(report.features["feature"]) == list("abcde")


@pytest.mark.slow
def test_clean_columns_raise_an_alarm_in_at_most_one_report_in_twenty():
    """Among them ties, rare categories, missing values: where approximations fail first."""

    def draw(seed):
        generator = np.random.default_rng(seed)

        def window(rows):
            columns = {f"normal{n}": generator.normal(size=rows) for n in range(4)}
            columns |= {f"few{n}": generator.poisson(0.3, rows).astype(float) for n in range(4)}
            columns |= {f"rare{n}": generator.choice(8, rows, p=RARE).astype(str) for n in range(4)}
            holes = np.where(generator.random((4, rows)) < 0.03, np.nan, 1 - generator.random(rows))
            return pd.DataFrame(columns | {f"holes{n}": hole for n, hole in enumerate(holes)})

        return window(400), window(40)

    share = false_alarms(draw, range(150))
    # Two standard errors of 150 reports above .05.
    assert share <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 150)


RARE = np.array([0.6, 0.3, 0.08, 0.01, 0.004, 0.003, 0.002, 0.001])


def test_correlation_that_turns_is_seen_by_the_classifier_alone():
    generator = np.random.default_rng(0)

    def window(rows, sign):
        first, noise = generator.normal(size=(2, rows))
        return pd.DataFrame({"a": first, "b": sign * 0.9 * first + 0.44 * noise})

    report = detect_drift(window(500, 1), window(120, -1))
    assert not report.features["drifted"].any()
    assert report.multivariate.drifted
    assert report.multivariate.auc > 0.7
    assert report.drifted


def test_missing_values_and_new_categories_are_drift():
    generator = np.random.default_rng(0)
    reference = pd.DataFrame(
        {"score": generator.normal(size=500), "region": generator.choice(list("abc"), 500)}
    )
    current = pd.DataFrame(
        {"score": generator.normal(size=80), "region": generator.choice(list("abcz"), 80)}
    )
    current.loc[:11, "score"] = np.nan
    features = by_feature(detect_drift(reference, current))
    assert features["drifted"].all()
    assert features.loc["score", "reason"] == "no value in 15.0% of the rows instead of 0.0%"
    assert "in categories not seen before" in features.loc["region", "reason"]


@pytest.mark.parametrize(("rows", "status"), [(0, "no rows"), (1, "too few rows")])
def test_a_window_without_information_is_reported_so(rows, status):
    reference = normal(1, 100, 2).set_axis(list("ab"), axis=1)
    report = detect_drift(reference, reference.head(rows))
    assert list(report.features["status"]) == [status] * 2
    assert report.features["reason"].str.contains("nothing was tested").all()
    assert not report.drifted
    assert not report.conclusive
    assert report.untested == ("a", "b")


GOOD = np.random.default_rng(0).normal(size=100)


@pytest.mark.parametrize(
    ("reference", "current", "status", "drifted"),
    [
        (np.ones(100), np.ones(60), "constant", False),
        (["x"] * 100, ["x"] * 60, "constant", False),
        (np.ones(100), np.zeros(60), "tested", True),
        (np.full(100, np.nan), np.full(60, np.nan), "empty", False),
        (GOOD, np.full(60, np.nan), "all null", True),
        (GOOD, [None] * 60, "all null", True),
        (np.full(100, np.nan), GOOD[:60], "all null", True),
        (GOOD, None, "missing", True),
        (None, GOOD, "new", False),
        (GOOD, ["text"] * 60, "type changed", True),
        (["text"] * 100, GOOD[:60], "type changed", True),
        (GOOD, np.where(np.arange(60) < 30, np.inf, GOOD[:60]), "infinite values", True),
        (np.full(100, np.inf), np.full(60, np.inf), "infinite values", False),
        (GOOD[:30], GOOD[30:], "small reference", False),
        (pd.Series([1, None] * 50, dtype="Int64"), np.ones(60), "tested", True),
        (pd.Series(GOOD > 0), pd.Series(GOOD[:60] > 0), "tested", False),
        ([["a"], ["b"]] * 50, [["a"], ["b"]] * 30, "tested", False),
    ],
)
def test_bad_input_is_a_row_with_a_status_and_a_reason(reference, current, status, drifted):
    sides = []
    for values in (reference, current):
        rows = 100 if values is None else len(values)
        filler = pd.DataFrame({"other": np.linspace(0, 1, rows)})
        sides.append(filler if values is None else filler.assign(column=values))
    features = by_feature(detect_drift(*sides))
    assert features.loc["column", "status"] == status
    assert features.loc["column", "drifted"] == drifted
    assert status == "tested" or features.loc["column", "reason"]
    assert features["drifted"].sum() == drifted


def test_dates_are_compared_as_days():
    days = pd.date_range("2024-10-01", periods=100, tz="Europe/London")
    later = days[:60] + pd.Timedelta(days=50)
    row = detect_drift(pd.DataFrame({"day": days}), pd.DataFrame({"day": later})).features.iloc[0]
    assert (row["kind"], row["drifted"]) == ("numeric", True)
    assert row["wasserstein"] == pytest.approx(30, abs=0.1)


def test_columns_of_one_name_are_reported_and_not_tested():
    twice = pd.DataFrame(np.random.default_rng(0).normal(size=(50, 3)), columns=["a", "a", "b"])
    features = by_feature(detect_drift(twice, twice))
    assert dict(features["status"]) == {"a": "duplicated name", "b": "tested"}


@pytest.mark.parametrize("without", [0, 1])
def test_an_unknown_cluster_is_refused_with_the_columns_there_are(without):
    frames = [normal(1, 50, 2).assign(student="s"), normal(2, 20, 2).assign(student="s")]
    frames[without] = frames[without].drop(columns="student")
    with pytest.raises(ConfigurationError, match=r"'student'.*feature_0, feature_1"):
        detect_drift(*frames, cluster="student")


def test_an_alpha_that_is_no_share_is_refused():
    with pytest.raises(ConfigurationError, match="alpha"):
        detect_drift(normal(1, 50), normal(2, 20), alpha=5)
