"""Concept drift: whether scores still follow from predictions as they did in the training terms.

A final grade is known only when a term ends; scores come all along. Each prediction implies what
the work still to come will earn on average; the difference between a score and that is an error
whose truth has arrived. Scores of one assignment share its difficulty, so the row of a stream is
one assignment of one section: the standardised mean of its first errors. ADWIN and Page-Hinkley
read the rows of the training terms first, then those that matured since.

Nothing is kept of a detector: it is replayed from the rows, which are stored (see `store`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ConceptSettings:
    """The judgements of concept drift, each with its reason."""

    #: Of an assignment of a section. Its own difficulty is some half of the spread of one score:
    #: more scores hardly sharpen the mean, and waiting for them costs weeks.
    batch: int = 15
    #: Fewer first scores than this say too little.
    least: int = 5
    #: Days after which an assignment of a small section counts with the scores it has.
    patience: int = 14
    #: A prediction older than this many days says nothing about a score.
    oldest_prediction: int = 35
    #: Rows of the training terms without which nothing can be said.
    least_rows: int = 8
    #: Half of the smallest shift to find, in standard deviations, and the sum that raises an alarm:
    #: a false alarm once in some 25,000 rows, half a standard deviation found after some 90.
    page_hinkley_delta: float = 0.5
    page_hinkley_threshold: float = 9.0
    #: river's own default.
    adwin_delta: float = 0.002
    #: An alarm is news for so many days.
    news_days: int = 28
    #: How clearly a course has to go along with an alarm of all courses: one-sided 5%.
    agreement: float = 1.645


SETTINGS = ConceptSettings()

#: Columns of a stream: one row per assignment of a section, in order.
STREAM = ["matured_on", "section_id", "assignment_id", "scores", "error", "z"]


@dataclass(frozen=True)
class Expectation:
    """What a score is expected to be, learned from one course's training terms.

    The expected score is `slope` · implied score + the `level` of its category, else of all;
    `spread` is the standard deviation of one error, `between` that of assignments' own difficulty;
    all in points.
    """

    slope: float
    levels: Mapping[str, float]
    level: float
    spread: float
    between: float

    def errors(self, events: pd.DataFrame) -> Floats:
        """Return score minus expectation per event."""
        level = events["category"].map(dict(self.levels)).fillna(self.level)
        expected = level.astype("float64") + self.slope * events["implied"]
        return np.asarray(events["score"] - expected, dtype=np.float64)


@dataclass(frozen=True)
class Alarm:
    """A detector's alarm: its name, the row's date, and whether scores went up or down."""

    detector: str
    on: date
    direction: int


def events(scores: pd.DataFrame, predictions: pd.DataFrame) -> pd.DataFrame:
    """Return each score beside what the newest prediction before it implied.

    Parameters
    ----------
    scores
        section_id, student, assignment_id, category, score (0-100), scored_on.
    predictions
        section_id, student, on (the day it was made), grade, collected and weight_remaining
        (points of the final grade).

    Returns
    -------
    pandas.DataFrame
        The columns of `scores` and implied (0-100): what the work to come was predicted to earn.
        Scores without a prediction of the last weeks before are left out.
    """
    told = predictions[predictions["grade"].notna() & (predictions["weight_remaining"] >= 1)]
    to_come = (told["grade"] - told["collected"]) / told["weight_remaining"]
    told = told[["section_id", "student", "on"]].assign(implied=(100 * to_come).clip(0, 100))
    paired = pd.merge_asof(
        scores.sort_values("scored_on", kind="stable"),
        told.sort_values("on", kind="stable"),
        left_on="scored_on",
        right_on="on",
        by=["section_id", "student"],
        tolerance=pd.Timedelta(days=SETTINGS.oldest_prediction),
        allow_exact_matches=False,
    )
    return paired[paired["implied"].notna()].drop(columns="on")


def learn(reference: pd.DataFrame) -> Expectation | None:
    """Learn from the events of the training terms; None where there are too few assignments."""
    if len(reference) < SETTINGS.least_rows * SETTINGS.least:
        return None
    category = reference["category"]
    within = reference[["implied", "score"]] - reference.groupby(category)[
        ["implied", "score"]
    ].transform("mean")
    slope = float((within["implied"] * within["score"]).mean() / (within["implied"].var() + 1.0))
    rest = reference["score"] - slope * reference["implied"]
    levels = {str(name): float(value) for name, value in rest.groupby(category).mean().items()}
    plain = Expectation(slope, levels, float(rest.mean()), 1.0, 0.0)
    rows = _batches(reference, plain, None)
    freedom = len(rows) - len(levels)
    if len(rows) < SETTINGS.least_rows or freedom < 1:
        return None
    spread = np.average(rows["variance"], weights=rows["scores"] - 1)
    of_means = float((rows["error"] ** 2).sum() / freedom)
    between = max(of_means - float(spread / rows["scores"].mean()), 0.0)
    return replace(plain, spread=float(np.sqrt(spread)) + 1e-9, between=float(np.sqrt(between)))


def stream(found: pd.DataFrame, expectation: Expectation, as_of: date | None) -> pd.DataFrame:
    """Return the standardised rows (columns `STREAM`) of those assignments that have matured.

    Parameters
    ----------
    found
        Events, as `events` gives them.
    as_of
        An assignment of a small section matures only with time; None: all have.
    """
    rows = _batches(found, expectation, as_of)
    sd = np.sqrt(expectation.between**2 + expectation.spread**2 / rows["scores"])
    rows["z"] = rows["error"] / sd
    return rows.sort_values(STREAM[:3], ignore_index=True)[STREAM]


def _batches(found: pd.DataFrame, expectation: Expectation, as_of: date | None) -> pd.DataFrame:
    by, patience = ["section_id", "assignment_id"], pd.Timedelta(days=SETTINGS.patience)
    ordered = found.assign(error=expectation.errors(found)).sort_values(
        [*by, "scored_on", "student"], kind="stable"
    )
    began = ordered.groupby(by, observed=True)["scored_on"].transform("min")
    timely = ordered.assign(began=began)[ordered["scored_on"] <= began + patience]
    first = timely[timely.groupby(by, observed=True).cumcount() < SETTINGS.batch]
    rows = first.groupby(by, observed=True, as_index=False).agg(
        began=("began", "first"),
        matured_on=("scored_on", "max"),
        scores=("error", "size"),
        error=("error", "mean"),
        variance=("error", "var"),
    )
    full = rows["scores"] >= SETTINGS.batch
    rows["matured_on"] = rows["matured_on"].where(full, rows["began"] + patience)
    ripe = rows["scores"] >= SETTINGS.least
    if as_of is not None:
        ripe &= rows["matured_on"] <= pd.Timestamp(as_of)
    return rows[ripe]


def detectors() -> Mapping[str, Callable[[], Any]]:
    """Return makers of the detectors by name; each reads numbers of mean 0 and SD 1."""
    from river.drift import ADWIN, PageHinkley

    return {
        "Page-Hinkley": lambda: PageHinkley(
            min_instances=SETTINGS.least_rows,
            delta=SETTINGS.page_hinkley_delta,
            threshold=SETTINGS.page_hinkley_threshold,
        ),
        "ADWIN": lambda: ADWIN(delta=SETTINGS.adwin_delta, clock=1),  # type: ignore[no-untyped-call]
    }


def alarms(reference: Iterable[float], current: pd.DataFrame) -> list[Alarm]:
    """Return the alarms that the rows of `current` raise, after the training terms' z.

    Parameters
    ----------
    reference
        z of the training terms, in order.
    current
        Columns `STREAM`, in order.
    """
    before = np.fromiter(reference, np.float64)
    values = current["z"].to_numpy(np.float64)
    days = current["matured_on"].dt.date.to_numpy()
    found = []
    for name, make in detectors().items():
        start = 0
        for place in replay(make(), [*before, *values]):
            if place >= len(before):
                now = place - len(before)
                recent = values[max(start, now - SETTINGS.least_rows + 1) : now + 1]
                found.append(Alarm(name, days[now], int(np.sign(recent.mean()))))
                start = now + 1
    return sorted(found, key=lambda one: (one.on, one.detector))


def replay(detector: Any, values: Iterable[float]) -> Iterator[int]:
    """Yield the place of each value at which the detector raises an alarm."""
    for place, value in enumerate(values):
        detector.update(value)
        if detector.drift_detected:
            yield place
