"""One random generator for each thing that is drawn, so that no draw depends on another's place."""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """What a generator is for; the numbers are part of what a seed means."""

    COHORT = 1
    COURSE = 2
    CHOICE = 3
    SECTION = 4
    CONDITION = 5
    TREATMENT = 6
    RESCUE = 7
    HELP = 8


def generator(seed: int, purpose: Purpose, *place: int) -> np.random.Generator:
    """Return the generator for `purpose` at `place` (numbers of term, course, section; 0 up)."""
    sequence = np.random.SeedSequence(seed, spawn_key=(int(purpose), *place))
    return np.random.Generator(np.random.PCG64(sequence))
