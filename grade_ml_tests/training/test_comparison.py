"""The ensemble beside the baseline, with the section as the unit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest

from grade_ml.training.comparison import Comparison, Ratio, compared
from grade_ml.training.verdicts import better_than_baseline


def errors(mse: Sequence[float], brier: Sequence[float], rows: int = 100) -> pd.DataFrame:
    names = [f"section {place}" for place in range(len(mse))]
    return pd.DataFrame({"section_id": names, "rows": rows, "mse": mse, "brier": brier})


def test_each_section_counts_the_same_whatever_its_errors() -> None:
    theirs = errors([100, 400, 900, 25], [0.1, 0.2, 0.1, 0.05])
    ours = errors([121, 484, 900, 25], [0.1, 0.2, 0.1, 0.05])
    comparison = compared(ours, theirs)
    assert comparison.sections == 4
    logs = np.log([1.1, 1.1, 1, 1])
    assert comparison.ratios["rmse"].mean == pytest.approx(logs.mean())
    assert comparison.ratios["rmse"].standard_error == pytest.approx(logs.std(ddof=1) / 2)
    assert comparison.ratios["brier"] == Ratio(0, 0)
    assert comparison.figures["rmse_ratio"] == pytest.approx(1.1**0.5)


def test_sections_that_are_not_the_same_rows_are_left_out() -> None:
    theirs = errors([100, 100, 100], [0.1, 0.1, 0.1])
    ours = errors([100, 100, 400], [0.1, 0.1, 0.4]).assign(rows=[100, 100, 99])
    comparison = compared(ours, theirs)
    assert comparison.sections == 2
    assert comparison.ratios["rmse"].mean == 0
    assert compared(ours, theirs.head(0)).ratios == {}


def test_sections_without_grades_or_without_any_error_decide_nothing() -> None:
    theirs = errors([np.nan] * 5, [0.1, 0.1, 0.1, 0.1, 0.0])
    comparison = compared(errors([np.nan] * 5, [0.05, 0.05, 0.05, 0.05, 0.1]), theirs)
    assert set(comparison.ratios) == {"brier"}
    assert comparison.ratios["brier"].mean == pytest.approx(np.log(0.5))
    assert better_than_baseline(comparison).passed


@pytest.mark.parametrize(
    ("grade", "risk", "passes"),
    [
        (Ratio(-0.02, 0.01), Ratio(-0.02, 0.01), True),
        (Ratio(-0.02, 0.01), Ratio(0.0, 0.01), True),
        (Ratio(0.0, 0.005), Ratio(-0.05, 0.01), True),
        # Better on average, by chance.
        (Ratio(-0.02, 0.03), Ratio(-0.02, 0.03), False),
        # What the risk gains, no grade may lose.
        (Ratio(0.02, 0.01), Ratio(-0.2, 0.01), False),
        (Ratio(0.005, 0.001), Ratio(0.005, 0.001), False),
    ],
)
def test_one_error_is_surely_smaller_and_none_larger(
    grade: Ratio, risk: Ratio, passes: bool
) -> None:
    verdict = better_than_baseline(Comparison(9, {"rmse": grade, "brier": risk}))
    assert verdict.passed is passes


def test_the_verdict_tells_its_figures() -> None:
    ratios = {"rmse": Ratio(np.log(1.025), 0.004), "brier": Ratio(np.log(0.98), 0.0101)}
    assert better_than_baseline(Comparison(18, ratios)).text == (
        "Against the baseline, in the mean of 18 unseen sections: RMSE +2.5% (standard error 0.4%),"
        " Brier score -2.0% (standard error 1.0%)."
    )


def test_with_few_sections_the_baseline_serves_and_the_verdict_says_why() -> None:
    verdict = better_than_baseline(
        compared(errors([1, 1], [0.01] * 2), errors([100, 100], [0.2] * 2))
    )
    assert not verdict.passed
    assert verdict.text.startswith("There is too little data to tell: 2 sections")
