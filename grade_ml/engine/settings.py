"""How much an engine takes on and how long it relies on what it knows, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds of one engine.

    Attributes
    ----------
    at_once
        Computations at a time. Python computes on one core, beside which one more may read.
    waiting
        Computations that wait for their turn; one takes 60 ms, so that the last of 400 waits about
        as long as a person does before asking again.
    waiting_seconds
        The longest that one waits.
    champion_seconds
        How old the knowledge may be which models serve: a promotion is followed within a minute.
    kept_seconds
        How long an answer is given again while PostgreSQL does not answer: grades change by days,
        and a restart takes minutes.
    kept_answers
        Those given last; each takes 2 to 40 kB.
    classes
        Sections whose class is kept in memory, some 500 bytes per student.
    """

    at_once: int = 2
    waiting: int = 400
    waiting_seconds: float = 30.0
    champion_seconds: float = 20.0
    kept_seconds: float = 3600.0
    kept_answers: int = 2000
    classes: int = 64


LIMITS = Limits()
