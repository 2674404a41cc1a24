"""Pictures of odd cases can be drawn."""

from __future__ import annotations

from datetime import date

import numpy as np
import pandas as pd
import pytest

from grade_ml.core.figures import Nothing
from grade_ml.explanations import pictures
from grade_ml.explanations.contract import Account, Explanation
from grade_ml.explanations.decision_paths import Path, Step
from grade_ml.explanations.effects import Effect

ACCOUNT = Account(48.0, 60.0, {"a": -14.0, "b": 2.0, "c": 0.0}, {"clipping": 0.0})


@pytest.mark.parametrize("grade", [None, ACCOUNT, Account(60.0, 60.0, {}, {})])
def test_waterfalls(grade: Account | None):
    explanation = Explanation("c", "s", 7.0, grade, ACCOUNT, {"a": "text", "b": None})
    pictures.waterfall(explanation).canvas.draw()


def test_swarms_of_no_students_and_of_texts():
    for added in ([np.nan], [1.0], [0.0, 0.0]):
        rows = pd.DataFrame({"a": added})
        assert isinstance(pictures.beeswarm(rows, rows, "points"), Nothing)
    contributions = pd.DataFrame({"a": [1.0, -2.0]})
    pictures.beeswarm(contributions, pd.DataFrame({"a": ["x", None]}), "points").canvas.draw()


def importance(**columns) -> pd.DataFrame:
    row = {"feature": "a", "importance": 1.0, "share": 0.5, "alarm": False, "low": 0, "high": 2}
    unbanded = {"band_low": np.nan, "band_high": np.nan, "as_of": date(2024, 1, 1)}
    return pd.DataFrame({**row, **unbanded, **columns})


def test_importance_of_one_feature_or_day_is_not_drawn():
    bars = importance(share=[1.0])
    assert pictures.importance_bars(bars) == Nothing("a has all importance.")
    assert isinstance(pictures.importance_bars(bars.head(0)), Nothing)
    two_features = importance(feature=["a", "b"])
    pictures.importance_bars(two_features).canvas.draw()
    assert isinstance(pictures.importance_over_time(two_features), Nothing)
    days = importance(as_of=[date(2024, 1, 1), date(2024, 1, 8)])
    pictures.importance_over_time(days).canvas.draw()


def test_effects_share_their_scales_and_none_is_not_drawn():
    edges, zero = np.array([0.0, 1.0, 2.0]), np.zeros(3)
    assert isinstance(pictures.effects([]), Nothing)
    assert isinstance(pictures.effects([Effect("a", edges, zero, zero, 9)]), Nothing)
    figure = pictures.effects([Effect("a", edges, size * edges, zero, 9) for size in (20, 1)])
    figure.canvas.draw()
    first, second = figure.axes[:2]
    assert first.get_ylim() == second.get_ylim() == (-43.2, 43.2)


def test_groups_too_small_to_compare_are_not_drawn():
    rows = pd.DataFrame({"gap": [np.nan]})
    assert isinstance(pictures.gaps(rows), Nothing)
    assert isinstance(pictures.gaps(rows.head(0)), Nothing)


def test_a_question_and_its_answer_in_words():
    number = Step("missed_share", 0.25, (), 0.5, False)
    text = Step("attribute_region", None, tuple("abcde"), "a", True)
    unknown = Step("score_mean", 50.0, (), None, True)
    gap = Step("score_last", None, (), None, True)
    no_gap = Step("score_last", None, (), 61.5, False)
    assert pictures.question(number) == "Is missed_share at most 0.25?"
    assert pictures.answer(number) == "no: 0.5"
    assert pictures.question(text) == "Is attribute_region one of a, b, c, d, …?"
    assert pictures.answer(text) == "yes: a"
    assert pictures.answer(unknown) == "missing: goes with yes"
    assert pictures.question(gap) == "Is score_last missing?"
    assert [pictures.answer(answer) for answer in (gap, no_gap)] == ["yes", "no: 61.5"]
    pictures.decision_path(Path("lightgbm 3", (number, text, unknown), -0.4)).canvas.draw()
