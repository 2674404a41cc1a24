"""Which alias a new version deserves, from its losses beside the champion's; no registry call."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

RESAMPLES = 1000


def deserves_champion(
    challenger_loss: npt.NDArray[np.float64],
    champion_loss: npt.NDArray[np.float64] | None,
    clusters: npt.NDArray[np.generic],
    seed: int,
) -> bool:
    """Return whether the challenger may replace the champion.

    It may where there is no champion, or where its loss is not clearly worse: the one-sided 95%
    bootstrap bound of its mean loss above the champion's, resampled by cluster, is not above 0.

    Parameters
    ----------
    challenger_loss, champion_loss
        Loss per row on the same rows, such as squared errors; None: there is no champion.
    clusters
        What belongs together, one value per row: the student.
    """
    import numpy as np

    if champion_loss is None:
        return True
    members = np.unique(clusters, return_inverse=True)[1]
    excess = np.bincount(members, challenger_loss - champion_loss)
    size = np.bincount(members)
    random = np.random.default_rng(seed)
    # One resample at a time: all together would take 8 kB of memory per student.
    draws = (random.integers(0, size.size, size.size) for _ in range(RESAMPLES))
    means = [excess[draw].sum() / size[draw].sum() for draw in draws]
    return bool(np.quantile(means, 0.05) <= 0)
