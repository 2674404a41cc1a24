"""From which records, and by which rules, features were made: shows whether they are outdated."""

from __future__ import annotations

from importlib.metadata import version as installed_version

from grade_ml.core.hashing import digest
from grade_ml.gradebook.attributes import Declarations


def origin_of(load_key: str, declared: Declarations) -> str:
    """Return the mark of snapshots that were made after a load, and by these rules."""
    uses = (declared.usable, declared.protected, declared.identifying)
    return made_from(load_key, [sorted(names) for names in uses])


def made_from(load_key: str, rules: object) -> str:
    """Return the mark of what this release makes after a load by `rules`."""
    return digest([load_key, rules, installed_version("grade-ml")])
