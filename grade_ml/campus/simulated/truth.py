"""The campus's truth: the traits, events and effect sizes behind the records, for tests only."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import pandas as pd

from grade_ml.core.storage import write_whole

if TYPE_CHECKING:
    from upath import UPath

PARAMETERS_FILE = "parameters.json"
#: Data of `grade-ml providers` that have no effect on students.
WITHOUT_EFFECT = ("economy", "jobs", "page_views")
FRAMES = ("students", "courses", "enrollments", "conditions")


@dataclass(frozen=True)
class Truth:
    """The truth behind the records, which no gradebook holds.

    Parameters
    ----------
    parameters
        `config`, `today`, `laws` (every effect size, see `laws.Laws`) and `without_effect`
        (surroundings of the campus that affect no student), as JSON values.
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
        text = json.dumps(self.parameters, indent=2, sort_keys=True)
        write_whole(root / PARAMETERS_FILE, f"{text}\n".encode())
        for name in FRAMES:
            write_whole(root / f"{name}.parquet", getattr(self, name).to_parquet(index=False))

    @classmethod
    def read(cls, root: UPath) -> Self:
        """Read what `write` wrote."""
        parameters = json.loads((root / PARAMETERS_FILE).read_text(encoding="utf-8"))
        frames: dict[str, pd.DataFrame] = {}
        for name in FRAMES:
            with (root / f"{name}.parquet").open("rb") as file:
                frame = pd.read_parquet(file)
            texts = [name for name, type_ in frame.dtypes.items() if type_ == "string"]
            frames[name] = frame.astype(dict.fromkeys(texts, "string[pyarrow]"))
        return cls(parameters, **frames)
