"""Distributes many courses over processes, each with a connection and models of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from functools import cache
from typing import TypeVar

from joblib import Parallel, cpu_count, delayed

from grade_ml.core import database
from grade_ml.core.pseudonyms import Pseudonyms
from grade_ml.gradebook.attributes import Declarations
from grade_ml.gradebook.institution import Institution
from grade_ml.registry.registry import Registry
from grade_ml.registry.workspace import Workspace
from grade_ml.serving.models import Models

T = TypeVar("T")
Part = Callable[[Workspace, Models, Sequence[str]], dict[str, T]]

#: Starting another process takes as long as the reports of about fifty courses.
_WORTH_A_PROCESS = 50


def spread(
    part: Part[T], workspace: Workspace, models: Models, names: Sequence[str]
) -> dict[str, T]:
    """Return what `part` returns for the courses, in their order.

    Other processes see only committed rows.
    """
    workers = how_many(names)
    if workers == 1:
        return part(workspace, models, names)
    place = _Place.of(workspace)
    shares = [list(names[first::workers]) for first in range(workers)]
    parts = Parallel(workers)(delayed(_elsewhere)(place, part, share) for share in shares)
    by_course = {name: value for of_share in parts for name, value in of_share.items()}
    return {name: by_course[name] for name in names}


def how_many(names: Sequence[str]) -> int:
    """Return the number of processes for so many courses."""
    return max(min(int(cpu_count()), len(names) // _WORTH_A_PROCESS), 1)


@dataclass(frozen=True)
class _Place:
    """The values with which another process opens the same workspace."""

    url: str
    tracking_uri: str
    pseudonyms: Pseudonyms
    declared: Declarations
    root: str
    as_of: date
    now: datetime
    institution: Institution
    seed: int

    @classmethod
    def of(cls, workspace: Workspace) -> _Place:
        registry = workspace.registry
        return cls(
            workspace.connection.engine.url.render_as_string(hide_password=False),
            registry.tracking_uri,
            registry.pseudonyms,
            registry.declared,
            workspace.root,
            workspace.as_of,
            workspace.now,
            workspace.institution,
            workspace.seed,
        )

    def models(self) -> Models:
        return _models(self.tracking_uri, self.root, self.pseudonyms, self.declared)


def _elsewhere(place: _Place, part: Part[T], names: Sequence[str]) -> dict[str, T]:
    engine, models = database.connect(place.url), place.models()
    with database.reachable(engine) as connection:
        workspace = Workspace(
            connection,
            models.registry,
            place.root,
            place.as_of,
            place.now,
            place.institution,
            place.seed,
        )
        by_course = part(workspace, models, names)
    engine.dispose()
    return by_course


@cache
def _models(tracking_uri: str, root: str, pseudonyms: Pseudonyms, declared: Declarations) -> Models:
    """Return the models of this process, loaded once for all reports."""
    return Models(Registry(tracking_uri, root, pseudonyms, declared))
