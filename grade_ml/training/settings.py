"""The judgements about when to train, on how much, and what may serve, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TrainingSettings:
    """How much is read, and what a new version must show on sections that it had not seen."""

    #: More snapshots are not read at once: they are 400 bytes each, several times over while they
    #: are joined. It is twice OULAD's weekly ones, of which a fit uses a sixth.
    max_snapshots: int = 1_000_000

    #: The pooled model is fitted again when sections with this share of the outcomes changed; less
    #: is taken in by the courses' corrections, which cost seconds and not minutes.
    refit_share: float = 0.05

    #: How far below its promise an interval may fall: within a section the errors go together, and
    #: held-out figures are low where sections are few (OULAD, three sections: .76 and .89; nine:
    #: .78 and .93, where the next term then showed .84 and .96).
    coverage80: float = 0.7
    coverage95: float = 0.85

    #: Twice what OULAD's next term showed at its worst cut; above, a risk is not a probability.
    #: What chance adds where students are few comes on top: among 100 it alone makes .15.
    most_ece: float = 0.06

    #: The ensemble must be better than the baseline on so many sections: of fewer, a standard error
    #: is chance itself.
    min_sections: int = 4
    #: By how much either of its errors may be larger, as a logarithm, where the other is smaller.
    most_worse: float = 0.01

    #: Points and log-odds; single precision of the members lets sums differ by this much.
    additivity: float = 1e-3


SETTINGS = TrainingSettings()
