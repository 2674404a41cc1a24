"""Statistics by resampling whole clusters, because rows of one student are correlated."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

RESAMPLES = 1000


@dataclass(frozen=True)
class Improvement:
    """How much less the challenger loses: mean and two-sided 95% bootstrap interval, by cluster."""

    mean: float
    low: float
    high: float
    rows: int
    clusters: int

    @property
    def is_sure(self) -> bool:
        """Whether the whole interval is above 0."""
        return self.low > 0

    @property
    def figures(self) -> dict[str, float]:
        """The numbers by name."""
        return {
            "improvement": self.mean,
            "low": self.low,
            "high": self.high,
            "rows": self.rows,
            "students": self.clusters,
        }

    def __str__(self) -> str:
        return f"{self.mean:+.4f} ({self.low:+.4f} to {self.high:+.4f}, {self.clusters} students)"


def improvement(
    champion_loss: Floats,
    challenger_loss: Floats,
    clusters: npt.NDArray[np.generic],
    seed: int,
) -> Improvement:
    """Compare losses of the same rows.

    Parameters
    ----------
    clusters
        What belongs together, one value per row: the student.
    """
    import numpy as np

    gain = champion_loss - challenger_loss
    means = np.array(list(_means(gain, clusters, seed)))
    low, high = np.quantile(means, [0.025, 0.975])
    estimates = float(gain.mean()), float(low), float(high)
    return Improvement(*estimates, rows=gain.size, clusters=np.unique(clusters).size)


def deserves_champion(
    challenger_loss: Floats,
    champion_loss: float,
    clusters: npt.NDArray[np.generic],
    seed: int,
) -> bool:
    """Return whether the challenger may replace the champion.

    It may where its loss is not clearly worse: the lower one-sided 95% bootstrap bound of its mean
    loss, resampled by cluster, is not above the champion's.

    Parameters
    ----------
    challenger_loss
        Loss per row, such as squared errors.
    champion_loss
        The champion's mean loss on the same data.
    clusters
        What belongs together, one value per row: the student.
    """
    import numpy as np

    means = list(_means(challenger_loss, clusters, seed))
    return bool(np.quantile(means, 0.05) <= champion_loss)


def _means(values: Floats, clusters: npt.NDArray[np.generic], seed: int) -> Iterator[float]:
    import numpy as np

    members = np.unique(clusters, return_inverse=True)[1]
    total, size = np.bincount(members, values), np.bincount(members)
    random = np.random.default_rng(seed)
    # One resample at a time: all together would take 8 kB of memory per student.
    for _ in range(RESAMPLES):
        draw = random.integers(0, size.size, size.size)
        yield float(total[draw].sum() / size[draw].sum())
