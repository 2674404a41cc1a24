"""The simulated campus: a made-up university whose truth is known, for demos, tests and benchmarks.

`config` says what can be asked for, `laws` how students behave, `calendar` when terms run, `model`
draws what happens, `campus` turns it into gradebook frames, `truth` keeps what no gradebook knows,
`loading` brings both to an installation.
"""

from grade_ml.campus.simulated.campus import Campus, gradebook
from grade_ml.campus.simulated.conditions import conditions
from grade_ml.campus.simulated.config import CampusConfig, Drift, DriftKind, Help, Intervention
from grade_ml.campus.simulated.loading import example, load_campus, truth_folder
from grade_ml.campus.simulated.truth import Truth

__all__ = [
    "Campus",
    "CampusConfig",
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
