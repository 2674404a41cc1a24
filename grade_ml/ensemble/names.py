"""The names of the models of grade and risk in the registry.

Apart from the models: what is stored under these names is read in a tenth of a second, without the
libraries that models need.
"""

from __future__ import annotations

from urllib.parse import quote

from grade_ml.core.storage import file_name

BASELINE, POOLED = "baseline", "pooled"
#: MLflow stores 256 characters of a name.
_LONGEST = 256


def name_of(course: str) -> str:
    """Return the name of the model of `course`."""
    name = "course-" + quote(course, safe="")
    return name if len(name) <= _LONGEST else "course-" + file_name(course)
