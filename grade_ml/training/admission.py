"""Which external sources a model may read: those that lower its error on a term not yet seen.

A light regressor is fitted on the terms before the last one that ended, once without external
columns and once with those of each source, and all are compared on that last term. A source is
admitted if the error is lower beyond chance, where chance is resampled by student and by day:
what is known of a campus on a day is the same for all its students, so many students on few days
are little evidence.

A single term cannot separate what is the same for the whole term from the term itself: any figure
that differs between terms, the year's number among them, can come near the new term's level by
luck. So the error must also be lower after the term's mean error is taken out. Because several
sources are tried, each range leaves out 5 % divided by their number (Bonferroni).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from grade_ml.core.threads import limited_threads
from grade_ml.ensemble.baseline import boosting
from grade_ml.ensemble.encoding import Encoder, attributes
from grade_ml.ensemble.rows import ENROLLMENT, ROW, as_text, collected, join, late_weight
from grade_ml.external.catalog import NAMES
from grade_ml.features.snapshots import NUMERIC_FEATURES
from grade_ml.features.surroundings import columns_of

Floats = npt.NDArray[np.float64]
Matrix = npt.NDArray[np.float32]


@dataclass(frozen=True)
class AdmissionSettings:
    """The judgements of the trial, each with its reason."""

    #: The mean of as many models, each on rows of its own, so that the difference between two
    #: models is not that of two draws.
    repeats: int = 3
    #: Per model and in the test; more rows of the same students changed no verdict.
    train_rows: int = 15_000
    test_rows: int = 20_000
    #: Few, quick steps; the trial compares, it does not predict.
    steps: int = 60
    learning_rate: float = 0.12
    #: A quarter of the usual number halves the time.
    bins: int = 63
    level: float = 0.05
    resamples: int = 2000


SETTINGS = AdmissionSettings()


@dataclass(frozen=True)
class Change:
    """A change of the RMSE of the final grade, in per cent (negative is better), and its range."""

    change: float
    low: float
    high: float

    @property
    def is_gain(self) -> bool:
        """Whether the whole range is below 0."""
        return self.high < 0

    def __str__(self) -> str:
        return f"{self.change:+.2f} % ({self.low:+.2f} to {self.high:+.2f})"


@dataclass(frozen=True)
class Trial:
    """The verdict on one source.

    Attributes
    ----------
    error
        The change of the error on the last term; None if it was not tried.
    error_in_term
        The same after the term's mean error was taken out of both.
    rows
        Rows of the last term for which a value of the source was known.
    reason
        Why it was admitted or not, as text.
    """

    source: str
    admitted: bool
    reason: str
    rows: int = 0
    error: Change | None = None
    error_in_term: Change | None = None


@dataclass(frozen=True)
class Admission:
    """The verdict on every source.

    Attributes
    ----------
    train_terms, test_term
        What the sources were tried on; empty and None if too few terms had ended.
    rmse
        The error without any source on the last term, in points.
    """

    trials: tuple[Trial, ...]
    train_terms: tuple[str, ...] = ()
    test_term: str | None = None
    rmse: float | None = None

    @property
    def sources(self) -> tuple[str, ...]:
        """The names of the sources that a model may read."""
        return tuple(trial.source for trial in self.trials if trial.admitted)

    def to_dict(self) -> dict[str, Any]:
        """Return the verdict as plain values."""
        return {
            **asdict(self),
            "train_terms": list(self.train_terms),
            "trials": [asdict(trial) for trial in self.trials],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the verdict that `to_dict` described."""
        return cls(
            trials=tuple(
                Trial(
                    **trial
                    | {
                        name: trial[name] and Change(**trial[name])
                        for name in ("error", "error_in_term")
                    }
                )
                for trial in values["trials"]
            ),
            train_terms=tuple(values["train_terms"]),
            test_term=values["test_term"],
            rmse=values["rmse"],
        )


def admission(
    snapshots: pd.DataFrame, outcomes: pd.DataFrame, sections: pd.DataFrame, *, seed: int
) -> Admission:
    """Try every source and return which sources a model may read.

    Parameters
    ----------
    snapshots
        As `with_surroundings` gives them, of any sections; those still running are left out.
    outcomes
        Columns section_id, student_id, final_grade (0-100, NaN without coursework), at_risk (bool).
    sections
        Columns section_id, term_id, starts_on; terms are in order of their first section's start.
    """
    train_terms, test_term, train, test = _split(snapshots, outcomes, sections, seed)
    if train.empty or test.empty:
        reason = "not tried: fewer than two terms with graded work have ended"
        return Admission(tuple(Trial(source, False, reason) for source in NAMES))
    columns = {source: _known(columns_of(train, [source]), train, test) for source in NAMES}
    tried = [source for source in NAMES if columns[source]]
    errors = _errors(train, test, [[], *(columns[source] for source in tried)], seed)
    without, by_source = errors[0], dict(zip(tried, errors[1:], strict=True))
    chance = _Chance.drawn(test, SETTINGS.level / max(len(tried), 1), seed)

    def trial(source: str) -> Trial:
        if source not in by_source:
            return Trial(source, False, "not tried: no value in the terms before, or in the last")
        error = chance.change(without, by_source[source])
        in_term = chance.change(_centred(without), _centred(by_source[source]))
        rows = int(test[columns[source]].notna().any(axis=1).sum())
        admitted = error.is_gain and in_term.is_gain
        return Trial(source, admitted, _reason(error, in_term), rows, error, in_term)

    return Admission(
        tuple(trial(source) for source in NAMES),
        train_terms,
        test_term,
        float(np.sqrt(np.mean(without**2))),
    )


def _split(
    snapshots: pd.DataFrame, outcomes: pd.DataFrame, sections: pd.DataFrame, seed: int
) -> tuple[tuple[str, ...], str | None, pd.DataFrame, pd.DataFrame]:
    """Return the terms before the last that ended, that term, and some rows of both."""
    over = as_text(outcomes[[*ENROLLMENT, "final_grade"]])
    enrollments = as_text(snapshots[ENROLLMENT].drop_duplicates()).merge(
        over, on=ENROLLMENT, how="left", indicator=True
    )
    running = enrollments.loc[enrollments["_merge"] == "left_only", "section_id"].unique()
    graded = enrollments.loc[enrollments["final_grade"].notna(), "section_id"].unique()
    of_section = sections.set_index(sections["section_id"].astype(str))
    of_section = of_section[of_section.index.isin(enrollments["section_id"])]
    is_running = of_section.index.isin(running)
    usable = of_section[~is_running & of_section.index.isin(graded)]
    order = usable.groupby("term_id", observed=True)["starts_on"].min().sort_values().index
    closed = order[~order.isin(of_section.loc[is_running, "term_id"])]
    if closed.empty:
        return (), None, snapshots[:0], snapshots[:0]
    test_term = closed[-1]
    train_terms = order[: order.get_loc(test_term)]

    def sampled(terms: list[Any], count: int) -> pd.DataFrame:
        chosen = usable.index[usable["term_id"].isin(terms)]
        rows = snapshots[snapshots["section_id"].isin(chosen)].reset_index(drop=True)
        in_order = as_text(rows[ROW]).sort_values(ROW).index
        drawn = rows.iloc[in_order].sample(min(count, len(rows)), random_state=seed)
        joined = join(drawn, outcomes)
        return joined[joined["final_grade"].notna()].reset_index(drop=True)

    return (
        tuple(map(str, train_terms)),
        str(test_term),
        sampled(list(train_terms), SETTINGS.repeats * SETTINGS.train_rows),
        sampled([test_term], SETTINGS.test_rows),
    )


def _known(columns: Sequence[str], *frames: pd.DataFrame) -> list[str]:
    return [name for name in columns if all(frame[name].notna().any() for frame in frames)]


def _errors(
    train: pd.DataFrame, test: pd.DataFrame, sets: Sequence[Sequence[str]], seed: int
) -> list[Floats]:
    """Return for each set of additional columns the errors of the test rows, in points."""
    numeric, texts = attributes(train)
    own = dict.fromkeys(("progress", *NUMERIC_FEATURES, *numeric))
    encoder = Encoder.fit(
        train, _known([n for n in own if n in train], train), ["course_id", *texts]
    )
    ours = encoder.transform(train), encoder.transform(test)
    truth = test["final_grade"].to_numpy(np.float64)
    errors = []
    with limited_threads(SETTINGS.train_rows):
        for columns in sets:
            pair = [
                np.hstack([mine, frame[list(columns)].to_numpy(np.float32)])
                for mine, frame in zip(ours, (train, test), strict=True)
            ]
            to_come = _to_come(train, pair[0], pair[1], seed)
            grade = np.clip(collected(test) + to_come, 0, 100)
            errors.append(grade - truth)
    return errors


def _to_come(train: pd.DataFrame, seen: Matrix, unseen: Matrix, seed: int) -> Floats:
    """Return the points still to come of the unseen rows: the mean of some models."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    to_come = train["final_grade"].to_numpy(np.float64) - collected(train)
    # Late rows are drawn more often instead of weighing more: weighted bins take twice the time of
    # the fit.
    weight = late_weight(train)
    count = min(SETTINGS.train_rows, len(train))
    predictions = []
    for draw in np.random.SeedSequence(seed).generate_state(SETTINGS.repeats):
        rows = np.random.default_rng(draw).choice(len(train), count, p=weight / weight.sum())
        model = HistGradientBoostingRegressor(
            **boosting(count, int(draw)),
            max_iter=SETTINGS.steps,
            learning_rate=SETTINGS.learning_rate,
            max_bins=SETTINGS.bins,
        )
        predictions.append(model.fit(seen[rows], to_come[rows]).predict(unseen))
    return np.asarray(np.mean(predictions, axis=0))


def _centred(errors: Floats) -> Floats:
    return np.asarray(errors - errors.mean())


@dataclass(frozen=True)
class _Chance:
    """How often each student and each day of the test is drawn in every resample."""

    cells: npt.NDArray[np.intp]
    students: Matrix
    days: Matrix
    level: float

    @classmethod
    def drawn(cls, test: pd.DataFrame, level: float, seed: int) -> Self:
        random = np.random.default_rng(seed)
        student = pd.factorize(test["student_id"].astype(object))[0]
        day = pd.factorize(test["cut_on"])[0]
        counts = [
            random.multinomial(size, np.full(size, 1 / size), SETTINGS.resamples).astype(np.float32)
            for size in (student.max() + 1, day.max() + 1)
        ]
        return cls(student * counts[1].shape[1] + day, counts[0], counts[1], level)

    def change(self, without: Floats, with_it: Floats) -> Change:
        """Return the change of the RMSE from the errors `without` to those `with_it`."""
        before, after = (self._sums(errors**2) for errors in (without, with_it))
        drawn = before > 0
        low, high = np.quantile(
            _per_cent(before[drawn], after[drawn]), [self.level / 2, 1 - self.level / 2]
        )
        total = _per_cent(np.square(without).sum(), np.square(with_it).sum())
        return Change(*(round(float(value), 3) for value in (total, low, high)))

    def _sums(self, squares: Floats) -> Floats:
        shape = self.students.shape[1], self.days.shape[1]
        table = np.bincount(self.cells, squares, shape[0] * shape[1]).reshape(shape)
        drawn = (self.students @ table.astype(np.float32)) * self.days
        return np.asarray(drawn.sum(axis=1, dtype=np.float64))


def _per_cent(before: Any, after: Any) -> Any:
    return 100 * (np.sqrt(after / before) - 1)


def _reason(error: Change, in_term: Change) -> str:
    if not error.is_gain:
        return f"no gain beyond chance: the error changes by {error}"
    if not in_term.is_gain:
        return f"tells no more than the term does: within it the error changes by {in_term}"
    return f"gain: the error changes by {error}"
