"""The package's judgements as one typed class, each with its reason beside it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ForecastSettings:
    """What was decided rather than learned."""

    #: Days of a training section on which models look ahead: more are more of the same rows.
    origins: int = 8
    #: Rows (student, day, remaining assignment) to learn from; time grows with them.
    most_rows: int = 120_000
    #: Rows on which weights and bands are learned, and of which local methods are tried.
    most_held_out: int = 45_000
    #: Parts that training sections are divided into; each is forecast by models of the others.
    folds: int = 3
    #: Held-out rows that a course needs for weights and bands of its own; below, those of all
    #: courses serve it. 95% bands of 500 rows rest on 25 values outside.
    own_rows: int = 500
    #: Last horizons of each bucket but the open one at the end.
    buckets: tuple[int, ...] = (1, 2, 4)
    #: Results below which a local method is noise, and from which on ARIMA has enough to go by.
    least_local: int = 4
    least_arima: int = 12
    #: Course-level series that Prophet is given in one run: it does about 10 a second.
    most_prophet: int = 100
    #: Epochs without gain before the network stops, and the most it is given.
    patience: int = 2
    epochs: int = 12
    #: Sequences that the network learns from in one epoch.
    most_sequences: int = 30_000
    #: Sections that are new or changed, as a share of those learned from, that call for a new fit.
    changed: float = 0.02


SETTINGS = ForecastSettings()
