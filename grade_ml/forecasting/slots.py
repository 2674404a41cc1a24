"""What is known of an assignment from earlier sections: how many hand it in, and their scores.

A slot is a course, a category and the rank within it by due day: the second essay of a course is
compared with its second essays before. Means are shrunken to those of all courses at that time of a
section (empirical Bayes with a fixed prior weight).
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from grade_ml.forecasting.contract import Floats, Ints, Panel

#: The weight of the parent's mean, in enrollments.
PRIOR = 40.0
#: Parts of a section in which courses without a record of their own are compared.
_PARTS = 5
_FILE = "slots.json"

_Key = tuple[str, ...]


@dataclass(frozen=True)
class Slots:
    """Sums (enrollments, handed in, graded, points) by key, in all and by section."""

    total: dict[_Key, Floats]
    by_section: dict[tuple[str, _Key], Floats]

    @classmethod
    def fit(cls, panels: Sequence[Panel]) -> Self:
        """Count each section once, by the panel of its first day."""
        total: dict[_Key, Floats] = defaultdict(lambda: np.zeros(4))
        by_section: dict[tuple[str, _Key], Floats] = defaultdict(lambda: np.zeros(4))
        first = {}
        for panel in sorted(panels, key=lambda panel: -panel.day):
            first[panel.section_id] = panel
        for panel in first.values():
            handed_in, points = panel.truth_submitted, panel.truth
            graded = (handed_in == 1) & ~np.isnan(points)
            sums = np.stack(
                [
                    (~np.isnan(handed_in)).sum(0),
                    (handed_in == 1).sum(0),
                    graded.sum(0),
                    np.where(graded, points, 0).sum(0),
                ],
                axis=1,
            ).astype(np.float64)
            for keys in _keys(panel):
                for key, values in zip(keys, sums, strict=True):
                    total[key] = total[key] + values
                    by_section[panel.section_id, key] = by_section[panel.section_id, key] + values
        return cls(dict(total), dict(by_section))

    def of(self, panel: Panel) -> tuple[Floats, Floats, Floats]:
        """Return (m,) the share that hands in, the mean score of those, and enrollments behind it.

        Without what the panel's own section has added: in training it would reveal the answer.
        """
        submit, given, behind = np.full((3, len(panel.assignments)), np.nan)
        for keys in _keys(panel):
            for place, key in enumerate(keys):
                own = self.by_section.get((panel.section_id, key), 0.0)
                number, handed_in, graded, points = self.total.get(key, np.zeros(4)) - own
                submit[place] = _shrunken(handed_in, number, submit[place], 0.75)
                given[place] = _shrunken(points, graded, given[place], 70.0)
                behind[place] = number
        return submit, given, behind

    def save(self, folder: Path) -> None:
        """Write the sums as JSON."""
        rows = [["", *key, *values.tolist()] for key, values in sorted(self.total.items())]
        rows += [
            [section, *key, *values.tolist()]
            for (section, key), values in sorted(self.by_section.items())
        ]
        (folder / _FILE).write_text(json.dumps(rows))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        total, by_section = {}, {}
        for section, *key, enrolled, handed_in, graded, points in json.loads(
            (folder / _FILE).read_text()
        ):
            values = np.array([enrolled, handed_in, graded, points])
            if section:
                by_section[section, tuple(key)] = values
            else:
                total[tuple(key)] = values
        return cls(total, by_section)


def _shrunken(total: float, number: float, parent: float, unknown: float) -> float:
    """Return the mean drawn towards `parent`, or towards `unknown` where there is none."""
    start = unknown if np.isnan(parent) else parent
    return float((total + PRIOR * start) / (number + PRIOR))


def _keys(panel: Panel) -> list[list[_Key]]:
    """Return the keys of each assignment, from the widest to the narrowest."""
    part = np.clip((_PARTS * panel.due_day / max(panel.length, 1)).astype(int), 0, _PARTS - 1)
    counts = np.where(panel.weight > 0, "counts", "free")
    rank, _ = ranks(panel)
    return [
        [("", "", "") for _ in part],
        [("", str(a), str(b)) for a, b in zip(counts, part, strict=True)],
        [(panel.course_id, "", str(a)) for a in panel.category],
        [(panel.course_id, str(a), str(b)) for a, b in zip(panel.category, rank, strict=True)],
    ]


def ranks(panel: Panel) -> tuple[Ints, Ints]:
    """Return (m,) the rank of each assignment in its category, from 0, and the category's size."""
    rank, size = np.zeros((2, len(panel.category)), dtype=np.int64)
    for category in set(panel.category.tolist()):
        own = np.flatnonzero(panel.category == category)
        rank[own], size[own] = np.arange(len(own)), len(own)
    return rank, size
