"""What would bring a student's forecast to a goal: things still to be done, and nothing else.

DiCE (Mothilal, Sharma & Tan 2020) proposes; the model that serves decides. What may change is what
the student does in the days to come, so ids, attributes, the past and the class cannot; each
proposal becomes records, and these the features of a later day (`features.continuations`). Whether
the goal is within reach at all is asked first, of the best that the course's data call plausible,
so no search runs in vain. Every answer is predicted again, reduced to the changes that it needs,
and lowered as far as it holds.
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
from grade_ml.core.optional import family
from grade_ml.ensemble.rows import Model
from grade_ml.explanations.messages import catalogue, languages
from grade_ml.features.continuations import CYCLE, Continuation, Doing, OpenAssignment

Floats = npt.NDArray[np.float64]
Steps = npt.NDArray[np.int64]
Future = tuple[int, ...]


@dataclass(frozen=True)
class CounterfactualSettings:
    """The judgements of what-ifs, each with its reason."""

    #: First the near future is tried: what is due in a year is no plan.
    near_assignments: int = 3
    #: Levers for the scores of some assignments, in order of date, beside the one for all of them;
    #: more are no advice.
    blocks: int = 3
    #: Points between scores that are told apart.
    score_step: float = 5.0
    #: Days in four weeks between levels of activity.
    days_step: float = 2.0
    #: Plausible is what the best hundredth of scores, the most active tenth of the class reach.
    score_quantile: float = 0.99
    activity_quantile: float = 0.9
    #: Days after the last due date at which the forecast is asked for: late work is in by then.
    grace_days: int = 7
    #: What DiCE draws at once, and how many of its proposals are looked at.
    sample: int = 120
    proposals: int = 30
    #: How many answers are given, below how many more are looked for, and more changes than these
    #: are no answer.
    answers: int = 4
    least_answers: int = 3
    changes: int = 3


SETTINGS = CounterfactualSettings()


class Status(StrEnum):
    """What became of a goal."""

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
    """One thing that is done otherwise.

    Attributes
    ----------
    to
        The least score on each of the assignments (0-100), or days with activity in four weeks.
    before
        The same if the student goes on as so far; NaN: something is not handed in.
    assignments
        Their assignment ids; empty: it concerns all of them.
    first, last
        The due dates of the first and the last of them.
    message
        How it is told.
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
    """Changes that reach the goal, and what the model predicts of them (points; 0-1)."""

    changes: tuple[Change, ...]
    grade: float
    risk: float


@dataclass(frozen=True)
class Answer:
    """What is said of a goal.

    Attributes
    ----------
    now
        The forecast of today, points.
    as_so_far, best
        The forecasts of the day `until` if the student goes on as so far, and if everything goes
        as well as is plausible; NaN: there is nothing to be done.
    what_ifs
        The least changes first.
    degraded
        Why there is less to tell than there could be; empty: there is not.
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
        """Return the answer as JSON-ready values, with its words in every language."""
        numbers = {name: getattr(self, name) for name in ("goal", "now", "as_so_far", "best")}
        return {
            "status": str(self.status),
            "until": None if self.until is None else self.until.isoformat(),
            **{name: None if math.isnan(value) else value for name, value in numbers.items()},
            "what_ifs": [
                {
                    "grade": one.grade,
                    "risk": one.risk,
                    "changes": [
                        {
                            "kind": str(change.kind),
                            "to": change.to,
                            "assignments": list(change.assignments),
                        }
                        for change in one.changes
                    ],
                }
                for one in self.what_ifs
            ],
            "words": {language: self.in_words(language) for language in languages()},
            "degraded": list(self.degraded),
        }

    def in_words(self, language: str) -> list[str]:
        """Return a sentence for each what-if, or one that says why there is none."""
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
        for one in self.what_ifs:
            told = words.messages["what_if"]["also"].text.join(
                words.write("what_if", change.message, _slots(change)) for change in one.changes
            )
            sentence = words.write(
                "what_if", Status.REACHED, {**slots, "changes": told, "grade": one.grade}
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
    """Return the least of the goals (rising) above a forecast in points; None: there is none.

    >>> next_goal(41.3, (40.0, 55.0)), next_goal(91.0, (40.0, 55.0))
    (55.0, None)
    """
    return next((goal for goal in goals if goal > grade), None)


def what_ifs(  # noqa: PLR0913
    model: Model,
    carried: Continuation,
    today: pd.DataFrame,
    goal: float,
    seed: int,
    *,
    now: float | None = None,
) -> Answer:
    """Return what would bring the forecast to `goal`, or that nothing would.

    Parameters
    ----------
    model
        Decides what each future is worth.
    carried
        The student's section, carried on from the day of `today`.
    today
        The student's snapshot, one row, with all columns that `model` reads.
    goal
        Points, 0-100.
    seed
        Of DiCE's draws; the same seed gives the same answer.
    now
        What `model` predicts of `today`, points, where it has been asked already.

    Raises
    ------
    ConfigurationError
        The goal is not between 0 and 100.
    NotFoundError
        The student was not enrolled in the section on that day.
    """
    if not 0 <= goal <= 100:
        raise ConfigurationError(
            f"A final grade of {goal:g} is no goal.", "Name one between 0 and 100 points."
        )
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
    """What can be changed, by steps: 0 is as so far, then each of `values` in turn."""

    kind: Kind
    values: tuple[float, ...]
    before: float
    assignments: tuple[OpenAssignment, ...]
    message: str

    def change(self, step: int) -> Change:
        ids = tuple(one.assignment_id for one in self.assignments)
        due: Sequence[date | None] = [one.due_on for one in self.assignments] or [None]
        value = self.values[step - 1]
        return Change(self.kind, value, self.before, ids, due[0], due[-1], self.message)


class _Futures:
    """What one student could do until a day, and what the model makes of it.

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
        self.levers = tuple(one for one in self._found_levers(left) if one.values)
        self.most = tuple(len(one.values) for one in self.levers)
        self._known: dict[Future, tuple[float, float]] = {}

    def _found_levers(self, left: int) -> Iterator[_Lever]:
        known = self._carried.scores[~np.isnan(self._carried.scores)]
        top = float(np.quantile(known, SETTINGS.score_quantile)) if known.size else 100.0
        blocks = np.array_split(np.arange(len(self._assignments)), SETTINGS.blocks)
        whole = [np.arange(len(self._assignments))] if len(self._assignments) > 1 else []
        for places in [*filter(len, blocks), *whole]:
            some = tuple(self._assignments[place] for place in places)
            least = min(0.0 if math.isnan(one.score) else one.score for one in some)
            missing = any(math.isnan(one.score) for one in some)
            values = _grid(least, top, SETTINGS.score_step)
            message = _about(places, left)
            yield _Lever(Kind.SCORE, values, math.nan if missing else least, some, message)
        if any(one.days_late > 0 for one in self._assignments):
            yield _Lever(Kind.ON_TIME, (1.0,), 0.0, (), "on_time")
        own, everyone = self._carried.active_days(str(self._today["student_id"].iloc[0]))
        if not math.isnan(own):
            most = min(float(np.quantile(everyone, SETTINGS.activity_quantile)), CYCLE)
            values = _grid(own, most, SETTINGS.days_step)
            yield _Lever(Kind.ACTIVE_DAYS, values, own, (), "active_days")

    def grades(self, futures: Sequence[Future]) -> Floats:
        """Return what the model forecasts of each, in points; none is asked for twice."""
        new = [one for one in dict.fromkeys(futures) if one not in self._known]
        if new:
            rows = self._carried.snapshots(self._today, self._doing(np.array(new)), self.until)
            predicted = self._model.predict(rows)[["grade", "risk"]].to_numpy(np.float64)
            self._known.update(zip(new, map(tuple, predicted.tolist()), strict=True))
        return np.array([self._known[one][0] for one in futures])

    def _doing(self, steps: Steps) -> Doing:
        number = len(steps)
        scores = np.tile([one.score for one in self._assignments], (number, 1))
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

    def asked(self, future: Future) -> Floats:
        """Return how much a future asks for, number by number: more is harder."""
        doing = self._doing(np.array([future]))
        numbers = np.concatenate([doing.scores[0], doing.on_time, doing.active_days])
        return np.asarray(np.nan_to_num(numbers, nan=-1.0))

    def what_if(self, future: Future) -> WhatIf:
        """Return a future that has been judged, in words and numbers."""
        changes = (
            lever.change(step) for lever, step in zip(self.levers, future, strict=True) if step
        )
        return WhatIf(tuple(changes), *self._known[future])


def _about(places: npt.NDArray[np.intp], left: int) -> str:
    """Return how a change of the scores of some of the assignments that are left is told."""
    if len(places) == 1:
        return "score_one"
    if len(places) == left:
        return "score_both" if left == 2 else "score_all"
    return "score_last" if places[-1] == left - 1 else "score_some"


def _grid(above: float, top: float, step: float) -> tuple[float, ...]:
    """Return the multiples of `step` that lie above the one number and not above the other.

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
    found = _lowered(futures, needed, places, goal)
    chosen = _diverse(_undominated(futures, found), futures.most)
    if len(chosen) < SETTINGS.least_answers:
        # What is lowered last stays high: the other way round, the effort lies elsewhere.
        needed += _needed(futures, _instead(futures, chosen), goal)
        found += _lowered(futures, needed, places[::-1], goal)
        chosen = _diverse(_undominated(futures, found), futures.most)
    return replace(
        answer,
        status=Status.REACHED if chosen else Status.NOT_FOUND,
        what_ifs=tuple(map(futures.what_if, chosen)),
        degraded=(_WITHOUT_DICE,) if missing else (),
    )


EXPLAIN = family("explain")
_WITHOUT_DICE = "dice_ml is not installed (extra explain); fewer kinds of change were tried"


def _corners(most: Future) -> list[Future]:
    """Return the futures in which one lever or two go all the way."""
    places = [place for place, top in enumerate(most) if top]
    return [
        tuple(top if place in some else 0 for place, top in enumerate(most))
        for size in (1, 2)
        for some in combinations(places, size)
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
            found = dice_ml.Dice(data, model, method="random").generate_counterfactuals(
                ends.iloc[[0]],
                total_CFs=SETTINGS.proposals,
                desired_range=[goal, 100.0],
                sample_size=SETTINGS.sample,
                # It asks for one row at a time; `_needed` and `_lowered` do the same at once.
                posthoc_sparsity_param=None,
                random_seed=seed,
            )
        except UserConfigValidationException as error:
            if "No counterfactuals found" in str(error):
                return []
            raise
    steps = found.cf_examples_list[0].final_cfs_df[names].astype(float).round().astype(int)
    return list(steps.itertuples(index=False, name=None))


@contextlib.contextmanager
def _quiet_and_seeded() -> Iterator[None]:
    """Keep DiCE's bars and prints away, and its seed from the generators that others share."""
    shared = np.random.get_state(), random.getstate()
    silence = io.StringIO()
    try:
        with contextlib.redirect_stdout(silence), contextlib.redirect_stderr(silence):
            yield
    finally:
        np.random.set_state(shared[0])
        random.setstate(shared[1])


def _needed(futures: _Futures, proposals: Sequence[Future], goal: float) -> list[Future]:
    """Return the least part of each proposal that still reaches the goal, where it is small."""
    parts = {one: list(_parts(one)) for one in proposals}
    every = list(dict.fromkeys(part for some in parts.values() for part in some))
    reached = dict(zip(every, futures.grades(every) >= goal, strict=True))
    firsts = (next((part for part in some if reached[part]), None) for some in parts.values())
    return list(dict.fromkeys(first for first in firsts if first))


def _parts(future: Future) -> Iterator[Future]:
    """Yield what is left if only some changes are made, few first."""
    places = [place for place, step in enumerate(future) if step]
    for size in range(1, SETTINGS.changes + 1):
        for some in combinations(places, size):
            yield tuple(step if place in some else 0 for place, step in enumerate(future))


def _lowered(
    futures: _Futures, found: Sequence[Future], order: Sequence[int], goal: float
) -> list[Future]:
    """Return each with every change in `order` as small as it can be, so that "or better" holds."""
    for place in order:
        ladders = {
            one: [_at(one, place, step) for step in range(1, futures.most[place] + 1)]
            for one in found
            if one[place]
        }
        futures.grades([rung for ladder in ladders.values() for rung in ladder])
        lowered = (_least(ladders[one], futures, goal) if one in ladders else one for one in found)
        found = list(dict.fromkeys(one for one in lowered if one))
    higher = {
        one: [
            _at(one, place, step)
            for place, own in enumerate(one)
            if own
            for step in range(own, futures.most[place] + 1)
        ]
        for one in found
    }
    futures.grades([other for others in higher.values() for other in others])
    return [one for one in found if (futures.grades(higher[one]) >= goal).all()]


def _least(ladder: Sequence[Future], futures: _Futures, goal: float) -> Future | None:
    """Return the lowest rung from which on all reach the goal."""
    falls_short = np.flatnonzero(futures.grades(ladder) < goal)
    first = falls_short[-1] + 1 if len(falls_short) else 0
    return ladder[first] if first < len(ladder) else None


def _instead(futures: _Futures, found: Sequence[Future]) -> list[Future]:
    """Return those in which all goes all the way but one thing, two steps below a found one."""

    def without(lever: _Lever, step: int) -> Future:
        return tuple(
            max(step - 2, 0)
            if other is lever
            else top * set(lever.assignments).isdisjoint(other.assignments)
            for other, top in zip(futures.levers, futures.most, strict=True)
        )

    steps = (
        (lever, step) for one in found for lever, step in zip(futures.levers, one, strict=True)
    )
    return [without(lever, step) for lever, step in steps if step]


def _at(future: Future, place: int, step: int) -> Future:
    return (*future[:place], step, *future[place + 1 :])


def _undominated(futures: _Futures, found: Sequence[Future]) -> list[Future]:
    """Return those that ask for something that no other one spares; of equals the simplest."""
    asked = {one: futures.asked(one) for one in sorted(found, key=np.count_nonzero)}
    kept: list[Future] = []
    for one, more in asked.items():
        less = (asked[other] for other in asked if other != one)
        easier = any((some <= more).all() and (some < more).any() for some in less)
        if not easier and not any((asked[other] == more).all() for other in kept):
            kept.append(one)
    return kept


def _diverse(found: Sequence[Future], most: Future) -> list[Future]:
    """Return up to `answers` of them that differ, the least changes first.

    Two differ if they change other things, or one thing by two steps or more.
    """

    def effort(one: Future) -> tuple[int, float, Future]:
        shares = [step / top for step, top in zip(one, most, strict=True) if step]
        return len(shares), sum(shares), one

    def others(one: Future, chosen: Sequence[Future]) -> tuple[bool, bool]:
        same = [two for two in chosen if [bool(s) for s in one] == [bool(s) for s in two]]
        near = any(max(abs(a - b) for a, b in zip(one, two, strict=True)) < 2 for two in same)
        return bool(same), near

    ranked = sorted(found, key=effort)
    chosen: list[Future] = []
    for may_repeat in (False, True):
        for one in ranked:
            same, near = others(one, chosen)
            if len(chosen) < SETTINGS.answers and not near and (may_repeat or not same):
                chosen.append(one)
    return sorted(chosen, key=effort)
