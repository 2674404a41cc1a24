"""The judgements about when experiments open, how long they last and what they wait for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LifecycleSettings:
    """How far ahead an experiment plans, in days."""

    #: A term: a challenger is judged within it. Beyond, gradebooks know few due dates.
    horizon: int = 120

    #: A watch looks at so many days with labels; its bound spends early, so that a tenth more error
    #: shows within two batches. Until it ends, the next challenger waits.
    watch: int = 28

    #: Scores of so many days estimate the scores of a week if due dates are not known ahead.
    recent: int = 28

    #: Correlation of two versions' losses on one label, which determines the effect that a shadow
    #: detects. At .8 it needs a tenth of a split's students; finished shadows will give a better
    #: estimate.
    alike_losses: float = 0.8

    #: Fewer pairs of student and assignment do not estimate the spread of scores.
    least_pairs: int = 100


LIFECYCLE = LifecycleSettings()
