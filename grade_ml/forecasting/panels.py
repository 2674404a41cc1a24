"""From stored sequences and snapshots to panels: one section on one day, as it was known then.

A panel's history holds nothing that was dated after its day. Its truth, which only training and
tests use, is what was known by a later day.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date

import numpy as np
import pandas as pd

from grade_ml.features.catalogue import NUMERIC_FEATURES
from grade_ml.forecasting.contract import ASSIGNMENTS, HISTORY, Floats, Ints, Panel

_EPOCH = date(1970, 1, 1)


def panels(
    sequences: pd.DataFrame,
    snapshots: pd.DataFrame,
    *,
    on: date | None = None,
    truth_on: date | None = None,
) -> Iterator[Panel]:
    """Yield one panel for each section and cut of `snapshots`, in order of section and cut.

    Sections without coursework, and cuts after which nothing is due, yield none.

    Parameters
    ----------
    sequences
        Columns `catalogue.SEQUENCE_COLUMNS`; whole sections, in their order.
    snapshots
        The enrolled students at each cut, and the features of the day.
    on
        The day of the panels, if the newest snapshots are older than that; each cut by default.
    truth_on
        The day whose knowledge is the truth; `None` for no truth.
    """
    sections = dict(iter(snapshots.groupby(snapshots["section_id"].astype(object), sort=True)))
    for name, rows in sequences.groupby(sequences["section_id"].astype(object), sort=True):
        if name not in sections or rows["length"].isna().any():
            continue
        section = _Section(rows, truth_on)
        for day, group in sections[name].groupby("cut_day", sort=True):
            of_day = float(str(day)) if on is None else days_of(on, section.started_on)
            panel = section.on(of_day, group)
            if all(panel.shape):
                yield panel


def days_of(as_of: date, started_on: float) -> float:
    """Return the days from a section's start to `as_of`."""
    return (as_of - _EPOCH).days - started_on


def day_of(panel: Panel) -> pd.Timestamp:
    """Return the date of the panel's day."""
    day: pd.Timestamp = pd.Timestamp("1970-01-01") + pd.Timedelta(
        days=int(np.floor(panel.started_on + panel.day))
    )
    return day


class _Section:
    """One section's sequences as matrices (students, assignments)."""

    def __init__(self, rows: pd.DataFrame, truth_on: date | None) -> None:
        work = rows.drop_duplicates("assignment_id")
        self.students = pd.Index(rows["student_id"].astype(object).unique())
        self.rows, self.work = rows, work
        self.shape = (len(self.students), len(work))
        first = rows.iloc[0]
        self.course, self.name = str(first["course_id"]), str(first["section_id"])
        self.length, self.started_on = float(first["length"]), float(first["started_on"])
        self.due, self.score = self._matrix("due_day")[0], self._matrix("score")
        carried = self._matrix("carried_over") > 0
        # A carried-over result is no evidence in this section before it is due.
        early = np.where(carried, self.due, -np.inf)
        self.seen = np.maximum(_never(self._matrix("seen_day")), early)
        self.scored = np.maximum(_never(self._matrix("scored_day")), early)
        self.exempt = _never(self._matrix("exempt_day"))
        self.pass_mark = float(first["pass_mark"])
        self.withdrawn = _never(self._matrix("withdrawn_day"))[:, 0]
        self.truth, self.truth_submitted = self._truth(truth_on)

    def _matrix(self, name: str) -> Floats:
        return self.rows[name].to_numpy(np.float64).reshape(self.shape)

    def _truth(self, truth_on: date | None) -> tuple[Floats, Floats]:
        if truth_on is None:
            unknown = np.full(self.shape, np.nan)
            return unknown, unknown
        last = days_of(truth_on, self.started_on)
        score, submitted = self._known(last)
        withdrawn = self.withdrawn[:, None] <= self.due
        return np.where(withdrawn, np.nan, score), np.where(withdrawn, np.nan, submitted)

    def _known(self, day: float) -> tuple[Floats, Floats]:
        """Return scores and submissions as known on `day`; NaN where nothing is to be known."""
        seen, due = self.seen <= day, self.due <= day
        counts = ~(self.exempt <= day)
        submitted = np.where(seen, 1.0, np.where(due, 0.0, np.nan))
        graded = np.where(self.scored <= day, self.score, np.nan)
        score = np.where(due, np.where(seen, graded, 0.0), np.nan)
        return np.where(counts, score, np.nan), np.where(counts, submitted, np.nan)

    def on(self, day: float, snapshots: pd.DataFrame) -> Panel:
        place = self.students.get_indexer(pd.Index(snapshots["student_id"].astype(object)))
        # A student may have withdrawn since the snapshot.
        present = (place >= 0) & (self.withdrawn[place] > day)
        snapshots, place = snapshots[present], place[present]
        score, submitted = (values[place] for values in self._known(day))
        names = tuple(name for name in NUMERIC_FEATURES if name in snapshots)
        handed_in = np.where(self.due <= day, submitted, np.nan)
        return Panel(
            course_id=self.course,
            section_id=self.name,
            day=day,
            length=self.length,
            started_on=self.started_on,
            students=self.students.to_numpy(object)[place],
            assignments=self.work["assignment_id"].to_numpy(object),
            due_day=self.due,
            weight=self.work["weight"].to_numpy(np.float64),
            category=self.work["category"].to_numpy(object),
            score=score,
            submitted=submitted,
            exempt=(self.exempt <= day)[place],
            pass_mark=self.pass_mark,
            class_submitted=mean_known(handed_in),
            class_score=mean_known(np.where(handed_in == 1, score, np.nan)),
            features=snapshots[list(names)].to_numpy(np.float32),
            feature_names=names,
            truth=self.truth[place],
            truth_submitted=self.truth_submitted[place],
        )


def mean_known(values: Floats, axis: int = 0) -> Floats:
    """Return the mean of the known values along `axis`, NaN where there are none."""
    known = ~np.isnan(values)
    number = known.sum(axis)
    total = np.where(known, values, 0.0).sum(axis)
    return np.asarray(np.where(number > 0, total / np.maximum(number, 1), np.nan))


def _never(days: Floats) -> Floats:
    return np.where(np.isnan(days), np.inf, days)


def origins(snapshots: pd.DataFrame, most: int) -> pd.DataFrame:
    """Return the rows of at most `most` cuts of each section, spread evenly over its cuts."""
    cuts = snapshots[["section_id", "cut_day"]].drop_duplicates()
    # On the day of the start too little is known to be worth its rows.
    cuts = cuts[cuts["cut_day"] > 0]
    rank = cuts.groupby("section_id", observed=True)["cut_day"].rank(method="first") - 1
    number = cuts.groupby("section_id", observed=True)["cut_day"].transform("size")
    chosen = np.floor((rank + 1) * most / number) != np.floor(rank * most / number)
    return snapshots.merge(cuts[chosen], on=["section_id", "cut_day"])


def thinned(given: Sequence[Panel], most: int, seed: int) -> list[Panel]:
    """Return the panels with the same share of their students, so that rows are about `most`."""
    rows = sum(panel.shape[0] * panel.shape[1] for panel in given)
    share = most / max(rows, 1)
    if share >= 1:
        return list(given)
    random = np.random.default_rng(seed)
    drawn = ((panel, np.flatnonzero(random.random(panel.shape[0]) < share)) for panel in given)
    return [panel.of(places) for panel, places in drawn if len(places)]


def history_frame(panel: Panel) -> pd.DataFrame:
    """Return the columns `HISTORY` of what was due by the panel's day of each student."""
    past = panel.past
    n = len(panel.students)

    def of_work(values: np.ndarray) -> np.ndarray:
        return np.tile(values[past], n)

    return pd.DataFrame(
        {
            "section_id": panel.section_id,
            "student_id": np.repeat(panel.students, len(past)),
            "assignment_id": of_work(panel.assignments),
            "slot": of_work(slots_of(panel)),
            "due_day": of_work(panel.due_day),
            "weight": of_work(panel.weight),
            "score": panel.score[:, past].ravel(),
            "submitted": panel.submitted[:, past].ravel() == 1,
        },
        columns=list(HISTORY),
    )[~panel.exempt[:, past].ravel()]


def assignment_frame(panel: Panel) -> pd.DataFrame:
    """Return the columns `ASSIGNMENTS` of the panel's section."""
    return pd.DataFrame(
        {
            "section_id": panel.section_id,
            "assignment_id": panel.assignments,
            "slot": slots_of(panel),
            "due_day": panel.due_day,
            "weight": panel.weight,
        },
        columns=list(ASSIGNMENTS),
    )


def slots_of(panel: Panel) -> Ints:
    """Return the slot of each assignment: 1 and up in order of due day."""
    return np.arange(1, len(panel.assignments) + 1)
