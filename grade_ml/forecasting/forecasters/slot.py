"""The mean of the course's earlier students in that slot, moved to the student's level."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from grade_ml.forecasting.contract import Counts, Estimate, Floats, Forecaster, Method, Panel
from grade_ml.forecasting.slots import Slots

#: Own results that weigh as much as the record of the slot.
_OWN = 2.0


@dataclass(frozen=True)
class SlotMean(Forecaster):
    """Chance to hand in, and score given that: the slot's, drawn towards the student's own."""

    method = Method.SLOT
    slots: Slots

    @classmethod
    def fit(cls, panels: Sequence[Panel], *, seed: int, previous: Self | None = None) -> Self:
        """See `Forecaster.fit`."""
        return cls(Slots.fit(panels))

    def forecast(self, panels: Sequence[Panel], counts: Counts) -> list[Estimate]:
        """See `Forecaster.forecast`."""
        answers = []
        for panel in panels:
            submit, given, behind = (values[panel.remaining] for values in self.slots.of(panel))
            counts.add(
                f"{self.method}: no record of the slot, level of all courses",
                (behind == 0).sum() * panel.shape[0],
            )
            handed_in = panel.submitted[:, panel.past]
            scores = np.where(handed_in == 1, panel.score[:, panel.past], np.nan)
            chance = _towards_own(submit, handed_in, panel.class_submitted[panel.past])
            chance = np.clip(chance, 0.01, 0.99)
            score = np.clip(_towards_own(given, scores, panel.class_score[panel.past]), 0, 100)
            answers.append(Estimate.bounded(chance * score, chance))
        return answers

    def save(self, folder: Path) -> None:
        """See `Forecaster.save`."""
        self.slots.save(folder)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """See `Forecaster.load`."""
        return cls(Slots.load(folder))


def _towards_own(of_slot: Floats, own: Floats, of_class: Floats) -> Floats:
    """Return (n, r): the slot's level plus the student's mean distance to the class, shrunken."""
    distance = own - of_class
    known = ~np.isnan(distance)
    total = np.where(known, distance, 0.0).sum(1)
    return np.asarray(of_slot + (total / (known.sum(1) + _OWN))[:, None])
