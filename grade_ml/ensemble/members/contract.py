"""What every member of an ensemble promises: fit, predict, explain, save, load.

A member predicts one number per row from an encoded matrix (float32, NaN: missing). Which rows it
is fitted on, which columns it sees and what becomes of its number is decided above. Members know
nothing of each other.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
Parameters = Mapping[str, float]


class Task(StrEnum):
    """What is predicted: points still to come (0-100), or the score of failing or withdrawing."""

    GRADE = "grade"
    RISK = "risk"


class View(StrEnum):
    """Which columns a member sees, besides those that both see.

    On a course's own scale: counts, days, weights and the course itself. Beside the class: places
    in the class of the same day, which mean the same in a course that was never seen.
    """

    OWN_SCALE = "own_scale"
    BESIDE_CLASS = "beside_class"


@dataclass(frozen=True)
class Range:
    """What a parameter may be: between `low` and `high`, on a log scale or not, whole or not."""

    low: float
    high: float
    log: bool = False
    whole: bool = False


class Member(ABC):
    """A fitted model of one task.

    Equal rows, parameters, seed and number of threads give an equal model and equal files.

    Attributes
    ----------
    name
        How it is called in weights, parameters and file names.
    library
        The module it needs.
    task
        What it was fitted for.
    """

    name: ClassVar[str]
    library: ClassVar[str]
    task: Task

    @classmethod
    def available(cls) -> bool:
        """Return whether its library is installed."""
        return find_spec(cls.library) is not None

    @classmethod
    def view(cls, task: Task) -> View:
        """Return which columns it is given.

        Who fails, fails beside a class: with the places in it 1 - AUC of the risk is 3 % lower on
        OULAD's next term. The points to come are on the course's own scale.
        """
        return View.BESIDE_CLASS if task is Task.RISK else View.OWN_SCALE

    @classmethod
    @abstractmethod
    def defaults(cls, task: Task) -> dict[str, float]:
        """Return the parameters it has before any tuning."""

    @classmethod
    @abstractmethod
    def space(cls, task: Task) -> dict[str, Range]:
        """Return which of its parameters are tuned, and between which bounds."""

    @classmethod
    @abstractmethod
    def fit(  # noqa: PLR0913 - what a model is made of
        cls,
        matrix: Matrix,
        target: Floats,
        weight: Floats,
        task: Task,
        parameters: Parameters,
        *,
        seed: int,
        threads: int,
    ) -> Self:
        """Fit to rows.

        Parameters
        ----------
        matrix
            Shape (rows, features).
        target
            Points still to come, or 0 and 1 (both occur) for the risk.
        weight
            Positive, per row.
        parameters
            As `defaults`, or other values in `space`.
        """

    @abstractmethod
    def predict(self, matrix: Matrix) -> Floats:
        """Return points, or a score that rises with the risk (no probability), per row."""

    @abstractmethod
    def contributions(self, matrix: Matrix) -> Floats:
        """Return what each feature adds to each prediction: shape (rows, features + 1).

        The last column is the base value; a row sums to its prediction.
        """

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write the model into `folder`, in its library's own format, without pickle."""

    @classmethod
    @abstractmethod
    def load(cls, folder: Path, task: Task) -> Self:
        """Read what `save` wrote."""

    @classmethod
    def path(cls, folder: Path, task: Task, suffix: str) -> Path:
        """Return the file in which a member of `task` is stored."""
        return folder / f"{cls.name}_{task}.{suffix}"


def scaled(rows: int, share: float, low: int, high: int) -> int:
    """Return a number of rows, such as the least of a leaf, that grows with the data."""
    return int(np.clip(rows * share, low, high))


def rounds(parameters: Parameters, rows: int) -> int:
    """Return how many trees boosting adds for so many rows.

    Parameters state it for OULAD's folds of 65,000 rows. Weekly rows of few students are nearly the
    same, and boosting learns them by heart: with a quarter of the rounds, its Brier scores on
    campuses of 300 to 1,500 enrollments are 3 to 7% lower on the next term.
    """
    return max(int(parameters["rounds"] * np.clip(rows / 65_000, 0.25, 1)), 1)


def as_matrix(values: Any) -> Floats:
    """Return `values` as float64."""
    return np.asarray(values, dtype=np.float64)
