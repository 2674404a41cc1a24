"""Finds what a student can still do to bring the forecast to a goal.

DiCE (Mothilal, Sharma & Tan 2020) proposes; the model that serves decides. Only what the student
does in the days to come may change, so ids, attributes, the past and the class cannot; each
proposal becomes records, and these the features of a later day (`features.continuations`). First
the model predicts the best future that is plausible in the course's data: if even that misses the
goal, no search runs. Every answer is predicted again, reduced to the changes that it needs, and
each change is made as small as possible.
"""

from __future__ import annotations

import contextlib
import io
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from enum import StrEnum
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from grade_ml.core.errors import ConfigurationError
from grade_ml.core.optional import absence, family
from grade_ml.ensemble.rows import Model
from grade_ml.explanations.messages import catalogue, languages
from grade_ml.features.continuations import CYCLE, Continuation, Doing, OpenAssignment

Floats = npt.NDArray[np.float64]
Steps = npt.NDArray[np.int64]
Future = tuple[int, ...]


@dataclass(frozen=True)
class CounterfactualSettings:
    """The judgements of what-ifs, each with its reason."""

    #: The next assignments are tried first: work that is due in a year is no plan.
    near_assignments: int = 3
    #: Levers for the scores of some assignments, in order of date, beside the lever for all of
    #: them; more levers make no useful advice.
    blocks: int = 3
    #: Points between the scores that are tried.
    score_step: float = 5.0
    #: Days in four weeks between levels of activity.
    days_step: float = 2.0
    #: Plausible is what the best hundredth of scores, the most active tenth of the class reach.
    score_quantile: float = 0.99
    activity_quantile: float = 0.9
    #: Days after the last due date for which the forecast is made: late work is in by then.
    grace_days: int = 7
    #: The size of DiCE's samples, and the number of its proposals.
    sample: int = 120
    proposals: int = 30
    #: The most answers, the number below which the search continues, and the most changes of an
    #: answer.
    answers: int = 4
    least_answers: int = 3
    changes: int = 3


SETTINGS = CounterfactualSettings()


class Status(StrEnum):
    """Whether a goal can be reached."""

    ON_COURSE = "on_course"
    REACHED = "reached"
    NOT_REACHABLE = "not_reachable"
    NOT_FOUND = "not_found"
    CLOSED = "closed"
    UNKNOWN = "unknown"


class Kind(StrEnum):
    """What a student can change."""

    SCORE = "score"
    ON_TIME = "on_time"
    ACTIVE_DAYS = "active_days"


@dataclass(frozen=True)
class Change:
    """One change in what the student does.

    Attributes
    ----------
    to
        The least score on each of the assignments (0-100), or days with activity in four weeks.
    before
        The same if the student continues as so far; NaN if an assignment is not handed in.
    assignments
        The assignment ids; empty if the change concerns all of them.
    first, last
        The due dates of the first and the last of them.
    message
        The name of the message that describes the change.
    """

    kind: Kind
    to: float
    before: float
    assignments: tuple[str, ...] = ()
    first: date | None = None
    last: date | None = None
    message: str = ""


@dataclass(frozen=True)
class WhatIf:
    """Changes that reach the goal, and what the model predicts with them (points; 0-1)."""

    changes: tuple[Change, ...]
    grade: float
    risk: float


@dataclass(frozen=True)
class Answer:
    """Whether a goal can be reached, and by which changes.

    Attributes
    ----------
    now
        The forecast of today, points.
    as_so_far, best
        The forecasts of the day `until` if the student continues as so far, and if everything goes
        as well as is plausible; NaN if nothing is left to do.
    what_ifs
        The least changes first.
    degraded
        The reasons why the answer is degraded; empty if it is not.
    """

    goal: float
    status: Status
    now: float
    as_so_far: float = math.nan
    best: float = math.nan
    until: date | None = None
    what_ifs: tuple[WhatIf, ...] = ()
    degraded: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the answer as JSON-ready values, with its sentences in every language."""
        numbers = {name: getattr(self, name) for name in ("goal", "now", "as_so_far", "best")}
        return {
            "status": str(self.status),
            "until": None if self.until is None else self.until.isoformat(),
            **{name: None if math.isnan(value) else value for name, value in numbers.items()},
            "what_ifs": [
                {
                    "grade": what_if.grade,
                    "risk": what_if.risk,
                    "changes": [
                        {
                            "kind": str(change.kind),
                            "to": change.to,
                            "assignments": list(change.assignments),
                        }
                        for change in what_if.changes
                    ],
                }
                for what_if in self.what_ifs
            ],
            "words": {language: self.in_words(language) for language in languages()},
            "degraded": list(self.degraded),
        }

    def in_words(self, language: str) -> list[str]:
        """Return a sentence for each what-if, or a sentence with the reason why there is none."""
        words = catalogue(language)
        slots: dict[str, float | str] = {
            "goal": self.goal,
            "grade": self.now if self.status is Status.CLOSED else self.as_so_far,
            "best": self.best,
            "until": str(self.until),
        }
        if self.status is not Status.REACHED:
            return [words.write("what_if", self.status, slots)]
        sentences = []
        for what_if in self.what_ifs:
            changes = words.messages["what_if"]["also"].text.join(
                words.write("what_if", change.message, _slots(change)) for change in what_if.changes
            )
            sentence = words.write(
                "what_if", Status.REACHED, {**slots, "changes": changes, "grade": what_if.grade}
            )
            sentences.append(sentence[0].upper() + sentence[1:])
        return sentences


def _slots(change: Change) -> dict[str, float | str]:
    return {
        "score": change.to,
        "days": change.to,
        "before": change.before,
        "count": float(len(change.assignments)),
        "first": str(change.first),
        "last": str(change.last),
    }


def next_goal(grade: float, goals: Sequence[float]) -> float | None:
    """Return the least of the goals (rising) above a forecast in points; None if there is none.

    >>> next_goal(41.3, (40.0, 55.0)), next_goal(91.0, (40.0, 55.0))
    (55.0, None)
    """
    return next((goal for goal in goals if goal > grade), None)


def require_goal(goal: float) -> None:
    """Raise `ConfigurationError` for a goal that is no final grade."""
    if not 0 <= goal <= 100:
        raise ConfigurationError(
            f"A final grade of {goal:g} is no goal.", "Choose a goal between 0 and 100 points."
        )


def what_ifs(  # noqa: PLR0913
    model: Model,
    carried: Continuation,
    today: pd.DataFrame,
    goal: float,
    seed: int,
    *,
    now: float | None = None,
) -> Answer:
    """Return the changes that would bring the forecast to `goal`, or that there are none.

    Parameters
    ----------
    model
        Predicts the grade and risk of each future.
    carried
        The student's section, continued from the day of `today`.
    today
        The student's snapshot, one row, with all columns that `model` reads.
    goal
        Points, 0-100.
    seed
        Of DiCE's draws; the same seed gives the same answer.
    now
        What `model` predicts of `today`, points, if that is known already.

    Raises
    ------
    ConfigurationError
        The goal is not between 0 and 100.
    NotFoundError
        The student was not enrolled in the section on that day.
    """
    require_goal(goal)
    if now is None:
        now = float(model.predict(today)["grade"].iloc[0])
    if math.isnan(now):
        return Answer(goal, Status.UNKNOWN, now)
    assignments = carried.open_assignments(str(today["student_id"].iloc[0]))
    if not assignments:
        return Answer(goal, Status.CLOSED, now)
    left = len(assignments)
    for horizon in dict.fromkeys((min(left, SETTINGS.near_assignments), left)):
        futures = _Futures(model, carried, today, assignments[:horizon], left)
        answer = _answer(futures, goal, now, seed)
        if answer.status in (Status.ON_COURSE, Status.REACHED):
            break
    return answer


@dataclass(frozen=True)
class _Lever:
    """What a student can change, by steps: 0 is as so far, then each of `values` in turn."""

    kind: Kind
    values: tuple[float, ...]
    before: float
    assignments: tuple[OpenAssignment, ...]
    message: str

    def change(self, step: int) -> Change:
        ids = tuple(assignment.assignment_id for assignment in self.assignments)
        due: Sequence[date | None] = [assignment.due_on for assignment in self.assignments] or [
            None
        ]
        value = self.values[step - 1]
        return Change(self.kind, value, self.before, ids, due[0], due[-1], self.message)


class _Futures:
    """What one student could do until a day, and what the model predicts for it.

    A future is a row of steps, one per lever.
    """

    def __init__(
        self,
        model: Model,
        carried: Continuation,
        today: pd.DataFrame,
        assignments: Sequence[OpenAssignment],
        left: int,
    ) -> None:
        self._model, self._carried, self._today, self._assignments = (
            model,
            carried,
            today,
            assignments,
        )
        due = assignments[-1].due_on
        self.until = max(due, min(due + timedelta(days=SETTINGS.grace_days), carried.ends_on))
        self.levers = tuple(lever for lever in self._found_levers(left) if lever.values)
        self.most = tuple(len(lever.values) for lever in self.levers)
        self._known: dict[Future, tuple[float, float]] = {}

    def _found_levers(self, left: int) -> Iterator[_Lever]:
        known = self._carried.scores[~np.isnan(self._carried.scores)]
        top = float(np.quantile(known, SETTINGS.score_quantile)) if known.size else 100.0
        blocks = np.array_split(np.arange(len(self._assignments)), SETTINGS.blocks)
        whole = [np.arange(len(self._assignments))] if len(self._assignments) > 1 else []
        for places in [*filter(len, blocks), *whole]:
            block = tuple(self._assignments[place] for place in places)
            least = min(
                0.0 if math.isnan(assignment.score) else assignment.score for assignment in block
            )
            missing = any(math.isnan(assignment.score) for assignment in block)
            values = _grid(least, top, SETTINGS.score_step)
            message = _about(places, left)
            yield _Lever(Kind.SCORE, values, math.nan if missing else least, block, message)
        if any(assignment.days_late > 0 for assignment in self._assignments):
            yield _Lever(Kind.ON_TIME, (1.0,), 0.0, (), "on_time")
        own, everyone = self._carried.active_days(str(self._today["student_id"].iloc[0]))
        if not math.isnan(own):
            most = min(float(np.quantile(everyone, SETTINGS.activity_quantile)), CYCLE)
            values = _grid(own, most, SETTINGS.days_step)
            yield _Lever(Kind.ACTIVE_DAYS, values, own, (), "active_days")

    def grades(self, futures: Sequence[Future]) -> Floats:
        """Return the model's grade of each future, in points; no future is predicted twice."""
        new = [future for future in dict.fromkeys(futures) if future not in self._known]
        if new:
            rows = self._carried.snapshots(self._today, self._doing(np.array(new)), self.until)
            predicted = self._model.predict(rows)[["grade", "risk"]].to_numpy(np.float64)
            self._known.update(zip(new, map(tuple, predicted.tolist()), strict=True))
        return np.array([self._known[future][0] for future in futures])

    def _doing(self, steps: Steps) -> Doing:
        number = len(steps)
        scores = np.tile([assignment.score for assignment in self._assignments], (number, 1))
        on_time, days = np.zeros(number, bool), np.full(number, np.nan)
        for lever, step in zip(self.levers, steps.T, strict=True):
            changed = step > 0
            value = np.array([math.nan, *lever.values])[step][changed]
            if lever.kind is Kind.ON_TIME:
                on_time = changed
            elif lever.kind is Kind.ACTIVE_DAYS:
                days[changed] = value
            else:
                first = self._assignments.index(lever.assignments[0])
                block = slice(first, first + len(lever.assignments))
                scores[changed, block] = np.fmax(scores[changed, block], value[:, None])
        return Doing(scores, on_time, days)

    def demands(self, future: Future) -> Floats:
        """Return how much a future demands of the student, number by number: more is harder."""
        doing = self._doing(np.array([future]))
        numbers = np.concatenate([doing.scores[0], doing.on_time, doing.active_days])
        return np.asarray(np.nan_to_num(numbers, nan=-1.0))

    def what_if(self, future: Future) -> WhatIf:
        """Return a future that the model has predicted, as changes, grade and risk."""
        changes = (
            lever.change(step) for lever, step in zip(self.levers, future, strict=True) if step
        )
        return WhatIf(tuple(changes), *self._known[future])


def _about(places: npt.NDArray[np.intp], left: int) -> str:
    """Return the name of the message about the scores of some of the remaining assignments."""
    if len(places) == 1:
        return "score_one"
    if len(places) == left:
        return "score_both" if left == 2 else "score_all"
    return "score_last" if places[-1] == left - 1 else "score_some"


def _grid(above: float, top: float, step: float) -> tuple[float, ...]:
    """Return the multiples of `step` that are greater than `above` and at most `top`.

    >>> _grid(62.4, 80.0, 5.0)
    (65.0, 70.0, 75.0, 80.0)
    """
    first = math.floor(above / step + 1)
    return tuple(place * step for place in range(first, math.floor(top / step) + 1))


def _answer(futures: _Futures, goal: float, now: float, seed: int) -> Answer:
    ends = [(0,) * len(futures.most), futures.most]
    as_so_far, best = futures.grades(ends).tolist()
    answer = Answer(goal, Status.NOT_REACHABLE, now, as_so_far, max(as_so_far, best), futures.until)
    if as_so_far >= goal:
        return replace(answer, status=Status.ON_COURSE)
    if best < goal:
        return answer
    missing = "dice_ml" in EXPLAIN.missing()
    proposals = _corners(futures.most) + ([] if missing else _proposed(futures, goal, seed))
    places = range(len(futures.most))
    needed = _needed(futures, proposals, goal)
    reached = _lowered(futures, needed, places, goal)
    chosen = _diverse(_undominated(futures, reached), futures.most)
    if len(chosen) < SETTINGS.least_answers:
        # The lever that is lowered last stays high: the reverse order moves the effort elsewhere.
        needed += _needed(futures, _instead(futures, chosen), goal)
        reached += _lowered(futures, needed, places[::-1], goal)
        chosen = _diverse(_undominated(futures, reached), futures.most)
    return replace(
        answer,
        status=Status.REACHED if chosen else Status.NOT_FOUND,
        what_ifs=tuple(map(futures.what_if, chosen)),
        degraded=(_WITHOUT_DICE,) if missing else (),
    )


EXPLAIN = family("explain")
_WITHOUT_DICE = f"{absence('dice_ml')}; fewer kinds of change were tried"


def _corners(most: Future) -> list[Future]:
    """Return the futures in which one or two levers go all the way."""
    places = [place for place, top in enumerate(most) if top]
    return [
        tuple(top if place in levers else 0 for place, top in enumerate(most))
        for size in (1, 2)
        for levers in combinations(places, size)
    ]


def _proposed(futures: _Futures, goal: float, seed: int) -> list[Future]:
    """Return what DiCE proposes."""
    import dice_ml
    from raiutils.exceptions import UserConfigValidationException

    names = [f"lever_{place}" for place in range(len(futures.most))]

    class Judge:
        def predict(self, frame: pd.DataFrame) -> Floats:
            steps = frame[names].astype(float).round().astype(int)
            return futures.grades(list(steps.itertuples(index=False, name=None)))

    ends = pd.DataFrame([(0,) * len(names), futures.most], columns=names)
    data = dice_ml.Data(
        dataframe=ends.assign(grade=futures.grades([(0,) * len(names), futures.most])),
        continuous_features=names,
        outcome_name="grade",
    )
    model = dice_ml.Model(model=Judge(), backend="sklearn", model_type="regressor")
    with _quiet_and_seeded():
        try:
            proposals = dice_ml.Dice(data, model, method="random").generate_counterfactuals(
                ends.iloc[[0]],
                total_CFs=SETTINGS.proposals,
                desired_range=[goal, 100.0],
                sample_size=SETTINGS.sample,
                # DiCE predicts one row at a time; `_needed` and `_lowered` do the same at once.
                posthoc_sparsity_param=None,
                random_seed=seed,
            )
        except UserConfigValidationException as error:
            if "No counterfactuals found" in str(error):
                return []
            raise
    steps = proposals.cf_examples_list[0].final_cfs_df[names].astype(float).round().astype(int)
    return list(steps.itertuples(index=False, name=None))


@contextlib.contextmanager
def _quiet_and_seeded() -> Iterator[None]:
    """Suppress DiCE's output, and restore the shared random generators that it seeds."""
    shared = np.random.get_state(), random.getstate()
    silence = io.StringIO()
    try:
        with contextlib.redirect_stdout(silence), contextlib.redirect_stderr(silence):
            yield
    finally:
        np.random.set_state(shared[0])
        random.setstate(shared[1])


def _needed(futures: _Futures, proposals: Sequence[Future], goal: float) -> list[Future]:
    """Return the smallest part of each proposal that still reaches the goal, if there is one."""
    parts = {proposal: list(_parts(proposal)) for proposal in proposals}
    every = list(dict.fromkeys(part for own in parts.values() for part in own))
    reached = dict(zip(every, futures.grades(every) >= goal, strict=True))
    firsts = (next((part for part in own if reached[part]), None) for own in parts.values())
    return list(dict.fromkeys(first for first in firsts if first))


def _parts(future: Future) -> Iterator[Future]:
    """Yield the futures with only some of the changes, those with few changes first."""
    places = [place for place, step in enumerate(future) if step]
    for size in range(1, SETTINGS.changes + 1):
        for changed in combinations(places, size):
            yield tuple(step if place in changed else 0 for place, step in enumerate(future))


def _lowered(
    futures: _Futures, reached: Sequence[Future], order: Sequence[int], goal: float
) -> list[Future]:
    """Return each future with every change in `order` as small as possible.

    Larger changes reach the goal, too, so that "or better" holds.
    """
    for place in order:
        ladders = {
            future: [_at(future, place, step) for step in range(1, futures.most[place] + 1)]
            for future in reached
            if future[place]
        }
        futures.grades([rung for ladder in ladders.values() for rung in ladder])
        lowered = (
            _least(ladders[future], futures, goal) if future in ladders else future
            for future in reached
        )
        reached = list(dict.fromkeys(future for future in lowered if future))
    higher = {
        future: [
            _at(future, place, step)
            for place, own in enumerate(future)
            if own
            for step in range(own, futures.most[place] + 1)
        ]
        for future in reached
    }
    futures.grades([other for higher_futures in higher.values() for other in higher_futures])
    return [future for future in reached if (futures.grades(higher[future]) >= goal).all()]


def _least(ladder: Sequence[Future], futures: _Futures, goal: float) -> Future | None:
    """Return the lowest rung from which on all reach the goal."""
    falls_short = np.flatnonzero(futures.grades(ladder) < goal)
    first = falls_short[-1] + 1 if len(falls_short) else 0
    return ladder[first] if first < len(ladder) else None


def _instead(futures: _Futures, chosen: Sequence[Future]) -> list[Future]:
    """Return futures with all levers at their maximum but one, which is two steps lower."""

    def without(lever: _Lever, step: int) -> Future:
        return tuple(
            max(step - 2, 0)
            if other is lever
            else top * set(lever.assignments).isdisjoint(other.assignments)
            for other, top in zip(futures.levers, futures.most, strict=True)
        )

    steps = (
        (lever, step)
        for future in chosen
        for lever, step in zip(futures.levers, future, strict=True)
    )
    return [without(lever, step) for lever, step in steps if step]


def _at(future: Future, place: int, step: int) -> Future:
    return (*future[:place], step, *future[place + 1 :])


def _undominated(futures: _Futures, reached: Sequence[Future]) -> list[Future]:
    """Return the futures that no other future undercuts in every demand; of equals the simplest."""
    demands = {future: futures.demands(future) for future in sorted(reached, key=np.count_nonzero)}
    kept: list[Future] = []
    for future, more in demands.items():
        less = (demands[other] for other in demands if other != future)
        easier = any((demand <= more).all() and (demand < more).any() for demand in less)
        if not easier and not any((demands[other] == more).all() for other in kept):
            kept.append(future)
    return kept


def _diverse(reached: Sequence[Future], most: Future) -> list[Future]:
    """Return up to `answers` different futures, the least changes first.

    Two futures differ if they use other levers, or one lever by two steps or more.
    """

    def effort(future: Future) -> tuple[int, float, Future]:
        shares = [step / top for step, top in zip(future, most, strict=True) if step]
        return len(shares), sum(shares), future

    def others(future: Future, chosen: Sequence[Future]) -> tuple[bool, bool]:
        same = [two for two in chosen if [bool(s) for s in future] == [bool(s) for s in two]]
        near = any(max(abs(a - b) for a, b in zip(future, two, strict=True)) < 2 for two in same)
        return bool(same), near

    ranked = sorted(reached, key=effort)
    chosen: list[Future] = []
    for may_repeat in (False, True):
        for future in ranked:
            same, near = others(future, chosen)
            if len(chosen) < SETTINGS.answers and not near and (may_repeat or not same):
                chosen.append(future)
    return sorted(chosen, key=effort)
