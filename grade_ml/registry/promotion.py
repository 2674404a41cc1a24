"""Which alias a new version deserves, from its loss beside the champion's; no registry call."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

RESAMPLES = 1000


def deserves_champion(
    challenger_loss: npt.NDArray[np.float64],
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

    members = np.unique(clusters, return_inverse=True)[1]
    total = np.bincount(members, challenger_loss)
    size = np.bincount(members)
    random = np.random.default_rng(seed)
    # One resample at a time: all together would take 8 kB of memory per student.
    draws = (random.integers(0, size.size, size.size) for _ in range(RESAMPLES))
    means = [total[draw].sum() / size[draw].sum() for draw in draws]
    return bool(np.quantile(means, 0.05) <= champion_loss)
