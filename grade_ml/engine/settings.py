"""How much an engine computes at once and how long it uses what it has read, with the reasons."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds of one engine.

    Attributes
    ----------
    at_once
        Computations at a time. Python computes on one core, while another thread may read.
    waiting
        Computations that wait for their turn; one takes 60 ms, so that the last of 400 waits about
        as long as a person does before trying again.
    waiting_seconds
        The longest that a computation waits.
    champion_seconds
        How old the list of champions may be: a promotion takes effect within a minute.
    kept_seconds
        How long an answer is repeated while PostgreSQL is unavailable: grades change by days, and a
        restart takes minutes.
    kept_answers
        The number of last explanations and forecasts kept; each takes 2 to 40 kB.
    kept_predictions
        The number of last predictions kept: enough for a university. Each takes 1 kB.
    kept_calls
        The number of calls for many whose students are kept.
    classes
        Sections whose class is kept in memory, some 500 bytes per student.
    """

    at_once: int = 2
    waiting: int = 400
    waiting_seconds: float = 30.0
    champion_seconds: float = 20.0
    kept_seconds: float = 3600.0
    kept_answers: int = 2000
    kept_predictions: int = 30_000
    kept_calls: int = 100
    classes: int = 64


LIMITS = Limits()
