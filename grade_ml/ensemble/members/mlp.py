"""scikit-learn's multilayer perceptron on standardised columns, stored by skops."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from grade_ml.ensemble import persistence
from grade_ml.ensemble.members.contract import (
    Floats,
    Matrix,
    Member,
    Parameters,
    Range,
    Task,
    View,
    as_matrix,
    scaled,
)

#: Values this many standard deviations out are drawn in: a network extrapolates without bound.
_BOUND = 3.0


@dataclass(frozen=True)
class Perceptron(Member):
    """A network of two hidden layers of rectified units; the risk is its log-odds."""

    name = "mlp"
    library = "sklearn"
    task: Task
    #: Median and standard deviation of each column.
    centre: Floats
    spread: Floats
    #: Weights (inputs, units) and biases of each layer, the output last.
    layers: Sequence[tuple[Floats, Floats]]

    @classmethod
    def view(cls, task: Task) -> View:
        """See `Member.view`; a network goes astray on the scale of a course that it does not know.

        On OULAD's next term, points to come: RMSE 14.3 instead of 15.2.
        """
        return View.BESIDE_CLASS

    @classmethod
    def defaults(cls, task: Task) -> dict[str, float]:
        """See `Member.defaults`."""
        return {"units": 64, "alpha": 1.0, "learning_rate": 0.001, "epochs": 12}

    @classmethod
    def space(cls, task: Task) -> dict[str, Range]:
        """See `Member.space`."""
        return {
            "units": Range(16, 128, log=True, whole=True),
            "alpha": Range(0.03, 10, log=True),
            "learning_rate": Range(5e-4, 4e-3, log=True),
            "epochs": Range(6, 24, whole=True),
        }

    @classmethod
    def fit(  # noqa: PLR0913
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
        """See `Member.fit`; the library uses the threads that the process is limited to."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.neural_network import MLPClassifier, MLPRegressor

        centre, spread = _location(matrix)
        kind = MLPRegressor if task is Task.GRADE else MLPClassifier
        units = int(parameters["units"])
        low, unit = (target.mean(), target.std() or 1.0) if task is Task.GRADE else (0.0, 1.0)
        network = kind(
            hidden_layer_sizes=(units, max(units // 2, 4)),
            alpha=parameters["alpha"],
            learning_rate_init=parameters["learning_rate"],
            batch_size=scaled(len(matrix), 1 / 100, 16, 512),
            max_iter=int(parameters["epochs"]),
            random_state=seed,
        )
        with warnings.catch_warnings():
            # A fixed number of epochs is the point.
            warnings.simplefilter("ignore", ConvergenceWarning)
            network.fit(_scale(matrix, centre, spread), (target - low) / unit, sample_weight=weight)
        weights, biases = map(as_matrix, network.coefs_), map(as_matrix, network.intercepts_)
        *hidden, (last, bias) = zip(weights, biases, strict=True)
        return cls(task, centre, spread, [*hidden, (last * unit, bias * unit + low)])

    def predict(self, matrix: Matrix) -> Floats:
        """See `Member.predict`."""
        values = _scale(matrix, self.centre, self.spread)
        for weights, bias in self.layers[:-1]:
            values = np.maximum(values @ weights + bias, 0)
        weights, bias = self.layers[-1]
        return as_matrix(values @ weights + bias)[:, 0]

    def contributions(self, matrix: Matrix) -> Floats:
        """See `Member.contributions`.

        DeepLIFT's rescale rule (Shrikumar, Greenside & Kundaje 2017) against the row of medians:
        each unit hands its difference back to its inputs in proportion, so rows add up exactly.
        """
        start = _scale(matrix, self.centre, self.spread)
        values, reference = start, np.zeros((1, start.shape[1]))
        slopes = []
        for weights, bias in self.layers[:-1]:
            before, before_reference = values @ weights + bias, reference @ weights + bias
            values, reference = np.maximum(before, 0), np.maximum(before_reference, 0)
            change = before - before_reference
            flat = np.abs(change) < 1e-9
            slope = (values - reference) / np.where(flat, 1, change)
            slopes.append(np.where(flat, before > 0, slope))
        weights, bias = self.layers[-1]
        handed = np.broadcast_to(weights[:, 0], values.shape)
        for (inner, _), slope in zip(reversed(self.layers[:-1]), reversed(slopes), strict=True):
            handed = (handed * slope) @ inner.T
        base = np.full((len(matrix), 1), (reference @ weights + bias)[0, 0])
        return np.hstack([as_matrix(handed * start), base])

    def save(self, folder: Path) -> None:
        """See `Member.save`."""
        layers = [list(layer) for layer in self.layers]
        fitted = {"centre": self.centre, "spread": self.spread, "layers": layers}
        persistence.save(fitted, self.path(folder, self.task, "skops"))

    @classmethod
    def load(cls, folder: Path, task: Task) -> Self:
        """See `Member.load`."""
        fitted: Any = persistence.load(cls.path(folder, task, "skops"))
        layers = [(weights, bias) for weights, bias in fitted["layers"]]
        return cls(task, fitted["centre"], fitted["spread"], layers)


def _location(matrix: Matrix) -> tuple[Floats, Floats]:
    """Return median and standard deviation of the known values of each column; 0 and 1 without."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # columns without a known value
        centre, spread = np.nanmedian(matrix, axis=0), np.nanstd(matrix, axis=0)
    return as_matrix(np.nan_to_num(centre)), as_matrix(np.where(spread > 0, spread, 1))


def _scale(matrix: Matrix, centre: Floats, spread: Floats) -> Floats:
    """Return standardised values; a missing value becomes the median."""
    return as_matrix(np.nan_to_num(((matrix - centre) / spread).clip(-_BOUND, _BOUND)))
