"""The judgements behind risk periods, interventions and anomalies, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RiskSettings:
    """What was decided rather than learned."""

    #: Futures of one enrollment that are drawn. Chances are known to about .02: stratified draws,
    #: the same for all; twice as many take twice as long.
    draws: int = 256
    #: Forecasts that are drawn at once: 10,000 x 256 numbers are 20 MB, a few times.
    at_once: int = 10_000
    #: Enrollments on which the dependence between a student's remaining scores is learned: six
    #: values are tried on all futures of every one of them.
    most_for_dependence: int = 1_000
    #: Values of the dependence that are tried.
    dependences: tuple[float, ...] = (0.0, 0.2, 0.4, 0.6, 0.8, 0.95)
    #: Rows and events below which chances stay as simulated.
    least_rows: int = 200
    least_events: int = 20
    #: A week is at risk if it is more likely than not to go wrong. As chances are calibrated, what
    #: is flagged then comes true at least every second time.
    threshold: float = 0.5
    #: Days without any action after which a student is silent: two weekly sessions were skipped.
    silent_days: float = 14.0
    #: Points by which the last score lies below the mean of those before to count as falling:
    #: about a standard deviation of a student's own scores on OULAD.
    falling_points: float = 10.0
    #: A week is heavy if this many times the usual weight of a week with work is due in it.
    heavy: float = 1.5
    #: Among what is called an anomaly, the share that may be none (Benjamini and Hochberg).
    false_discoveries: float = 0.1
    #: Days that count as new: what the last weekly meeting has not seen.
    new_days: int = 7
    #: Points that half a band has at least; a band of no width would make every point a surprise.
    least_band: float = 5.0
    #: Assignments handed in one after the other that make a rhythm.
    rhythm: int = 3
    #: Actions in the three weeks before the last below which silence is nothing new.
    least_actions: float = 15.0
    #: Reference values that are stored of each kind: more change no p-value above .001.
    most_reference: int = 5_000


SETTINGS = RiskSettings()
