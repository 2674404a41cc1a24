"""How often an experiment promotes by chance, finds what is there, and how long both take.

Usage: `python benchmarks/experiments.py [--only PART,…] [--simulations 2000] [--workers 2]
[--oulad DIR] [--predictions DIR]`.
Simulated experiments go through the functions of the product look by look. Each share comes with
its Monte-Carlo standard error in a key of the same name that ends in `_se`. The last line is one
JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import replayed
from bandit import bandit
from threadpoolctl import threadpool_limits

from grade_ml.experiments.bounds import Spending, bounds, confidence_sequence
from grade_ml.experiments.comparison import LEAST_UNITS, Evidence, Moments
from grade_ml.experiments.safety import harmful

OULAD = Path(__file__).resolve().parents[2] / "shared" / "data" / "oulad"
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
ALPHA = 0.05
#: Standard errors that a test without looks finds with 80%.
FIXED = 2.8016
#: The bound of a test without looks.
SINGLE = 1.9599
#: Courses of a student, and the share of the variance that lies between students.
COURSES, CORRELATION = 4, 0.6
#: The chance that a student who is at risk withdraws or fails though he or she is helped.
LOST = 0.15
#: Days on which grades come in, of 84 looks.
BATCHES = 14


def main() -> None:
    """Measure and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--simulations", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--oulad", type=Path, default=OULAD)
    parser.add_argument("--predictions", type=Path, help="keeps the fits of the replay")
    arguments = parser.parse_args()
    figures: dict[str, Any] = {}
    for part in arguments.only.split(","):
        print(part, file=sys.stderr, flush=True)
        figures |= PARTS[part](arguments)
    print(json.dumps(figures))


@dataclass(frozen=True)
class Labels:
    """One experiment: whose label came at which look, and how much worse the treatment is."""

    student: Ints
    look: Ints
    difference: Floats


def aa(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the share of experiments without a difference that claim one, in either direction."""
    kinds: dict[str, Callable[[int], Labels]] = {
        "looks84": partial(plain, looks=84),
        "looks720": partial(plain, looks=720),
        "clustered": partial(clustered, looks=84),
        "skewed": partial(skewed, courses=1),
        "clustered_skewed": partial(skewed, courses=COURSES),
    }
    found = {name: rates(draw, arguments) for name, draw in kinds.items()}
    found["open"] = rates(partial(plain, looks=84), arguments, planned=False)
    found["open_skewed"] = rates(partial(skewed, courses=1), arguments, planned=False)
    return {
        "aa": {name: one["claims"] for name, one in found.items()},
        "aa_se": {name: one["claims_se"] for name, one in found.items()},
        "aa_promotions": {name: one["better"] for name, one in found.items()},
    }


def power(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return how often, and how early, what a fixed test finds with 80% is found."""
    found = {
        name: rates(partial(plain, looks=looks, effect=FIXED), arguments, planned=planned)
        for name, looks, planned in (("84", 84, True), ("720", 720, True), ("open", 84, False))
    }
    return {
        "power": found["84"]["better"],
        "power_se": found["84"]["better_se"],
        "stop_share": found["84"]["stop"],
        "stop_share_se": found["84"]["stop_se"],
        "power_720": found["720"]["better"],
        "stop_share_720": found["720"]["stop"],
        "power_open": found["open"]["better"],
    }


def harm(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return how often an experiment that withholds help is stopped, without harm and with it."""
    found: dict[str, float] = {}
    for name, withheld in (("false", LOST), ("stopped", 2 * LOST)):
        one = partial(stopped, lost=(withheld, LOST))
        with ProcessPoolExecutor(arguments.workers, get_context("spawn")) as workers:
            when = list(workers.map(one, range(arguments.simulations), chunksize=20))
        found |= share(name, [day > 0 for day in when])
    return {"harm": found | {"time": round(float(np.mean([day for day in when if day])), 3)}}


def stopped(seed: int, lost: tuple[float, float]) -> float:
    """Return when an experiment with 600 students and 20 looks is stopped, 0-1; 0: never.

    Parameters
    ----------
    lost
        The chance to withdraw or fail by the end, without help and with it.
    """
    generator = np.random.default_rng((seed, 20))
    withheld = pd.Series(np.arange(600) % 2 == 0)
    leaves = generator.random(600) < np.where(withheld, *lost)
    day = generator.random(600)
    times = np.arange(1, 21) / 20
    return next(
        (time for time in times if harmful(pd.Series(1.0 - (leaves & (day < time))), withheld)), 0.0
    )


def plain(seed: int, looks: int, effect: float = 0.0) -> Labels:
    """Draw normal differences, one of a student, as many at every look; negative is better."""
    generator = np.random.default_rng((seed, looks))
    students = looks * max(1008 // looks, 2)
    look = generator.permutation(np.arange(students) % looks)
    shift = -effect / np.sqrt(students)
    return Labels(np.arange(students), look, generator.normal(shift, size=students))


def clustered(seed: int, looks: int) -> Labels:
    """Draw four courses of a student whose differences are alike, each with a label in its time."""
    generator = np.random.default_rng((seed, looks, 1))
    student = np.repeat(np.arange(300), COURSES)
    look = generator.integers(0, looks, student.size)
    return Labels(student, look, alike(generator.normal(size=(300, COURSES + 1))))


def skewed(seed: int, courses: int) -> Labels:
    """Draw squared errors of the same mean, one version's errors skewed, graded in batches."""
    generator = np.random.default_rng((seed, courses, 2))
    students = 1000 // courses
    shape = (students, courses + 1)
    control, strange = generator.normal(size=shape), generator.exponential(size=shape) - 1
    before, apart = alike(control), alike(strange)
    after = 0.8 * before + 0.6 * apart
    batches = np.sort(generator.choice(84, BATCHES, replace=False))
    sizes = generator.dirichlet(np.full(BATCHES, 2.0))
    look = batches[generator.choice(BATCHES, before.size, p=sizes)]
    return Labels(np.repeat(np.arange(students), courses), look, after**2 - before**2)


def alike(draws: Floats) -> Floats:
    """Return one value for each student and course: the first of a row of draws is shared."""
    if draws.shape[1] == 2:
        return draws[:, 1]
    own, rest = draws[:, :1], draws[:, 1:]
    return (np.sqrt(CORRELATION) * own + np.sqrt(1 - CORRELATION) * rest).ravel()


def rates(
    draw: Callable[[int], Labels], arguments: argparse.Namespace, planned: bool = True
) -> dict[str, float]:
    """Return the shares of experiments that claim, that promote, and where they stop."""
    run = partial(_outcome, draw=draw, planned=planned)
    with ProcessPoolExecutor(arguments.workers, mp_context=get_context("spawn")) as pool:
        found = np.array(list(pool.map(run, range(arguments.simulations), chunksize=20)))
    better, worse, stop = found.T
    return {
        **share("claims", better + worse),
        **share("better", better),
        **share("stop", stop),
    }


def share(name: str, values: Iterable[float]) -> dict[str, float]:
    """Return a mean and its Monte-Carlo standard error."""
    found = np.asarray(values, dtype=float)
    error = found.std() / np.sqrt(found.size)
    return {name: round(float(found.mean()), 4), f"{name}_se": round(float(error), 4)}


def _outcome(seed: int, draw: Callable[[int], Labels], planned: bool) -> tuple[float, float, float]:
    with threadpool_limits(1):
        return outcome(draw(seed), planned)


def outcome(labels: Labels, planned: bool) -> tuple[float, float, float]:
    """Look at an experiment until it claims something: better, worse, and the share of labels."""
    # A look without new labels is none.
    looks, place = np.unique(labels.look, return_inverse=True)
    shape = labels.student.max() + 1, looks.size
    counts, sums = np.zeros(shape), np.zeros(shape)
    np.add.at(counts, (labels.student, place), 1)
    np.add.at(sums, (labels.student, place), labels.difference)
    counts, sums = np.cumsum(counts, axis=1), np.cumsum(sums, axis=1)
    # One value per student: the mean of the labels so far.
    values = sums / np.maximum(counts, 1)
    units = (counts > 0).sum(axis=0).astype(float)
    evidence = Evidence.of(
        Moments.of_sums(units, *(np.sum(values**power, axis=0) for power in (1, 2, 3)))
    )
    z = evidence.z
    with np.errstate(divide="ignore", invalid="ignore"):
        known = (units >= LEAST_UNITS) & np.isfinite(z)
        information = np.where(known, 1 / evidence.standard_error**2, np.nan)
    fractions = counts.sum(axis=0) / labels.student.size
    if not np.any(np.abs(z[known]) > SINGLE):
        return 0.0, 0.0, 1.0  # no bound is lower, so none need be computed
    limits = (
        bounds(fractions, information, ALPHA, Spending.OBRIEN_FLEMING)
        if planned
        else confidence_sequence(units, information, units[-1], ALPHA, LEAST_UNITS)
    )
    beyond = np.flatnonzero(np.abs(z) > limits)
    if not beyond.size:
        return 0.0, 0.0, 1.0
    first = beyond[0]
    return float(z[first] < 0), float(z[first] > 0), float(fractions[first])


PARTS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "aa": aa,
    "power": power,
    "by_chance": replayed.by_chance,
    "rollback": replayed.rollback,
    "oulad_replay": replayed.oulad_replay,
    "bandit": bandit,
    "harm": harm,
}

if __name__ == "__main__":
    main()
