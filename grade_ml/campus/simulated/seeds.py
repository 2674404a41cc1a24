"""A random generator for each purpose, so that no draw depends on the order of other draws."""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """The purpose of a generator; with other numbers, a seed would give another campus."""

    COHORT = 1
    COURSE = 2
    CHOICE = 3
    SECTION = 4
    CONDITION = 5
    TREATMENT = 6
    RESCUE = 7
    HELP = 8
    TERM_ABILITY = 9
    TERM_LEAVING = 10
    TERM_GRADING = 11
    REDESIGN = 12


def generator(seed: int, purpose: Purpose, *place: int) -> np.random.Generator:
    """Return the generator for `purpose` at `place` (numbers of term, course, section; 0 up)."""
    sequence = np.random.SeedSequence(seed, spawn_key=(int(purpose), *place))
    return np.random.Generator(np.random.PCG64(sequence))
