"""What forecasters get, what they answer, and the frames that leave this package.

Nothing is computed here. All forecasters use a `Panel`: the coursework of one section as it
was on one day. Days are whole or broken days since the section's start.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from grade_ml.core.degradation import expected
from grade_ml.core.optional import absence, installed, left_out

if TYPE_CHECKING:
    import pandas as pd
    import pandera.pandas as pa

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


class Method(StrEnum):
    """The forecasters by name."""

    LAST = "last"
    MEAN = "mean"
    SLOT = "slot"
    LOCAL = "local"
    PROPHET = "prophet"
    LSTM = "lstm"
    GRU = "gru"
    BOOSTED = "boosted"


#: What needs no model: permanent members, and the standard that the others must exceed.
NAIVE = (Method.LAST, Method.MEAN)
#: Two kinds of network, of which only the one with the smaller error on unseen sections stays.
RIVALS = (Method.LSTM, Method.GRU)


@dataclass(frozen=True)
class Panel:
    """One section on one day: n students who are enrolled, m assignments by due day.

    Attributes
    ----------
    day, length
        Days since the start, and the section's days.
    started_on
        The start as days since 1970-01-01.
    students, assignments
        Ids, (n,) and (m,).
    due_day, weight, category
        (m,); weights are shares of the final grade that sum to 100, categories texts.
    score
        (n, m), 0-100: what was known on `day` of assignments that were due, 0 if missed; NaN if
        due later, or handed in and not graded yet.
    submitted
        (n, m), 1 or 0; NaN if due later and not handed in yet.
    class_submitted, class_score
        (m,): share of the whole class that handed in what was due, and mean score of those who did;
        NaN if due later, or nothing is graded yet.
    features, feature_names
        (n, k): the snapshot of the day.
    exempt
        (n, m): what is known not to count for a student.
    pass_mark
        The course's, points of 100.
    truth, truth_submitted
        (n, m), the final values, for training and tests; NaN if they do not count.
    of_class
        `score` and `submitted` of the whole class, if these are some of its students; `None` if
        they are all.
    """

    course_id: str
    section_id: str
    day: float
    length: float
    started_on: float
    students: npt.NDArray[np.object_]
    assignments: npt.NDArray[np.object_]
    due_day: Floats
    weight: Floats
    category: npt.NDArray[np.object_]
    score: Floats
    submitted: Floats
    exempt: npt.NDArray[np.bool_]
    pass_mark: float
    class_submitted: Floats
    class_score: Floats
    features: npt.NDArray[np.float32]
    feature_names: tuple[str, ...]
    truth: Floats
    truth_submitted: Floats
    of_class: tuple[Floats, Floats] | None = None

    @cached_property
    def remaining(self) -> Ints:
        """Places of the r assignments that are due after `day`, in order of horizon."""
        return np.flatnonzero(self.due_day > self.day)

    @cached_property
    def past(self) -> Ints:
        """Places of the assignments that were due."""
        return np.flatnonzero(self.due_day <= self.day)

    @property
    def shape(self) -> tuple[int, int]:
        """Return n students and r remaining assignments."""
        return len(self.students), len(self.remaining)

    @property
    def whole_class(self) -> tuple[Floats, Floats]:
        """Return `score` and `submitted` of everyone in the class."""
        return self.of_class or (self.score, self.submitted)

    def of(self, places: Ints) -> Panel:
        """Return the panel of some students; the figures of the class stay those of all."""
        own = ("students", "score", "submitted", "exempt", "features", "truth", "truth_submitted")
        chosen = {name: getattr(self, name)[places] for name in own}
        return replace(self, **chosen, of_class=self.whole_class)

    def feature(self, name: str) -> Floats:
        """Return one feature, (n,); NaN where the snapshot lacks it."""
        if name not in self.feature_names:
            return np.full(len(self.students), np.nan)
        return self.features[:, self.feature_names.index(name)].astype(np.float64)


@dataclass(frozen=True)
class Estimate:
    """One panel's answer, each (n, r): mean score (0-100, 0 if missed) and chance to hand in."""

    mean: Floats
    submit: Floats

    @classmethod
    def bounded(cls, mean: Floats, submit: Floats) -> Self:
        """Return the estimate drawn into its bounds."""
        return cls(np.clip(mean, 0, 100), np.clip(submit, 0, 1))


@dataclass
class Counts:
    """How often a method could not do its work and another did, by reason."""

    of: dict[str, int] = field(default_factory=dict)

    def add(self, reason: str, number: int = 1) -> None:
        """Count `number` more for `reason`; nothing is written for 0."""
        if number:
            self.of[reason] = self.of.get(reason, 0) + int(number)


class Forecaster(ABC):
    """One way to forecast; the same panels and seed give the same answer.

    `library` is what it imports and need not be installed; "" if nothing optional is used.
    `instead` is what it does without the library; "" if it cannot do without.
    """

    method: ClassVar[Method]
    library: ClassVar[str] = ""
    instead: ClassVar[str] = ""

    @classmethod
    def lacks(cls) -> str:
        """Return why its library is not used; "" if it is, or if it needs none."""
        if not cls.library:
            return ""
        instead = cls.instead and f"; {cls.instead}"
        if not installed(cls.library):
            return f"{cls.method}: {absence(cls.library)}{instead}"
        reason = left_out(cls.library)
        return reason and expected(f"{cls.method}: {reason}{instead}")

    @classmethod
    @abstractmethod
    def fit(cls, panels: Sequence[Panel], *, seed: int, previous: Self | None = None) -> Self:
        """Learn from panels with `truth`; `previous` is an earlier fit to start from."""

    @abstractmethod
    def forecast(self, panels: Sequence[Panel], counts: Counts) -> list[Estimate]:
        """Answer for each panel; every student and remaining assignment has finite numbers."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write to an existing folder; the same fit gives the same bytes."""

    @classmethod
    @abstractmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""


@dataclass(frozen=True)
class Forecasts:
    """The forecasts of one run.

    Attributes
    ----------
    forecasts
        Columns `FORECASTS`, one row per running enrollment and remaining assignment.
    activity
        Columns `ACTIVITY`; empty if the source has no activity.
    fallbacks
        How often a method could not answer, by method and reason.
    nothing
        Why there is nothing to forecast, by section or course.
    degraded
        Why the answer is less than it could be; empty if it is not.
    degraded_of
        The same for single courses.
    """

    forecasts: pd.DataFrame
    activity: pd.DataFrame
    fallbacks: Mapping[str, int]
    nothing: Mapping[str, str]
    degraded: tuple[str, ...]
    degraded_of: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


#: Columns of the forecasts: type, lowest and highest value. `mean` to `high95` are points of 100;
#: `day`s count from the section's start; `horizon` counts the remaining assignments by due day.
FORECASTS: Mapping[str, tuple[str, float | None, float | None]] = {
    "course_id": ("object", None, None),
    "section_id": ("object", None, None),
    "student_id": ("object", None, None),
    "assignment_id": ("object", None, None),
    "horizon": ("int64", 1, None),
    "due_day": ("float64", None, None),
    "weight": ("float64", 0, 100),
    "mean": ("float64", 0, 100),
    "median": ("float64", 0, 100),
    "submit_probability": ("float64", 0, 1),
    "low80": ("float64", 0, 100),
    "high80": ("float64", 0, 100),
    "low95": ("float64", 0, 100),
    "high95": ("float64", 0, 100),
    "method": ("object", None, None),
    "as_of": ("datetime64[ns]", None, None),
}
#: The same of weekly activity; `week` counts from 1 at the section's start.
ACTIVITY: Mapping[str, tuple[str, float | None, float | None]] = {
    "section_id": ("object", None, None),
    "student_id": ("object", None, None),
    "week": ("int64", 1, None),
    "mean": ("float64", 0, None),
    "low80": ("float64", 0, None),
    "high80": ("float64", 0, None),
}
#: History of a section by as_of: assignments that were due.
HISTORY = (
    *("section_id", "student_id", "assignment_id", "slot"),
    *("due_day", "weight", "score", "submitted"),
)
#: Assignments of a section, in order of due day.
ASSIGNMENTS = ("section_id", "assignment_id", "slot", "due_day", "weight")


def schema(columns: Mapping[str, tuple[Any, ...]] = FORECASTS) -> pa.DataFrameSchema:
    """Return the promise: types, bounds and, of forecasts, the order of the bounds."""
    import pandera.pandas as pa

    def bounds(low: float | None, high: float | None) -> list[pa.Check]:
        return [
            *([] if low is None else [pa.Check.ge(low)]),
            *([] if high is None else [pa.Check.le(high)]),
        ]

    order = [name for name in ("low95", "low80", "median", "high80", "high95") if name in columns]
    return pa.DataFrameSchema(
        {name: pa.Column(kind, bounds(low, high)) for name, (kind, low, high) in columns.items()},
        checks=[
            pa.Check(lambda rows, a=a, b=b: rows[a] <= rows[b], name=f"{a} above {b}")
            for a, b in itertools.pairwise(order)
        ],
        strict=True,
        ordered=True,
    )
