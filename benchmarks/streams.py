"""The part of `drift.py` about streams: missed changes, false alarms, delays.

Nothing is run from here; `python benchmarks/drift.py --only streams` does.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import numpy as np
from river.datasets import Elec2, synth
from river.drift import ADWIN, PageHinkley
from river.naive_bayes import GaussianNB

from grade_ml.monitoring import concept

#: Rows: what a detector learns from, stable rows on which an alarm is false, and changed rows.
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
    by_stream: dict[str, dict[str, Any]] = {}
    for name, make in makers.items():
        samples = [make(seed) for seed in range(arguments.seeds)]
        by_stream[name] = {
            detector: _judge(alarms, samples) for detector, alarms in _beside().items()
        }
    return {
        "streams": {name: figures["ours"] for name, figures in by_stream.items()},
        "streams_beside": by_stream,
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
    """Return alarms per 1,000 rows of Elec2, whose changes are unknown."""
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
