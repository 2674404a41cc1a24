"""The record of a model at its promotion: its predictions of rows that it had not seen.

They are the baseline of everything that is monitored afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from grade_ml.core.degradation import expected
from grade_ml.ensemble.course import CourseModel
from grade_ml.ensemble.evaluation import phases
from grade_ml.ensemble.groups import Bands
from grade_ml.ensemble.pooled import PooledModel
from grade_ml.serving.models import Served

_NOWHERE = np.zeros(0, np.int64)


@dataclass(frozen=True)
class Champion:
    """The model that serves a course.

    Attributes
    ----------
    name
        Name and version, such as "pooled 3".
    held_out
        One row per held-out prediction of the course: section_id, course_id, student (a hash), on
        (date of the cut), progress (0-1), phase, collected and weight_remaining (points), fold,
        final_grade, at_risk, grade, the bounds of its intervals, and risk. Empty if the model
        stores none.
    audit
        Errors by protected attribute on all courses (see `ensemble.evaluation.by_group`).
    sections
        The sections whose outcomes the model has seen.
    degraded
        Why no better model serves the course, or why less than usual is known of this model.
    everywhere, places
        The held-out rows of all courses, and the positions of the course's rows among them.
    bands
        The bands of the groups of `audit`.
    changed_on
        The day from which the model allows for changed scores; None if it knows of no change.
    share
        The share by which the model stretches the points to come since that day.
    """

    name: str
    features: tuple[str, ...]
    sections: frozenset[str]
    held_out: pd.DataFrame
    audit: pd.DataFrame
    degraded: tuple[str, ...]
    everywhere: pd.DataFrame
    places: npt.NDArray[np.int64]
    bands: Bands = field(default_factory=dict)
    changed_on: date | None = None
    share: float = 0.0


class Champions:
    """The champions of courses; the record of a pooled model is divided among the courses once.

    Parameters
    ----------
    sections
        section_id, starts_on and ends_on of all sections that a model may know.
    """

    def __init__(self, sections: pd.DataFrame) -> None:
        self._sections = sections
        self._records: dict[int, _Record] = {}

    def of(self, course: str, served: Served) -> Champion:
        """Return the model that is served for a course, with its record."""
        name, model = f"{served.version.name} {served.version.version}", served.model
        pooled = model.pooled if isinstance(model, CourseModel) else model
        if not isinstance(pooled, PooledModel):
            why = f"{name} serves, which keeps no predictions of rows it had not seen"
            nothing, problems = pd.DataFrame(), (*served.degraded, expected(why))
            known = frozenset(model.sections)
            return Champion(
                name, model.features, known, nothing, nothing, problems, nothing, _NOWHERE
            )
        if id(pooled) not in self._records:
            self._records[id(pooled)] = _Record.of(pooled, self._sections)
        record = self._records[id(pooled)]
        places = record.places.get(course, _NOWHERE)
        known_change = (model.changed_on, model.share) if isinstance(model, CourseModel) else ()
        return Champion(
            name,
            model.features,
            record.sections,
            record.held_out.iloc[places],
            pooled.audit,
            served.degraded,
            record.held_out,
            places,
            pooled.bands,
            *known_change,
        )


@dataclass(frozen=True)
class _Record:
    """The held-out rows of a pooled model, their positions by course, and the sections seen."""

    held_out: pd.DataFrame
    places: Mapping[str, npt.NDArray[np.int64]]
    sections: frozenset[str]

    @classmethod
    def of(cls, pooled: PooledModel, sections: pd.DataFrame) -> Self:
        held_out = _dated(pooled.held_out, sections)
        places = {
            str(name): np.asarray(rows)
            for name, rows in held_out.groupby("course_id").indices.items()
        }
        return cls(held_out, places, frozenset(pooled.sections))


def _dated(held_out: pd.DataFrame, sections: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with date and phase, without those of sections that no longer exist."""
    by_section = sections.set_index("section_id")
    length = held_out["section_id"].map((by_section["ends_on"] - by_section["starts_on"]).dt.days)
    known = held_out[length.notna()].reset_index(drop=True)
    days = known["progress"].to_numpy() * length.dropna().to_numpy(np.float64)
    on = known["began_on"] + pd.to_timedelta(np.floor(days + 1e-3), unit="D")
    return known.assign(on=on.astype("datetime64[ns]"), phase=phases(known["progress"]))
