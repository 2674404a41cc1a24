"""The parts of `drift.py` about streams and the loop: what is missed, what is invented, how late.

Nothing is run from here; `python benchmarks/drift.py --only streams,loop` does.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import date, timedelta
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd
from river.datasets import Elec2, synth
from river.drift import ADWIN, PageHinkley
from river.naive_bayes import GaussianNB

from grade_ml.ensemble import baseline
from grade_ml.ensemble.baseline import BaselineModel
from grade_ml.ensemble.rows import hashes
from grade_ml.ensemble.training import finished
from grade_ml.features.snapshots import grade_snapshots, weekly_cuts
from grade_ml.gradebook import simulated
from grade_ml.gradebook.frames import Gradebook
from grade_ml.gradebook.outcomes import is_exam, scored_on
from grade_ml.gradebook.simulated.calendar import LENGTH, newest_term
from grade_ml.monitoring import concept

#: Rows: what a detector learns from, stable ones on which an alarm is false, and changed ones.
BEFORE, STABLE, CHANGED = 1000, 1000, 1000
EVERY = 500

Values = np.ndarray[Any, np.dtype[np.float64]]
Alarms = Callable[[Values], Iterator[int]]


def _ours(values: Values) -> Iterator[int]:
    """Yield the alarms as `concept` raises them: a row of its stream is the mean of some errors."""
    size = concept.SETTINGS.batch
    whole = len(values) // size * size
    means = values[:whole].reshape(-1, size).mean(axis=1) * np.sqrt(size)
    places = {place for make in concept.detectors().values() for place in _alone(make, means)}
    yield from sorted(size * (place + 1) - 1 for place in places)


def _alone(make: Callable[[], Any], values: Values) -> Iterator[int]:
    return concept.replay(make(), values)


def _every(values: Values) -> Iterator[int]:
    return iter(range(EVERY, len(values), EVERY))


def _beside() -> dict[str, Alarms]:
    return {
        "ours": _ours,
        "river ADWIN": lambda values: _alone(ADWIN, values),
        "river Page-Hinkley": lambda values: _alone(PageHinkley, values),
        f"every {EVERY} rows": _every,
    }


def streams(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return false alarms per stream of 1,000 stable rows, misses, and the median delay in rows.

    The rows of SEA, Agrawal and Hyperplane are the errors of a naive Bayes classifier that learned
    from 1,000 rows before. They are read in standard deviations of the next 1,000.
    """
    makers: dict[str, Callable[[int], Values]] = {"normal": _normal, **_errors_of_streams()}
    found: dict[str, dict[str, Any]] = {}
    for name, make in makers.items():
        samples = [make(seed) for seed in range(arguments.seeds)]
        found[name] = {one: _judge(alarms, samples) for one, alarms in _beside().items()}
    return {
        "streams": {name: one["ours"] for name, one in found.items()},
        "streams_beside": found,
        **_elec2(),
    }


def _judge(alarms: Alarms, samples: list[Values]) -> dict[str, float | None]:
    false, delays = 0, []
    change = BEFORE + STABLE
    for values in samples:
        places = list(alarms(values))
        false += any(BEFORE <= place < change for place in places)
        delays.append(min((place - change for place in places if place >= change), default=np.inf))
    share = false / len(samples)
    known = np.isfinite(delays)
    return {
        "false_alarm": round(share, 3),
        "false_alarm_se": round(float(np.sqrt(share * (1 - share) / len(samples))), 3),
        "miss": round(1 - float(known.mean()), 3),
        "delay": float(np.median(np.array(delays)[known])) if known.any() else None,
    }


def _normal(seed: int) -> Values:
    values = np.random.default_rng(seed).standard_normal(BEFORE + STABLE + CHANGED)
    values[BEFORE + STABLE :] += 0.5
    return values


def _errors_of_streams() -> dict[str, Callable[[int], Values]]:
    def changing(make: Callable[[int, bool], Any]) -> Callable[[int], Values]:
        def errors(seed: int) -> Values:
            before = make(seed, False).take(2 * BEFORE + STABLE)
            return _errors([*before, *make(seed, True).take(CHANGED)], BEFORE)

        return errors

    return {
        "SEA": changing(
            lambda seed, new: synth.SEA(variant=2 if new else 0, seed=seed + 999 * new)
        ),
        "Agrawal": changing(
            lambda seed, new: synth.Agrawal(
                classification_function=3 if new else 0, seed=seed + 999 * new
            )
        ),
        "Hyperplane": changing(
            lambda seed, new: synth.Hyperplane(seed=seed + 999 * new, n_features=5)
        ),
    }


def _errors(rows: list[Any], learned: int) -> Values:
    """Return the standardised errors of a model that learned from the first rows only."""
    model = GaussianNB()
    for features, label in rows[:learned]:
        model.learn_one(features, label)
    wrong = np.array(
        [float(model.predict_one(features) != label) for features, label in rows[learned:]]
    )
    known = wrong[:BEFORE]
    return np.asarray((wrong - known.mean()) / max(known.std(), 1e-9))


def _elec2() -> dict[str, Any]:
    """Return alarms per 1,000 rows of Elec2, of which nobody knows where it changes."""
    try:
        values = _errors(list(islice(Elec2(), 20_000)), BEFORE)
    except Exception as error:  # it is fetched from its author's site
        return {"elec2": f"not measured: {type(error).__name__}"}
    return {
        "elec2": {
            name: round(1000 * sum(1 for _ in alarms(values)) / len(values), 2)
            for name, alarms in _beside().items()
        }
    }


@dataclass(frozen=True)
class Seen:
    """What the loop did on one campus: weeks from the change to each alarm of all courses."""

    weeks: list[float]
    rows: int
    running: pd.DataFrame
    outcomes: pd.DataFrame


#: The newest term; the model is trained in its seventh week and grading changes in its twelfth.
TERM = newest_term(date(2025, 11, 1))
TRAINED = TERM.starts_on + timedelta(days=49)
CHANGE = TERM.starts_on + timedelta(days=80)
ENDED = TERM.starts_on + timedelta(days=LENGTH + 1)
SHIFT = -15.0


def _campus(seed: int, students: int, courses: int, on: date | None) -> simulated.CampusConfig:
    drift = simulated.Drift(on, simulated.DriftKind.GRADING_POLICY, SHIFT) if on else None
    return simulated.CampusConfig(
        students=students, courses=courses, terms=5, seed=seed, drift=drift
    )


def _model(config: simulated.CampusConfig) -> BaselineModel:
    gradebook = simulated.gradebook(config, TRAINED)
    cuts = weekly_cuts(gradebook.sections, TRAINED)
    some = cuts[cuts["cut_day"] % 28 == 0]
    rows = grade_snapshots(gradebook, some, TRAINED)
    return baseline.fit(rows, finished(gradebook, TRAINED), seed=0)


def _told(model: BaselineModel, rows: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "section_id": rows["section_id"].astype(str),
            "student": hashes(rows["student_id"]).to_numpy(),
            "on": rows["cut_on"],
            "grade": model.predict(rows)["grade"].to_numpy(),
            "collected": rows["grade_if_nothing_more"].fillna(0.0),
            "weight_remaining": rows["weight_remaining"],
        }
    )


def _scores(gradebook: Gradebook) -> pd.DataFrame:
    rows = gradebook.results.merge(
        gradebook.assignments[["assignment_id", "section_id", "category", "due_on"]],
        on="assignment_id",
    ).merge(gradebook.sections, on="section_id")
    rows["scored_on"] = scored_on(rows)
    rows = rows[rows["scored_on"].notna() & ~is_exam(rows["category"])]
    return rows.assign(student=hashes(rows["student_id"]).to_numpy()).astype(
        dict.fromkeys(["section_id", "course_id", "assignment_id", "category"], str)
    )


def _watch(config: simulated.CampusConfig, model: BaselineModel) -> Seen:
    """Replay a term: what the detectors of all courses together would have said, and when."""
    gradebook = simulated.gradebook(config, ENDED)
    cuts = weekly_cuts(gradebook.sections, ENDED)
    snapshots = grade_snapshots(gradebook, cuts[cuts["cut_day"] % 14 == 0], ENDED)
    start = snapshots["section_id"].map(gradebook.sections.set_index("section_id")["starts_on"])
    is_new = start.astype("datetime64[ns]") == pd.Timestamp(TERM.starts_on)
    scores = _scores(gradebook)
    ended = gradebook.sections.loc[
        gradebook.sections["ends_on"] < pd.Timestamp(TRAINED), "section_id"
    ]
    past = snapshots[snapshots["section_id"].astype(str).isin(ended)].reset_index(drop=True)
    running = snapshots[is_new].reset_index(drop=True)
    before = concept.events(scores, _told(model, past))
    since = concept.events(scores, _told(model, running))
    reference, rows = [], []
    for course, some in before.groupby("course_id"):
        expectation = concept.learn(some)
        if expectation:
            reference.append(concept.stream(some, expectation, None))
            rows.append(concept.stream(since[since["course_id"] == course], expectation, None))
    if not reference:
        return Seen([], 0, running, finished(gradebook, ENDED))
    both = [
        pd.concat(one).sort_values(concept.STREAM[:3], ignore_index=True)
        for one in (reference, rows)
    ]
    alarms = concept.alarms(both[0]["z"], both[1])
    weeks = [(one.on - CHANGE).days / 7 for one in alarms]
    return Seen(weeks, len(both[1]), running, finished(gradebook, ENDED))


def _rmse(model: BaselineModel, seen: Seen, week: float) -> float:
    """Return the error from two weeks after the alarm to the end."""
    rows = seen.running
    late = rows["cut_on"] >= pd.Timestamp(CHANGE) + pd.Timedelta(weeks=week + 2)
    told = model.predict(rows[late].reset_index(drop=True))
    keys = ["section_id", "student_id"]
    both = told.astype(dict.fromkeys(keys, str)).merge(
        seen.outcomes.astype(dict.fromkeys(keys, str)), on=keys
    )
    return float(np.sqrt(((both["grade"] - both["final_grade"]) ** 2).mean()))


def loop(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return how soon a change of grading is seen on simulated campuses, and what is invented.

    One model, trained on a campus of its own, predicts all of them, so that every campus is new to
    it. A campus without a change asks for training if any alarm is raised in its term.
    """
    students, courses = arguments.students, arguments.courses
    model = _model(_campus(10_000, students, courses, None))
    informed = _model(_campus(10_000, students, courses, date(2000, 1, 1)))
    weeks, early, ratios, retrainings, invented = [], 0, [], [], 0
    for seed in range(arguments.changed):
        seen = _watch(_campus(seed, students, courses, CHANGE), model)
        after = [week for week in seen.weeks if week >= 0]
        early += len(after) < len(seen.weeks)
        weeks.append(min(after, default=np.inf))
        # Alarms within four weeks of one that was acted on ask for nothing (the cooldown).
        acted: list[float] = []
        for week in after:
            if not acted or week >= acted[-1] + 4:
                acted.append(week)
        retrainings.append(len(acted))
        if after:
            ratios.append(_rmse(model, seen, after[0]) / _rmse(informed, seen, after[0]))
        print("changed", seed, seen.rows, seen.weeks, ratios[-1:], file=sys.stderr, flush=True)
    for seed in range(arguments.seeds):
        seen = _watch(replace(_campus(seed, students, courses, None)), model)
        invented += bool(seen.weeks)
        print("same", seed, seen.rows, seen.weeks, file=sys.stderr, flush=True)
    share = invented / arguments.seeds
    return {
        "loop": {
            "weeks_to_alarm": float(np.median(weeks)),
            "weeks_of_each": [round(one, 1) for one in weeks],
            "false_before_change": early,
            "retrainings": float(np.median(retrainings)),
            "error_ratio": round(float(np.median(ratios)), 3) if ratios else None,
            "false_retrain_share": share,
            "false_retrain_share_se": round(
                float(np.sqrt(share * (1 - share) / arguments.seeds)), 3
            ),
        }
    }
