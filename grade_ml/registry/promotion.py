"""Which alias a new version deserves, from its loss beside the champion's; no registry call.

Who became champion when, from which figures, stands in the table `registry.promotion`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy import Connection

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

RESAMPLES = 1000

metadata = sa.MetaData(schema="registry")

promotion = sa.Table(
    "promotion",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("model_name", sa.Text, nullable=False),
    sa.Column("from_version", sa.Integer, comment="null: there was no champion"),
    sa.Column("to_version", sa.Integer, nullable=False),
    sa.Column("decided_at", sa.TIMESTAMP(timezone=True), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("improvement", sa.Double, comment="mean loss, champion minus challenger"),
    sa.Column("low", sa.Double),
    sa.Column("high", sa.Double),
    sa.Column("row_count", sa.Integer),
    sa.Column("student_count", sa.Integer),
)


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

    def __str__(self) -> str:
        return f"{self.mean:+.4f} ({self.low:+.4f} to {self.high:+.4f}, {self.clusters} students)"


@dataclass(frozen=True)
class Promotion:
    """A version that became champion; `improvement` is None where there was no other."""

    model_name: str
    from_version: int | None
    to_version: int
    decided_at: datetime
    reason: str
    improvement: Improvement | None = None


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
    found = float(gain.mean()), float(low), float(high)
    return Improvement(*found, rows=gain.size, clusters=np.unique(clusters).size)


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


def record(connection: Connection, made: Promotion) -> None:
    """Write `made` down."""
    gain = made.improvement
    connection.execute(
        sa.insert(promotion).values(
            model_name=made.model_name,
            from_version=made.from_version,
            to_version=made.to_version,
            decided_at=made.decided_at,
            reason=made.reason,
            improvement=gain and gain.mean,
            low=gain and gain.low,
            high=gain and gain.high,
            row_count=gain and gain.rows,
            student_count=gain and gain.clusters,
        )
    )


def _means(values: Floats, clusters: npt.NDArray[np.generic], seed: int) -> Iterator[float]:
    import numpy as np

    members = np.unique(clusters, return_inverse=True)[1]
    total, size = np.bincount(members, values), np.bincount(members)
    random = np.random.default_rng(seed)
    # One resample at a time: all together would take 8 kB of memory per student.
    for _ in range(RESAMPLES):
        draw = random.integers(0, size.size, size.size)
        yield float(total[draw].sum() / size[draw].sum())
