"""The campus's truth: the traits, events and effect sizes behind the records, for tests only."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import pandas as pd

if TYPE_CHECKING:
    from upath import UPath

PARAMETERS_FILE = "parameters.json"
#: What `grade-ml providers` also serves, made up and without any effect on what students do.
WITHOUT_EFFECT = ("economy", "jobs", "page_views")
FRAMES = ("students", "courses", "enrollments", "conditions")


@dataclass(frozen=True)
class Truth:
    """What no gradebook knows.

    Parameters
    ----------
    parameters
        `config`, `today`, `laws` (every effect size, see `laws.Laws`) and `without_effect` (what
        surrounds the campus and acts on nobody), as JSON values.
    students
        student_id, ability, diligence (mean 0, SD 1), treated (by the intervention).
    courses
        course_id, difficulty (logit of the score, higher is harder).
    enrollments
        section_id, student_id, engagement (mean 0, SD about 1), stopped_on (when the student
        stops taking part, formally or not, also after today; missing: never).
    conditions
        day, and heat, campus_events, sentiment (mean 0, SD 1), from the first term to today.
    """

    parameters: dict[str, Any]
    students: pd.DataFrame
    courses: pd.DataFrame
    enrollments: pd.DataFrame
    conditions: pd.DataFrame

    def write(self, root: UPath) -> None:
        """Write the parameters as JSON and the frames as Parquet into the folder `root`."""
        root.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.parameters, indent=2, sort_keys=True)
        (root / PARAMETERS_FILE).write_text(text + "\n", encoding="utf-8")
        for name in FRAMES:
            with (root / f"{name}.parquet").open("wb") as file:
                getattr(self, name).to_parquet(file, index=False)

    @classmethod
    def read(cls, root: UPath) -> Self:
        """Read what `write` wrote."""
        parameters = json.loads((root / PARAMETERS_FILE).read_text(encoding="utf-8"))
        frames = {}
        for name in FRAMES:
            with (root / f"{name}.parquet").open("rb") as file:
                frames[name] = pd.read_parquet(file)
        return cls(parameters, **frames)
