"""The judgements of this room, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ExplanationSettings:
    """What explanations take for granted; points are 0-100, shares and risks 0-1."""

    #: Explaining a row costs about as much as predicting so many: it pays for threads sooner.
    work: int = 100
    #: Orders of features, each forwards and backwards, where contributions are sampled. Each costs
    #: as many predictions as there are features; sums are exact with one already.
    orders: int = 2
    #: Of the matrix of hypothetical rows that is predicted at once: 64 MB.
    most_cells: int = 16_000_000
    #: Rows explained and written at once, which bounds the memory.
    rows_at_once: int = 5_000

    #: Resamples of students behind an interval.
    resamples: int = 400
    #: Width of the band in standard deviations: a dozen features of a hundred courses are looked at
    #: each night.
    band: float = 3.0
    #: Features whose importance is watched and drawn; the others add up to little.
    watched: int = 12
    #: A group of fewer students has no importance, no fairness and no course has a surrogate.
    least_students: int = 30

    #: Questions that the surrogate asks at most, and the rows that it learns from.
    surrogate_depth: int = 4
    surrogate_rows: int = 3_000

    #: The risk from which a student is counted as selected for help.
    selected_risk: float = 0.5
    #: Largest difference of a group to all others that is not an error.
    most_gap_mae: float = 3.0
    most_gap_bias: float = 3.0
    most_gap_calibration: float = 0.08
    most_gap_selection: float = 0.25
    most_gap_false_negatives: float = 0.15
    #: Chance of any wrong alarm in one look at all groups.
    alpha: float = 0.05


SETTINGS = ExplanationSettings()
