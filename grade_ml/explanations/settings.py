"""The judgements of this package, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ExplanationSettings:
    """The settings of explanations; points are 0-100, shares and risks 0-1."""

    #: Explaining a row costs about as much as predicting so many: threads pay off sooner.
    work: int = 100
    #: Orders of features, each forwards and backwards, where contributions are sampled. Each costs
    #: as many predictions as there are features; sums are exact with one already.
    orders: int = 2
    #: The size of the matrix of hypothetical rows that is predicted at once: 64 MB.
    most_cells: int = 16_000_000
    #: Rows explained and written at once, which bounds the memory.
    rows_at_once: int = 5_000

    #: Resamples of students for an interval.
    resamples: int = 400
    #: Width of the band in standard deviations: each nightly run checks a dozen features of a
    #: hundred courses.
    band: float = 3.0
    #: Features whose importance is watched and drawn; the others add up to little.
    watched: int = 12
    #: A group of fewer students has no importance and no fairness, a course of fewer no surrogate.
    least_students: int = 30

    #: The largest depth of the surrogate, and the most rows that it learns from.
    surrogate_depth: int = 4
    surrogate_rows: int = 3_000

    #: The risk from which a student is counted as selected for help.
    selected_risk: float = 0.5
    #: The largest gap of a group to all others that is allowed.
    most_gap_mae: float = 3.0
    most_gap_bias: float = 3.0
    most_gap_calibration: float = 0.08
    most_gap_selection: float = 0.25
    most_gap_false_negatives: float = 0.15
    #: Probability of any false alarm in one comparison of all groups.
    alpha: float = 0.05


SETTINGS = ExplanationSettings()
