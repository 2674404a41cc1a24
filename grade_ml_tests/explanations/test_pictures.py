"""Pictures of odd cases can be drawn."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from grade_ml.explanations import pictures
from grade_ml.explanations.contract import Account, Explanation
from grade_ml.explanations.decision_paths import Path, Step

ACCOUNT = Account(48.0, 60.0, {"a": -14.0, "b": 2.0, "c": 0.0}, {"clipping": 0.0})


@pytest.mark.parametrize("grade", [None, ACCOUNT, Account(60.0, 60.0, {}, {})])
def test_waterfalls(grade: Account | None):
    told = Explanation("c", "s", 7.0, grade, ACCOUNT, {"a": "text", "b": None})
    pictures.waterfall(told).canvas.draw()


def test_swarms_of_nobody_and_of_texts():
    nothing = pd.DataFrame({"a": [np.nan]})
    pictures.beeswarm(nothing, nothing, "points").canvas.draw()
    some = pd.DataFrame({"a": [1.0, -2.0]})
    pictures.beeswarm(some, pd.DataFrame({"a": ["x", None]}), "points").canvas.draw()


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
    assert [pictures.answer(one) for one in (gap, no_gap)] == ["yes", "no: 61.5"]
    pictures.decision_path(Path("lightgbm 3", (number, text, unknown), -0.4)).canvas.draw()
