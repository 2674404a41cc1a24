import numpy as np
import pandas as pd
import pytest

from grade_ml.ensemble.evaluation import (
    Evaluation,
    by_group,
    calibration_curve,
    cut_table,
    evaluate,
    expected_calibration_error,
    risk_metrics,
)


def rows(n: int = 600, seed: int = 0) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    risk = random.uniform(0, 1, n)
    grade = random.uniform(20, 80, n)
    return pd.DataFrame(
        {
            "grade": grade,
            "lower80": grade - 10,
            "upper80": grade + 10,
            "lower95": grade - 20,
            "upper95": grade + 20,
            "risk": risk,
            "final_grade": grade + random.choice([-15.0, 5.0], n),
            "at_risk": random.uniform(0, 1, n) < risk,
            "progress": random.uniform(0, 1, n),
            "naive": grade + 40,
        }
    )


def test_figures_are_those_of_the_definitions() -> None:
    frame = rows()
    cut = cut_table(frame)
    error = frame["grade"] - frame["final_grade"]
    assert cut.n == 600
    assert cut.grade["rmse"] == pytest.approx((error**2).mean() ** 0.5)
    assert cut.grade["mae"] == pytest.approx(error.abs().mean())
    assert cut.grade["coverage80"] == pytest.approx((error.abs() < 10).mean())
    assert cut.grade["coverage95"] == 1.0
    assert (cut.grade["width80"], cut.grade["width95"]) == pytest.approx((20, 40))
    assert cut.risk["brier"] == pytest.approx(((frame["risk"] - frame["at_risk"]) ** 2).mean())
    assert 0.7 < cut.risk["auc"] < 0.95
    assert cut.risk["ece"] < 0.1


def test_calibration_error_is_zero_for_true_and_large_for_reversed_probabilities() -> None:
    share = pd.Series(np.repeat([0.2, 0.8], 50))
    happened = pd.Series(np.r_[np.arange(50) < 10, np.arange(50) < 40])
    pure = calibration_curve(share, happened, bins=2)
    assert pure["observed"].tolist() == [0.2, 0.8]
    assert expected_calibration_error(1 - share, happened) > 0.5


def test_groups_of_the_calibration_curve_are_of_equal_size() -> None:
    frame = rows(150)
    curve = calibration_curve(frame["risk"], frame["at_risk"])
    assert curve["n"].tolist() == [10] * 15
    assert curve["predicted"].is_monotonic_increasing


def test_one_kind_of_outcome_has_no_ranking_figures() -> None:
    figures = risk_metrics(pd.Series([0.1, 0.2]), pd.Series([False, False]))
    assert figures["auc"] is None
    assert figures["brier"] == pytest.approx(0.025)


def test_no_rows_have_no_figures() -> None:
    cut = cut_table(rows()[:0])
    assert cut.n == 0
    assert set(cut.grade.values()) == set(cut.risk.values()) == {None}


def test_an_evaluation_covers_phases_and_survives_storage() -> None:
    evaluation = evaluate(rows(), seed=0)
    assert list(evaluation.metrics) == ["early", "middle", "late", "all"]
    assert sum(evaluation.metrics[p]["n"] for p in ("early", "middle", "late")) == 600
    assert evaluation.metrics["all"]["naive_rmse"] > evaluation.metrics["all"]["rmse"]
    assert list(evaluation.sample.columns) == ["predicted", "actual"]
    assert Evaluation.from_dict(evaluation.to_dict()).flat() == evaluation.flat()


def test_a_forecast_without_intervals_and_risk_has_errors_only() -> None:
    cut = cut_table(rows().assign(lower80=np.nan, upper80=np.nan, lower95=np.nan, risk=np.nan))
    assert cut.grade["rmse"] > 0
    assert cut.grade["coverage80"] is cut.grade["width95"] is cut.risk["brier"] is None


def test_groups_come_in_the_order_of_their_names() -> None:
    frame = rows().assign(student_id=[f"s{place}" for place in range(600)])
    frame["band"] = pd.Categorical(
        ["50-60%", "0-10%", "10-20%"] * 200, ["50-60%", "0-10%", "10-20%"]
    )
    groups = by_group(frame, {"band": "band"}, seed=0)
    assert list(groups["group"]) == ["0-10%", "10-20%", "50-60%"]
    assert groups["students"].eq(200).all()
    assert (groups["rmse_low"] < groups["rmse"]).all() and (
        groups["rmse"] < groups["rmse_high"]
    ).all()
