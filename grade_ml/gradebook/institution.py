"""What an institution decides: its pass mark, its grades, who is at risk, which attributes serve.

One TOML file (`GRADE_ML_INSTITUTION`) holds it; without a file the defaults hold. It is read once
at the edge and passed inwards; results that depend on it record its `version`.

```toml
pass_mark = 60                       # points of 100
at_risk = "outcome"                  # or "pass_mark"

[courses."MATH-101"]                 # what differs in one course
pass_mark = 50

[grades]                             # the lowest points of each grade
A = 90
B = 80

[texts]                              # scores that arrive as texts, per cent
Complete = 100

[attributes]                         # usable, protected or identifying
entry_route = "usable"
```
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from grade_ml.core.errors import ConfigurationError, SourceError
from grade_ml.core.hashing import checksum
from grade_ml.core.storage import open_file

if TYPE_CHECKING:
    import pandas as pd

#: Points of 100.
Points = Annotated[float, Field(ge=0, le=100)]


class AtRisk(StrEnum):
    """Which ended enrollments count as having been at risk; withdrawals always do."""

    OUTCOME = "outcome"
    """The stated outcome; where the source states none, a final grade below the pass mark."""
    PASS_MARK = "pass_mark"
    """A final grade below the pass mark, with any outcome that the source states."""


class Use(StrEnum):
    """What an attribute of students or enrollments may be used for."""

    USABLE = "usable"
    """Models may read it."""
    PROTECTED = "protected"
    """No model reads it; audits compare groups by it."""
    IDENTIFYING = "identifying"
    """It is stored in the records and no code reads it."""


class _Decided(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CourseRules(_Decided):
    """What differs in one course."""

    pass_mark: Points | None = None
    at_risk: AtRisk | None = None


class Institution(_Decided):
    """An institution's decisions; the defaults are those of the Open University.

    Attributes
    ----------
    pass_mark
        Final grades below it fail, points of 100.
    at_risk
        Which ended enrollments count as having been at risk.
    courses
        What differs, by course id.
    grades
        The lowest points of each grade; they are the goals that what-ifs offer.
    texts
        Scores in per cent of texts in place of a number.
    attributes
        Uses of attributes beyond those that sources declare.
    """

    pass_mark: Points = 40.0
    at_risk: AtRisk = AtRisk.OUTCOME
    courses: Mapping[str, CourseRules] = {}
    grades: Mapping[str, Points] = {
        "third": 40.0,
        "lower second": 55.0,
        "upper second": 70.0,
        "first": 85.0,
    }
    texts: Mapping[str, Annotated[float, Field(ge=0, le=200)]] = {}
    attributes: Mapping[str, Use] = {}

    def pass_mark_of(self, course_id: str) -> float:
        """Return the pass mark of a course, points of 100."""
        own = self.courses.get(course_id)
        return self.pass_mark if own is None or own.pass_mark is None else own.pass_mark

    def pass_marks(self, course_ids: pd.Series) -> pd.Series:
        """Return the pass mark of each course id, in order."""
        marks = {
            str(course_id): self.pass_mark_of(str(course_id)) for course_id in course_ids.unique()
        }
        return course_ids.astype(object).map(marks).astype("float64")

    def goals_of(self, course_id: str) -> tuple[float, ...]:
        """Return what students aim for: the pass mark and the grades above it, points, rising.

        >>> Institution(pass_mark=60, grades={"A": 90, "B": 80, "F": 0}).goals_of("any")
        (60.0, 80.0, 90.0)
        """
        passed = self.pass_mark_of(course_id)
        return tuple(sorted({passed, *(low for low in self.grades.values() if low > passed)}))

    def at_risk_rule_of(self, course_id: str) -> AtRisk:
        """Return the rule of a course."""
        own = self.courses.get(course_id)
        return self.at_risk if own is None or own.at_risk is None else own.at_risk

    @property
    def per_cent(self) -> dict[str, float]:
        """The texts, case-folded, with their scores in per cent."""
        return {text.strip().casefold(): score for text, score in self.texts.items()}

    @property
    def version(self) -> str:
        """A text that changes when a decision does that changes labels."""
        decided = self.model_dump_json(include={"pass_mark", "at_risk", "courses"})
        return checksum(decided.encode())[:12]


#: Bytes of the file; one line for each of 10,000 courses has less.
_LONGEST = 1 << 20
#: What holds where an institution decides nothing itself.
DEFAULTS = Institution()


def read(path: Path | None) -> Institution:
    """Return the decisions of a TOML file; the defaults without a file.

    Raises
    ------
    ConfigurationError
        The file cannot be read, is no TOML, or has an unknown name or a bad value.
    """
    if path is None:
        return DEFAULTS
    try:
        with open_file(path) as file:
            content = file.read(_LONGEST + 1)
        if len(content) > _LONGEST:
            raise SourceError(f"it has more than {_LONGEST:,} bytes")
        return Institution.model_validate(tomllib.loads(content.decode("utf-8-sig")))
    except (OSError, SourceError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(
            f"The institution's file {path} cannot be read: {error}.",
            "Correct it, or unset GRADE_ML_INSTITUTION to use the defaults.",
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise ConfigurationError(
            f"The institution's file {path} has {name} = {first['input']!r}: {first['msg']}.",
            "Correct the value; docs/institution.md lists all names.",
        ) from error
