"""Concept drift: whether scores still follow from predictions as they did in the training terms.

A final grade is known only when a term ends; scores arrive throughout the term. Each prediction
implies the average score of the work still to come; a score minus the implied score is an error
whose truth has arrived. Scores of one assignment share its difficulty, so a row of a stream is the
mean error of a batch of its scores less the error expected from the earlier batches (the innovation
of a local level; Harvey 1989, "Forecasting, structural time series models and the Kalman filter"):
rows are independent, whether a change falls between two assignments or into the marking of one.
ADWIN and Page-Hinkley read the rows of the training terms first, then those that matured since.

The state of a detector is not stored: it is replayed from the rows, which are (see `store`).
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
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class ConceptSettings:
    """The settings of concept drift, each with its reason."""

    #: Scores of one assignment of a section, in order. The assignment's own difficulty is about
    #: half of the spread of one score: more scores hardly sharpen the mean, and waiting for them
    #: costs weeks.
    batch: int = 15
    #: The fewest first scores of an assignment that make a row.
    least: int = 5
    #: Days after which an assignment of a small section counts with the scores it has.
    patience: int = 14
    #: The fewest rows of the training terms from which an expectation can be learned.
    least_rows: int = 8
    #: Half of the shift that should be detected soonest, in standard deviations of a row, and the
    #: sum that raises an alarm. By Siegmund's approximation (1985), one alarm in 20,000 rows is
    #: false, and a shift of two standard deviations is detected after five rows. Half a standard
    #: deviation of single scores is 1.9 of a row.
    page_hinkley_delta: float = 0.75
    page_hinkley_threshold: float = 6.0
    #: river's own default.
    adwin_delta: float = 0.002
    #: Days for which an alarm counts as new.
    news_days: int = 28
    #: How clearly a course must agree with an alarm of all courses, in standard errors. The alarm
    #: already proves a change; this only leaves out courses without scores since then.
    agreement: float = 1.0


SETTINGS = ConceptSettings()

#: The key of a stream's rows, in order.
ROW = ["matured_on", "section_id", "assignment_id", "batch"]
#: Columns of a stream: one row per batch of scores of an assignment.
STREAM = [*ROW, "scores", "error", "z"]
STREAM_TYPES = {
    **dict.fromkeys(STREAM, "float64"),
    **dict.fromkeys(("section_id", "assignment_id"), "object"),
    **dict.fromkeys(("batch", "scores"), "int64"),
    "matured_on": "datetime64[ns]",
}
_BY = ["section_id", "assignment_id"]
_READ = [*_BY, "category", "scored_on", "implied", "share", "score"]


@dataclass(frozen=True)
class Expectation:
    """The expected score, learned from one course's training terms.

    The expected score is `slope` · implied score + the `level` of its category, else of all; that
    of batches after an assignment's first is `later` more. `spread` is the standard deviation of
    one error, `between` that of assignments' own difficulty; all in points. `scale` is the standard
    deviation of the training terms' rows, at least 1: what these two leave unexplained.
    """

    slope: float
    levels: Mapping[str, float]
    level: float
    later: float = 0.0
    spread: float = 1.0
    between: float = 0.0
    scale: float = 1.0

    def expected(self, events: pd.DataFrame) -> Floats:
        """Return the expected score per event."""
        codes, names = pd.factorize(events["category"].astype(object))
        levels = np.array([*(self.levels.get(name, self.level) for name in names), self.level])
        # A model that stretches what it implies has shifted the level by the same share.
        level = levels[codes] * (1 + events["share"].to_numpy(np.float64))
        return np.asarray(level + self.slope * events["implied"].to_numpy(np.float64))

    def errors(self, events: pd.DataFrame) -> Floats:
        """Return score minus expectation per event."""
        return np.asarray(events["score"].to_numpy(np.float64) - self.expected(events))


@dataclass(frozen=True)
class Alarm:
    """A detector's alarm: its name, the row's date, and whether scores went up or down.

    `since` is the date of the row with which the change most likely began.
    """

    detector: str
    on: date
    direction: int
    since: date


def learn(reference: pd.DataFrame) -> Expectation | None:
    """Learn from the events of the training terms; return None if assignments are too few."""
    if len(reference) < SETTINGS.least_rows * SETTINGS.least:
        return None
    groups = _Batches.of(reference)
    ordered, means = groups.events, groups.per_assignment
    implied, score = (ordered[name].to_numpy(np.float64) for name in ("implied", "score"))
    within = implied - means(implied), score - means(score)
    slope = float((within[0] * within[1]).mean() / (within[0].var() + 1.0))
    first = groups.batch == 0
    rest = pd.Series((score - slope * implied)[first])
    levels = rest.groupby(ordered["category"].to_numpy()[first]).mean()
    plain = Expectation(
        slope, {str(name): float(value) for name, value in levels.items()}, float(rest.mean())
    )
    error = plain.errors(ordered)
    steps = means(error, ~first) - means(error, first)
    steps = steps[groups.starts][np.isfinite(steps[groups.starts])]
    known = replace(plain, later=float(steps.mean()) if steps.size else 0.0)
    rows = groups.rows(known, None)
    whole = rows[rows["batch"] == 0]
    freedom = len(whole) - len(levels)
    if len(whole) < SETTINGS.least_rows or freedom < 1:
        return None
    spread = np.average(rows["variance"], weights=rows["scores"] - 1)
    of_means = float((whole["error"] ** 2).sum() / freedom)
    between = max(of_means - float(spread / whole["scores"].mean()), 0.0)
    learned = replace(known, spread=float(np.sqrt(spread)) + 1e-9, between=float(np.sqrt(between)))
    return replace(learned, scale=max(float(_innovations(rows, learned).std(ddof=1)), 1.0))


def stream(events: pd.DataFrame, expectation: Expectation, as_of: date | None) -> pd.DataFrame:
    """Return the standardised rows (columns `STREAM`) of the batches that have matured.

    Parameters
    ----------
    events
        As `serving.implied.events` returns them.
    as_of
        The day by which rows have matured; the first scores of a small section mature only with
        time. None if all have.
    """
    rows = _Batches.of(events).rows(expectation, as_of)
    rows["z"] = _innovations(rows, expectation) / expectation.scale
    return rows.sort_values(ROW, ignore_index=True)[STREAM]


@dataclass(frozen=True)
class _Batches:
    """Events in the order of section, assignment, day and student, with the batch of each.

    `starts` has the positions at which assignments begin.
    """

    events: pd.DataFrame
    starts: Ints
    batch: Ints

    @classmethod
    def of(cls, unordered: pd.DataFrame) -> _Batches:
        codes = [pd.factorize(unordered[name], sort=True)[0] for name in reversed(_BY)]
        day = unordered["scored_on"].to_numpy("datetime64[D]")
        order = np.lexsort([unordered["student"].to_numpy(), day, *codes])
        events, day = unordered[_READ].iloc[order], day[order]
        starts = np.flatnonzero(_begins(np.stack(codes)[:, order]))
        sizes = np.diff(np.append(starts, len(order)))
        began = np.repeat(day[starts], sizes)
        place = np.arange(len(order)) - np.repeat(starts, sizes)
        first = (place < SETTINGS.batch) & (day <= began + SETTINGS.patience)
        size = np.repeat(np.add.reduceat(first.astype(np.int64), starts), sizes)
        return cls(events, starts, np.where(first, 0, 1 + (place - size) // SETTINGS.batch))

    def per_assignment(self, values: Floats, chosen: Bools | None = None) -> Floats:
        """Return, per event, the mean of its assignment's chosen values; NaN if there are none."""
        weight = np.ones(len(values)) if chosen is None else chosen.astype(np.float64)
        total, size = (
            np.add.reduceat(numbers, self.starts) for numbers in (weight * values, weight)
        )
        means = np.where(size > 0, total / np.maximum(size, 1), np.nan)
        return np.repeat(means, np.diff(np.append(self.starts, len(values))))

    def rows(self, expectation: Expectation, as_of: date | None) -> pd.DataFrame:
        """Return a row per batch that has matured: mean and variance of its errors, and its day."""
        is_new = _begins(self.batch[None])
        is_new[self.starts] = True
        at = np.flatnonzero(is_new)
        scores = np.diff(np.append(at, len(self.batch)))
        error = expectation.errors(self.events) - expectation.later * (self.batch > 0)
        mean = np.add.reduceat(error, at) / scores
        squares = np.add.reduceat((error - np.repeat(mean, scores)) ** 2, at)
        day = self.events["scored_on"].to_numpy("datetime64[ns]")
        full = scores >= SETTINGS.batch
        waited = day[at] + np.timedelta64(SETTINGS.patience, "D")
        batch = self.batch[at]
        rows = (
            self.events[_BY]
            .iloc[at]
            .assign(
                batch=batch,
                matured_on=np.where(full, day[at + scores - 1], waited),
                scores=scores,
                error=mean,
                variance=squares / np.maximum(scores - 1, 1),
            )
        )
        ripe = full | ((batch == 0) & (scores >= SETTINGS.least))
        if as_of is not None:
            ripe &= (rows["matured_on"] <= pd.Timestamp(as_of)).to_numpy()
        matured: pd.DataFrame = rows[ripe].reset_index(drop=True)
        return matured


def _begins(codes: Ints) -> Bools:
    """Return the positions at which any of the rows of `codes` has another value than before."""
    return np.append(True, (np.diff(codes) != 0).any(axis=0))[: codes.shape[1]]


def _innovations(rows: pd.DataFrame, expectation: Expectation) -> Floats:
    """Return each row's error less that expected from the assignment's earlier rows, scaled."""
    error = rows["error"].to_numpy(np.float64)
    precision = rows["scores"].to_numpy(np.float64) / expectation.spread**2
    is_new = _begins(np.stack([pd.factorize(rows[name])[0] for name in _BY]))
    start = np.maximum.accumulate(np.where(is_new, np.arange(len(rows)), 0))
    before, weighted = (
        np.append(0.0, np.cumsum(numbers))[:-1] for numbers in (precision, precision * error)
    )
    before, weighted = before - before[start], weighted - weighted[start]
    left = 1 / (1 / max(expectation.between**2, 1e-9) + before)
    return np.asarray((error - left * weighted) / np.sqrt(left + 1 / precision))


def detectors() -> Mapping[str, Callable[[], Any]]:
    """Return the factories of the detectors by name; each reads numbers of mean 0 and SD 1."""
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

    With enough rows ADWIN detects a shift that is not worth a training: a mean since the change of
    less than Page-Hinkley's delta raises no alarm.

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
    raised = []
    for name, make in detectors().items():
        start = 0
        for place in replay(make(), [*before, *values]):
            if place >= len(before):
                now = place - len(before)
                recent = values[start : now + 1]
                first = _change_point(recent)
                shift = float(recent[first:].mean())
                if abs(shift) >= SETTINGS.page_hinkley_delta:
                    way = int(np.sign(shift))
                    raised.append(Alarm(name, days[now], way, days[start + first]))
                    start = now + 1
    return sorted(raised, key=lambda alarm: (alarm.on, alarm.detector))


def _change_point(values: Floats) -> int:
    """Return where the last run with a mean other than 0 most likely begins (Hinkley 1970)."""
    sums = np.cumsum(values[::-1])[::-1]
    return int(np.argmax(np.abs(sums) / np.sqrt(np.arange(len(values), 0, -1))))


def replay(detector: Any, values: Iterable[float]) -> Iterator[int]:
    """Yield the position of each value at which the detector raises an alarm."""
    for place, value in enumerate(values):
        detector.update(value)
        if detector.drift_detected:
            yield place
