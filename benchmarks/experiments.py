"""How often an experiment promotes by chance or detects an effect, and how long both take.

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
import time
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

from grade_ml.core.process import peak_megabytes
from grade_ml.experiments.bounds import Spending, bounds, confidence_sequence
from grade_ml.experiments.comparison import (
    LEAST_UNITS,
    Evidence,
    Moments,
    adjust,
    paired,
    sample_ratio,
    split,
)
from grade_ml.experiments.safety import harmful
from grade_ml.experiments.segments import segments

OULAD = Path(__file__).resolve().parents[2] / "shared" / "data" / "oulad"
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
ALPHA = 0.05
#: Standard errors that a test without looks detects with 80%.
FIXED = 2.8016
#: The bound of a test without looks.
SINGLE = 1.9599
#: Courses of a student, and the share of the variance that lies between students.
COURSES, CORRELATION = 4, 0.6
#: The probability that a student who is at risk withdraws or fails though he or she is helped.
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
    """Return the share of experiments without a difference that promote, or claim either way."""
    kinds: dict[str, Callable[[int], Labels]] = {
        "looks84": partial(plain, looks=84),
        "looks720": partial(plain, looks=720),
        "clustered": partial(clustered, looks=84),
        "skewed": partial(skewed, courses=1),
        "clustered_skewed": partial(skewed, courses=COURSES),
    }
    rates_of = {name: rates(draw, arguments) for name, draw in kinds.items()}
    rates_of["open"] = rates(partial(plain, looks=84), arguments, planned=False)
    rates_of["open_skewed"] = rates(partial(skewed, courses=1), arguments, planned=False)
    return {
        "aa": {name: shares["better"] for name, shares in rates_of.items()},
        "aa_se": {name: shares["better_se"] for name, shares in rates_of.items()},
        "aa_either": {name: shares["claims"] for name, shares in rates_of.items()},
        "aa_either_se": {name: shares["claims_se"] for name, shares in rates_of.items()},
    }


def power(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return how often, and how early, an effect is detected that a fixed test detects with 80%."""
    rates_of = {
        name: rates(partial(plain, looks=looks, effect=FIXED), arguments, planned=planned)
        for name, looks, planned in (("84", 84, True), ("720", 720, True), ("open", 84, False))
    }
    return {
        "power": rates_of["84"]["better"],
        "power_se": rates_of["84"]["better_se"],
        "stop_share": rates_of["84"]["stop"],
        "stop_share_se": rates_of["84"]["stop_se"],
        "power_720": rates_of["720"]["better"],
        "stop_share_720": rates_of["720"]["stop"],
        "power_open": rates_of["open"]["better"],
    }


def harm(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return how often an experiment that withholds help is stopped, without and with harm."""
    shares: dict[str, float] = {}
    for name, withheld in (("false", LOST), ("stopped", 2 * LOST)):
        simulated = partial(stopped, lost=(withheld, LOST))
        with ProcessPoolExecutor(arguments.workers, get_context("spawn")) as workers:
            when = list(workers.map(simulated, range(arguments.simulations), chunksize=20))
        shares |= share(name, [day > 0 for day in when])
    return {"harm": shares | {"time": round(float(np.mean([day for day in when if day])), 3)}}


def stopped(seed: int, lost: tuple[float, float]) -> float:
    """Return when an experiment with 600 students and 20 looks is stopped, 0-1; 0: never.

    Parameters
    ----------
    lost
        The probability to withdraw or fail by the end, without help and with it.
    """
    generator = np.random.default_rng((seed, 20))
    withheld = pd.Series(np.arange(600) % 2 == 0)
    leaves = generator.random(600) < np.where(withheld, *lost)
    day = generator.random(600)
    times = np.arange(1, 21) / 20
    return next(
        (time for time in times if harmful(pd.Series(1.0 - (leaves & (day < time))), withheld)), 0.0
    )


def srm(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return how often the arms' sizes raise an alarm: as planned, and divided 48 to 52."""
    generator = np.random.default_rng(11)
    repeats = 20 * arguments.simulations

    def alarms(share_of_one: float, students: int) -> Iterable[float]:
        for first in generator.binomial(students, share_of_one, repeats):
            units = {"a": int(first), "b": int(students - first)}
            yield float(sample_ratio(units, {"a": 0.5, "b": 0.5}).mismatch)

    sound = share("aa", list(alarms(0.5, 10_000)))
    drawn = {size: share("one", list(alarms(0.48, size)))["one"] for size in (10_000, 20_000)}
    exact = sample_ratio({"a": 4800, "b": 5200}, {"a": 0.5, "b": 0.5})
    return {
        "srm": {**sound, "detect": float(exact.mismatch)},
        "srm_detect_drawn": {str(size): share_of_size for size, share_of_size in drawn.items()},
    }


def segment_fdr(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the share of false claims among the claimed segments of courses, phases and groups."""
    figures = np.array([_false_share(seed) for seed in range(arguments.simulations)])
    without_effects, with_effects, power_of = figures.T
    return {
        "segment_fdr": round(float(max(without_effects.mean(), with_effects.mean())), 4),
        **share("segment_fdr_without_effects", without_effects),
        **share("segment_fdr_with_effects", with_effects),
        **share("segment_found", power_of),
    }


def _false_share(seed: int) -> tuple[float, float, float]:
    generator = np.random.default_rng((seed, 5))
    students = np.repeat(np.arange(1200), 3)
    course = np.repeat(generator.integers(0, 12, 1200), 3)
    rows = pd.DataFrame(
        {
            "student": students,
            "course": course,
            "phase": np.tile(np.arange(3), 1200),
            "group": np.repeat(generator.integers(0, 4, 1200), 3),
            "value": alike(generator.exponential(size=(1200, 4)) - 1),
        }
    )

    def claimed(shift: Floats | float) -> list[tuple[str, str]]:
        moved = rows.assign(value=rows["value"] + shift)
        segmented = segments(moved, ["course", "phase", "group"], value="value", student="student")
        return [(row.kind, row.name) for row in segmented.rows if row.claimed]

    # Two courses gain what two others lose. What phases and groups then show is no false claim:
    # there the difference depends on who is in them.
    effects = np.where(course < 2, 0.7, np.where(course < 4, -0.7, 0.0))
    true = {("course", str(number)) for number in range(4)}
    claims = claimed(effects)
    wrong = [claim for claim in claims if claim[0] == "course" and claim not in true]
    sure = [claim for claim in claims if claim[0] == "course"]
    return (
        float(bool(claimed(0.0))),
        len(wrong) / max(len(sure), 1),
        len(true & set(claims)) / len(true),
    )


def cuped_gap(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return how far the variance that CUPED cuts lies from the squared correlation, at worst."""
    generator = np.random.default_rng(13)
    gaps, errors = [], []
    for squared in (0.36, 0.5, 0.64):
        cuts = []
        for _ in range(arguments.simulations):
            before = generator.normal(size=1000)
            noise = generator.normal(size=1000)
            after = np.sqrt(squared) * before + np.sqrt(1 - squared) * noise
            cuts.append(adjust(after, generator.random(1000) < 0.5, before).variance_cut)
        gaps.append(abs(float(np.mean(cuts)) - squared))
        errors.append(float(np.std(cuts)) / np.sqrt(len(cuts)))
    return {"cuped_gap": round(max(gaps), 4), "cuped_gap_se": round(max(errors), 4)}


def speed(_: argparse.Namespace) -> dict[str, Any]:
    """Return what 100 experiments of 100,000 students take in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        seconds, peak = pool.submit(_analysed).result()
    return {"seconds_100x100k": round(seconds, 1), "peak_mb": round(peak)}


def _analysed() -> tuple[float, float]:
    generator = np.random.default_rng(17)
    fractions = np.arange(1, 85) / 84
    spent = 0.0
    for number in range(100):
        students = 100_000
        rows = pd.DataFrame(
            {
                "student": generator.permutation(students),
                "course": generator.integers(0, 40, students).astype(str),
                "phase": generator.choice(["first", "middle", "last"], students),
                "group": generator.choice(["a", "b", "c", "d"], students),
                "before": generator.normal(60, 15, students),
                "value": generator.normal(60, 15, students),
                "treated": generator.random(students) < 0.5,
            }
        )
        since = time.perf_counter()
        if number % 2:
            comparison = split(rows["value"], rows["treated"], rows["before"])
            second = int(rows["treated"].sum())
            sample_ratio({"a": students - second, "b": second}, {"a": 0.5, "b": 0.5})
        else:
            comparison = paired(rows["before"], rows["value"])
        bounds(fractions, comparison.information * fractions, ALPHA, Spending.OBRIEN_FLEMING)
        segments(
            rows,
            ["course", "phase", "group"],
            value="value",
            student="student",
            treated="treated" if number % 2 else None,
        )
        spent += time.perf_counter() - since
    return spent, peak_megabytes()


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
        results = np.array(list(pool.map(run, range(arguments.simulations), chunksize=20)))
    better, worse, stop = results.T
    return {
        **share("claims", better + worse),
        **share("better", better),
        **share("stop", stop),
    }


def share(name: str, values: Iterable[float]) -> dict[str, float]:
    """Return a mean and its Monte-Carlo standard error."""
    sample = np.asarray(values, dtype=float)
    error = sample.std() / np.sqrt(sample.size)
    return {name: round(float(sample.mean()), 4), f"{name}_se": round(float(error), 4)}


def _outcome(seed: int, draw: Callable[[int], Labels], planned: bool) -> tuple[float, float, float]:
    with threadpool_limits(1):
        return outcome(draw(seed), planned)


def outcome(labels: Labels, planned: bool) -> tuple[float, float, float]:
    """Look at an experiment until it claims something: better, worse, and the share of labels."""
    # A look without new labels does not count.
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
    "srm": srm,
    "segment_fdr": segment_fdr,
    "cuped_gap": cuped_gap,
    "speed": speed,
}

if __name__ == "__main__":
    main()
