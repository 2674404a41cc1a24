"""Split-conformal intervals around a predicted grade, by phase of the section.

Residuals of held-out rows are divided by their expected size; the quantiles of the ratio, taken
apart for each phase (Mondrian) and for each side, are the widths of later intervals. Vovk,
Gammerman & Shafer 2005; Lei et al. 2018 (normalised residuals); Romano, Patterson & Candes 2019
(the two sides apart).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

LEVELS = (80, 95)
#: Bounds of the phases by progress (0-1). Errors shrink along the course, so the quantiles of one
#: phase do not fit another.
PHASE_BOUNDS = (0.2, 0.4, 0.6, 0.8)
#: A phase with fewer held-out rows takes the quantiles of all rows: 95% needs some in each tail.
MIN_PHASE_ROWS = 400


@dataclass(frozen=True)
class Conformal:
    """Quantiles of the residual ratio per phase: shape (phases, 2 * levels), lower then upper."""

    quantiles: Floats

    @classmethod
    def fit(cls, ratio: Floats, progress: Floats) -> Self:
        """Learn from held-out rows.

        Parameters
        ----------
        ratio
            (Truth minus prediction) over expected absolute error.
        progress
            Share of the section's days passed, 0-1.
        """
        phase = np.digitize(progress, PHASE_BOUNDS)
        everywhere = _quantiles(ratio)
        return cls(
            np.array(
                [
                    _quantiles(ratio[phase == i])
                    if (phase == i).sum() >= MIN_PHASE_ROWS
                    else everywhere
                    for i in range(len(PHASE_BOUNDS) + 1)
                ]
            )
        )

    def intervals(self, grade: Floats, scale: Floats, progress: Floats) -> dict[str, Floats]:
        """Return lower80, upper80, lower95 and upper95 in points, in 0-100, around `grade`."""
        chosen = self.quantiles[np.digitize(progress, PHASE_BOUNDS)]
        bounds: dict[str, Floats] = {}
        for i, level in enumerate(LEVELS):
            lower = grade + chosen[:, i] * scale
            upper = grade + chosen[:, i + len(LEVELS)] * scale
            bounds[f"lower{level}"] = np.clip(np.minimum(lower, grade), 0, 100)
            bounds[f"upper{level}"] = np.clip(np.maximum(upper, grade), 0, 100)
        return bounds

    def to_dict(self) -> dict[str, Any]:
        """Return the quantiles as plain values."""
        return {"quantiles": self.quantiles.tolist()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return what `to_dict` described."""
        return cls(np.array(values["quantiles"], dtype=np.float64))


def _quantiles(ratio: Floats) -> Floats:
    """Return the finite-sample corrected quantiles: a share of (n + 1), at most the extremes."""
    n = ratio.size
    tails = np.array([(1 - level / 100) / 2 for level in LEVELS])
    low = np.clip(tails * (n + 1) / n - 1 / n, 0, 1)
    return np.concatenate([np.quantile(ratio, low), np.quantile(ratio, 1 - low)])
