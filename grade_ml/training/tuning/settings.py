"""The judgements of the search for parameters, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TuningSettings:
    """The judgements of the search, each with its reason."""

    #: Rows a trial is fitted on, per fold. All of OULAD's 65,000 cost four times as much, and what
    #: a search lacks is trials; leaves and batches are shares of the rows, so they carry over.
    max_rows: int = 20_000
    #: One student in so many is a judge.
    judges: int = 5
    #: With fewer judging students the best of many trials is the luckiest trial.
    min_students: int = 30
    #: Trials at random (the first ones included) before the sampler learns from them, and before
    #: one is stopped early: the defaults are good, so most of a random draw is wasted.
    startup_trials: int = 5
    #: With fewer finished trials an importance is noise.
    importance_trials: int = 10
    #: A month of ten studies per nightly run; older studies only fill the disk.
    kept_studies: int = 300


SETTINGS = TuningSettings()
