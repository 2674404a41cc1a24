"""What would reach a goal: judged by the model, still to be done, and no more than is needed."""

from __future__ import annotations

import random
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from grade_ml.core.errors import ConfigurationError
from grade_ml.explanations.counterfactuals import SETTINGS, Answer, Kind, Status, what_ifs
from grade_ml.features.continuations import Continuation
from grade_ml_tests.features.running_section import TODAY, book, on, snapshot


class Arithmetic:
    """A model whose numbers can be checked by hand: it expects the rest to continue as so far."""

    sections = ()
    features = ("grade_if_rest_as_so_far", "missed_share", "assignments_late")

    def __init__(self) -> None:
        self.received: list[pd.DataFrame] = []

    def predict(self, snapshots: pd.DataFrame) -> pd.DataFrame:
        self.received.append(snapshots)
        rows = snapshots.reset_index(drop=True)
        grade = rows["grade_if_rest_as_so_far"].fillna(10.0).astype(float)
        grade -= 2.0 * rows["assignments_late"]
        return rows[["section_id", "student_id", "cut_day"]].assign(
            grade=grade, risk=rows["missed_share"].fillna(0.5).astype(float)
        )


def answer_for(goal: float, student: str = "ann", seed: int = 0) -> Answer:
    carried = Continuation(book(), "now", on(TODAY))
    return what_ifs(Arithmetic(), carried, snapshot(book(), TODAY, student), goal, seed)


def test_a_goal_is_reached_by_few_and_different_changes():
    answer = answer_for(72.0)
    # Ann has 80, 60 and 70 and continues with 70, of which two assignments come late: 70 - 2 x 2.
    assert (answer.status, answer.now, answer.as_so_far) == (Status.REACHED, 68, 66)
    assert answer.until == on(77)
    assert len(answer.what_ifs) >= 3
    kinds = {
        tuple((c.kind, c.assignments) for c in suggestion.changes) for suggestion in answer.what_ifs
    }
    assert len(kinds) >= 3
    for what_if in answer.what_ifs:
        assert what_if.grade >= 72
        assert 1 <= len(what_if.changes) <= SETTINGS.changes
    first = answer.what_ifs[0]
    assert len(first.changes) <= 2


def test_a_change_is_as_small_as_it_can_be_and_better_is_never_worse():
    answer = answer_for(72.0)
    model, carried = Arithmetic(), Continuation(book(), "now", on(TODAY))
    for what_if in answer.what_ifs:
        wanted = [c for c in what_if.changes if c.kind is Kind.SCORE]
        on_time = any(c.kind is Kind.ON_TIME for c in what_if.changes)

        def forecast(scores: list[tuple[tuple[str, ...], float]], prompt: bool = on_time) -> float:
            earned = [
                max([70.0, *(s for ids, s in scores if name in ids)]) for name in ("w4", "w5")
            ]
            return (80 + 60 + 70 + sum(earned)) / 5 - 2 * (1 if prompt else 2)

        wanted_scores = [(change.assignments, change.to) for change in wanted]
        assert what_if.grade == pytest.approx(forecast(wanted_scores), abs=1e-4)
        for place, (assignments, score) in enumerate(wanted_scores):
            less = [*wanted_scores]
            less[place] = (assignments, score - SETTINGS.score_step)
            assert forecast(less) < 72
    assert model.received == [] and carried.ends_on == on(90)


def test_no_answer_demands_more_than_another():
    for goal in (68.0, 70.0, 74.0):
        demands = []
        for what_if in answer_for(goal).what_ifs:
            scores = {"w4": 70.0, "w5": 70.0, "on time": 0.0}
            for change in what_if.changes:
                for name in change.assignments or ("on time",):
                    scores[name] = max(scores[name], change.to)
            demands.append(scores)
        for what_if in demands:
            others = [other_demand for other_demand in demands if other_demand is not what_if]
            assert not [
                other_demand
                for other_demand in others
                if all(other_demand[k] <= what_if[k] for k in what_if)
            ], demands


def test_nothing_but_what_is_done_changes():
    model, today = Arithmetic(), snapshot(book(), TODAY)
    today = today.assign(external_weather_rain=np.float32(3.5))
    what_ifs(model, Continuation(book(), "now", on(TODAY)), today, 72.0, 0)
    futures = pd.concat(model.received[1:])
    assert len(futures) > 30
    fixed = ["section_id", "student_id", "course_id", "attribute_region", "external_weather_rain"]
    fixed += ["score_first", "earlier_sections", "course_sections", "enrolled_days_ahead"]
    for name in fixed:
        values = futures[name].astype(object)
        assert values.isna().all() or set(values) == {today[name].iloc[0]}, name
    # The best hundredth of the course's scores begins below 95; nothing better is proposed.
    assert futures["score_max"].max() == 90


def test_the_same_seed_gives_the_same_and_leaves_other_generators_alone():
    np.random.seed(3)
    random.seed(3)
    before = np.random.get_state()[1].tolist(), random.getstate()
    assert repr(answer_for(74.0, seed=5)) == repr(answer_for(74.0, seed=5))
    assert (np.random.get_state()[1].tolist(), random.getstate()) == before


def test_what_is_out_of_reach_is_stated_with_the_best_that_is():
    answer = answer_for(99.0)
    assert (answer.status, answer.what_ifs) == (Status.NOT_REACHABLE, ())
    assert answer.best == pytest.approx((80 + 60 + 70 + 90 + 90) / 5 - 2)
    (sentence,) = answer.in_words("en")
    assert sentence == (
        "A forecast of 99 is not reachable any more; the best that is would be about 76."
    )


@pytest.mark.parametrize("goal", [-1.0, 100.5, float("nan")])
def test_a_goal_that_is_no_grade_is_refused(goal):
    with pytest.raises(ConfigurationError, match="between 0 and 100"):
        answer_for(goal)


def test_a_goal_that_comes_by_itself_and_a_section_without_anything_left():
    easy = answer_for(60.0)
    assert easy.status is Status.ON_COURSE and "66 by" in easy.in_words("en")[0]
    late = Continuation(book(), "now", on(75))
    done = what_ifs(Arithmetic(), late, snapshot(book(), 75), 90.0, 0)
    assert done.status is Status.CLOSED
    assert "nichts" in done.in_words("de")[0]


def test_a_student_without_results_still_gets_advice():
    records = book()
    empty = replace(records, results=records.results[records.results["student_id"] == "cat"])
    carried = Continuation(empty, "now", on(TODAY))
    today = snapshot(empty, TODAY)
    answer = what_ifs(Arithmetic(), carried, today, 16.0, 0)
    assert answer.status is Status.REACHED, answer
    for what_if in answer.what_ifs:
        assert all(np.isnan(c.before) for c in what_if.changes if c.kind is Kind.SCORE)


def test_words_name_assignments_and_numbers():
    answer = answer_for(72.0)
    sentences = answer.in_words("en")
    assert len(sentences) == len(answer.what_ifs)
    for sentence, what_if in zip(sentences, answer.what_ifs, strict=True):
        assert f"forecast to {what_if.grade:.0f} by 2024-11-18" in sentence
        for change in what_if.changes:
            if change.kind is Kind.SCORE:
                assert f"{change.to:.0f} or better on " in sentence
                assert ("both assignments" in sentence) >= (len(change.assignments) == 2)
    assert all("Prognose" in sentence for sentence in answer.in_words("de"))


def test_without_dice_fewer_changes_are_tried_and_it_is_reported(monkeypatch):
    assert answer_for(72.0).degraded == ()
    monkeypatch.setitem(sys.modules, "dice_ml", None)
    answer = answer_for(72.0)
    assert answer.status is Status.REACHED
    assert answer.what_ifs and all(what_if.grade >= 72 for what_if in answer.what_ifs)
    assert "dice_ml is not installed" in answer.degraded[0]
