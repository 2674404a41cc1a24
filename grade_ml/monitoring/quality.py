"""Learns expectations of a batch from the training data, and reports what violates them.

Hard rules are elsewhere: keys, references and ranges of the tables in `gradebook.quality`, bounds
that follow from a feature's meaning in `features.validation`. This module learns what only
experience shows: usual values, gaps, sizes and delays. A batch may differ from them by chance; only
a difference that chance does not explain is a violation.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from grade_ml.core.errors import NotReadyError
from grade_ml.gradebook.catalog import Load
from grade_ml.gradebook.schema import Status
from grade_ml.two_sample.columns import plain_numbers, texts
from grade_ml.two_sample.permutation import Floats, Ints

if TYPE_CHECKING:
    from pandera.pandas import DataFrameSchema

#: The p-value below which chance is no explanation. A hundred columns checked every two hours make
#: 440,000 checks a year: at one in a million, a false alarm comes every other year.
_CHANCE = 1e-6
#: The most categories that are stored; a column with more is free text, in which any value is new.
_CATEGORIES = 200
#: A class may grow or shrink by a third between terms although its data are right.
_GROWTH = 0.3
#: How far beyond its range a number may lie, in widths of the range. Wrong units and scales go
#: further; of 40 classes of a simulated campus, each compared with three before, half left the
#: range with some feature, and one left it by more than half of its width.
_BEYOND = 1.0
#: Standard deviations of the logarithm of a batch's rows: about the chance above.
_DEVIATIONS = 5.0


class Rule(StrEnum):
    """The kind of a violation."""

    MISSING = "missing column"
    TYPE = "type"
    NULLS = "null share"
    RANGE = "range"
    CATEGORY = "category"
    VOLUME = "volume"
    DELAY = "arrival delay"


_REMEDIES = {
    Rule.MISSING: "Deliver the column, or train without it.",
    Rule.TYPE: "Correct the export's format, and load again.",
    Rule.NULLS: "Look for a field that the source no longer fills.",
    Rule.RANGE: "Check unit and scale at the source; if the values are right, train again.",
    Rule.CATEGORY: "Map the new value to a known one, or train again once there are results.",
    Rule.VOLUME: "Check that the batch is whole and was loaded once.",
    Rule.DELAY: "Ask what holds up the results; predictions rest on older work until then.",
}


@dataclass(frozen=True)
class Column:
    """The expectations of one column, learned from the training data.

    All numbers but `outside` lie between `low` and `high`. The categories are `categories`;
    `singles` of them occurred once (Good and Turing: about as many of the next values are new).
    Both are empty if the column had more than 200. `nulls` of the `rows` rows have no value.
    """

    name: str
    rows: int
    nulls: int
    rule: Rule
    low: float = 0.0
    high: float = 0.0
    outside: int = 0
    categories: tuple[str, ...] = ()
    singles: int = 0


@dataclass(frozen=True)
class Expectations:
    """The expectations of a batch: its columns, and the fewest and most rows that it may have."""

    columns: tuple[Column, ...]
    fewest: float
    most: float

    def to_json(self) -> str:
        """Return the expectations as JSON text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return expectations from `to_json`'s text."""
        stored = json.loads(text)
        columns = [
            Column(
                **{
                    **column,
                    "rule": Rule(column["rule"]),
                    "categories": tuple(column["categories"]),
                }
            )
            for column in stored["columns"]
        ]
        return cls(tuple(columns), stored["fewest"], stored["most"])

    def schema(self) -> DataFrameSchema:
        """Return the rules for single values as a pandera schema.

        `check` validates with it and ignores failures that chance explains.
        """
        import pandera.pandas as pa

        def promise(column: Column) -> list[Any]:
            if column.rule is not Rule.CATEGORY:
                return [pa.Check.in_range(column.low, column.high, name=column.rule)]
            if column.categories:
                return [pa.Check.isin(column.categories, name=column.rule)]
            return []

        return pa.DataFrameSchema(
            {
                column.name: pa.Column(checks=promise(column), nullable=False)
                for column in self.columns
            }
        )


@dataclass(frozen=True)
class Violation:
    """A violation in a batch, which its source and load identify.

    `value` is the most extreme value; `share` of the rows (0-1) have such values, `expected` in the
    training data.
    """

    source: str
    load: str
    column: str
    rule: Rule
    value: str
    share: float
    expected: float
    remedy: str

    def __str__(self) -> str:
        return (
            f"{self.source}, {self.load}, {self.column}: {self.rule}, {self.value} "
            f"({self.share:.1%} of the rows, expected {self.expected:.1%}). {self.remedy}"
        )


def learn(
    frame: pd.DataFrame, volumes: Iterable[int], *, delays: Iterable[str] = ()
) -> Expectations:
    """Learn expectations from training data.

    Parameters
    ----------
    frame
        The training rows: numbers, or values that are compared as text. The rows are independent:
        one for each student, as in one week of term.
    volumes
        The rows of each batch (section, load) in which the training data arrived.
    delays
        The columns that hold days from one event to the next; a delay longer than 19 in 20 is late.

    Raises
    ------
    NotReadyError
        There are no rows or no volumes to learn from.
    """
    sizes = np.array(list(volumes), dtype=np.float64)
    # Without a column there is still a volume: in a tiny class, nothing may differ.
    if not len(frame) or not (sizes > 0).any():
        raise NotReadyError(
            "There are no rows to learn expectations from.", "Load finished sections first."
        )
    late = set(delays)
    logs = np.log(sizes[sizes > 0])
    spread = math.sqrt(float(logs.var()) + _GROWTH**2 + float(np.exp(-logs.mean())))
    plain = plain_numbers(frame)
    columns = [
        _learn_numbers(str(name), plain[name], name in late)
        if name in plain
        else _learn(str(name), frame[name], name in late)
        for name in frame
    ]
    return Expectations(
        columns=tuple(columns),
        fewest=math.exp(logs.mean() - _DEVIATIONS * spread),
        most=math.exp(logs.mean() + _DEVIATIONS * spread),
    )


def _learn(name: str, values: pd.Series, delay: bool) -> Column:
    if _is_numeric(values):
        return _learn_numbers(name, values.to_numpy(np.float64, na_value=np.nan), delay)
    known = [text for text in texts(values) if text is not None]
    rows, nulls = len(values), len(values) - len(known)
    counts = Counter(known)
    if len(counts) > _CATEGORIES:
        return Column(name, rows, nulls, Rule.CATEGORY)
    singles = sum(count == 1 for count in counts.values())
    return Column(
        name, rows, nulls, Rule.CATEGORY, categories=tuple(sorted(counts)), singles=singles
    )


def _learn_numbers(name: str, values: Floats, delay: bool) -> Column:
    rows, nulls = len(values), int(np.isnan(values).sum())
    numbers = values[np.isfinite(values)]
    if not len(numbers):
        return Column(name, rows, rows, Rule.RANGE)
    low, high = float(numbers.min()), float(numbers.max())
    if not delay:
        # Students of one class are alike: a whole class may lie beyond the classes before it.
        beyond = _BEYOND * (high - low)
        return Column(name, rows, nulls, Rule.RANGE, low - beyond, high + beyond)
    high = float(np.quantile(numbers, 0.95, method="higher"))
    late = int((numbers > high).sum())
    return Column(name, rows, nulls, Rule.DELAY, low, high, outside=late + 1)


def _is_numeric(values: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(values) and not isinstance(
        values.dtype, pd.CategoricalDtype
    )


def check(frame: pd.DataFrame, expectations: Expectations, load: Load) -> list[Violation]:
    """Return the violations in the rows of `frame`, which came with `load`.

    An empty frame violates the expected volume and nothing else. Columns without an expectation
    are not checked.
    """
    findings = [*_volume(frame, expectations), *_columns(frame, expectations)]
    return [
        Violation(load.source, load.key, column, rule, value, share, expected, _REMEDIES[rule])
        for column, rule, value, share, expected in findings
    ]


Finding = tuple[str, Rule, str, float, float]
Counts = int | Ints


def _volume(frame: pd.DataFrame, expectations: Expectations) -> Iterator[Finding]:
    if not expectations.fewest <= len(frame) <= expectations.most:
        usual = f"usual are {expectations.fewest:.0f} to {expectations.most:.0f}"
        yield "(all)", Rule.VOLUME, f"{len(frame)} rows, {usual}", 1.0, 0.0


def _columns(frame: pd.DataFrame, expectations: Expectations) -> Iterator[Finding]:
    if frame.empty:
        return
    plain = plain_numbers(frame)
    comparable: dict[str, npt.NDArray[Any]] = {}
    for column in expectations.columns:
        if column.name not in frame:
            yield column.name, Rule.MISSING, "no such column", 1.0, 0.0
        elif column.rule is Rule.CATEGORY:
            comparable[column.name] = texts(frame[column.name])
        elif column.name in plain:
            comparable[column.name] = plain[column.name]
        else:
            values = frame[column.name]
            if not _is_numeric(values) and values.notna().any():
                example = str(values.dropna().iloc[0])
                reason = f"{example!r} ({values.dtype}) is no number"
                yield column.name, Rule.TYPE, reason, 1.0, 0.0
                continue
            comparable[column.name] = values.astype(np.float64).to_numpy()
    yield from _odd_values(comparable, expectations)


def _odd_values(
    values: Mapping[str, npt.NDArray[Any]], expectations: Expectations
) -> Iterator[Finding]:
    """Return what violates the schema more often than chance explains."""
    from pandera.errors import SchemaErrors

    # The schema takes 8 ms a column, and most batches have no column with more than chance
    # explains.
    odd_columns = _unexplained(values, expectations.columns)
    if not odd_columns:
        return
    frame = pd.DataFrame({column.name: values[column.name] for column in odd_columns})
    try:
        replace(expectations, columns=odd_columns).schema().validate(frame, lazy=True)
    except SchemaErrors as errors:
        cases = errors.failure_cases
    else:
        return
    by_name = {column.name: column for column in odd_columns}
    for (name, broken), odd in cases.groupby(["column", "check"], sort=False):
        column = by_name[str(name)]
        if broken == "not_nullable":
            rule, seen = Rule.NULLS, column.nulls
        else:
            rule = column.rule
            seen = column.singles if rule is Rule.CATEGORY else column.outside
        size = len(frame) if rule is Rule.NULLS else int(frame[str(name)].notna().sum())
        known = column.rows if rule is Rule.NULLS else column.rows - column.nulls
        if _chance(len(odd), size, seen, known) < _CHANCE:
            value = _oddest(odd["failure_case"], column, rule)
            yield column.name, rule, value, len(odd) / size, min(seen / max(known, 1), 1.0)


def _unexplained(
    values: Mapping[str, npt.NDArray[Any]], columns: Iterable[Column]
) -> tuple[Column, ...]:
    """Return the columns in which the schema would report more than chance explains."""
    compared = [column for column in columns if column.name in values]
    if not compared:
        return ()
    counts = np.array([_counts(values[column.name], column) for column in compared])
    odd, rows, seen, known = np.moveaxis(counts, -1, 0)
    # The probability is computed only if odd values are more frequent than in training.
    unusual = (odd > 0) & (odd * known > seen * rows)
    if unusual.any():
        unusual[unusual] = _chance(*counts[unusual].T) < _CHANCE
    return tuple(
        column for column, is_unusual in zip(compared, unusual, strict=True) if is_unusual.any()
    )


def _counts(values: npt.NDArray[Any], column: Column) -> tuple[tuple[int, int, int, int], ...]:
    """Return `_chance`'s arguments for the nulls and for the other odd values of a column."""
    if column.rule is Rule.CATEGORY:
        known = [text for text in values if text is not None]
        # In free text, any value is expected.
        usual = set(column.categories or known)
        odd, seen = sum(text not in usual for text in known), column.singles
    else:
        known = values[~np.isnan(values)]
        odd = int(((known < column.low) | (known > column.high)).sum())
        seen = column.outside
    nulls, before = len(values) - len(known), column.rows - column.nulls
    return (nulls, len(values), column.nulls, column.rows), (odd, len(known), seen, before)


def _chance(odd: Counts, rows: Counts, seen: Counts, known: Counts) -> Floats:
    """Return the probability of `odd` or more such values in `rows`, if `seen` of `known` were.

    It is the predictive distribution of a share that is itself estimated from a sample; for values
    beyond the extremes of the sample it is exact under any distribution.
    """
    from scipy.stats import betabinom

    return np.asarray(betabinom.sf(odd - 1, rows, seen + 1, np.maximum(known - seen, 1)))


def _oddest(values: pd.Series, column: Column, rule: Rule) -> str:
    if rule is Rule.NULLS:
        return "no value"
    if rule is Rule.CATEGORY:
        return f"{values.value_counts().index[0]!r} was never seen"
    numbers = values.astype(np.float64).to_numpy()
    beyond = np.maximum(column.low - numbers, numbers - column.high)
    return f"{numbers[int(np.argmax(beyond))]:g} is not within {column.low:g} to {column.high:g}"


def arrival_delays(
    results: pd.DataFrame, assignments: pd.DataFrame, loaded_at: datetime
) -> pd.DataFrame:
    """Return how many days each result took, or has been waiting, at the newest load.

    Parameters
    ----------
    results, assignments
        Frames as in `gradebook.frames.Gradebook`.
    loaded_at
        The time of the newest load; results submitted after it are left out.

    Returns
    -------
    pandas.DataFrame
        One row for each result that was submitted: section_id, to_grade (days from submission to
        grading), waiting (days from submission to the load, if it is not graded); NaN if there is
        no such day.
    """
    day = pd.Timestamp(loaded_at).tz_localize(None).normalize().to_datetime64()
    handed_in = results["status"].isin([Status.GRADED, Status.SUBMITTED, Status.INCOMPLETE])
    rows = results[handed_in & (results["submitted_on"] <= day)]
    section = assignments.set_index("assignment_id")["section_id"].astype(object)
    submitted, graded = rows["submitted_on"].to_numpy(), rows["graded_on"].to_numpy()
    graded = np.where(graded <= day, graded, np.datetime64("NaT"))
    waiting = np.where(np.isnat(graded), day - submitted, np.timedelta64("NaT"))
    return pd.DataFrame(
        {
            "section_id": rows["assignment_id"].astype(object).map(section).to_numpy(),
            "to_grade": _days(graded - submitted),
            "waiting": _days(waiting),
        }
    )


def _days(durations: npt.NDArray[np.timedelta64]) -> Floats:
    return np.floor(durations / np.timedelta64(1, "D"))
