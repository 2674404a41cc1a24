"""The simulated campus: a made-up university whose truth is known, for demos, tests and benchmarks.

`config` defines the options, `laws` how students behave, `calendar` when terms run; `model` draws
the events, `campus` turns them into gradebook frames, `truth` holds what no gradebook knows, and
`loading` loads the campus and stores its truth.
"""

from grade_ml.campus.simulated.campus import Campus, gradebook
from grade_ml.campus.simulated.conditions import conditions
from grade_ml.campus.simulated.config import (
    CampusConfig,
    Differences,
    Drift,
    DriftKind,
    Help,
    Intervention,
)
from grade_ml.campus.simulated.loading import example, load_campus, truth_folder
from grade_ml.campus.simulated.truth import Truth

__all__ = [
    "Campus",
    "CampusConfig",
    "Differences",
    "Drift",
    "DriftKind",
    "Help",
    "Intervention",
    "Truth",
    "conditions",
    "example",
    "gradebook",
    "load_campus",
    "truth_folder",
]
