"""Which model serves each course, up to date within seconds; each version is loaded once.

Which version is champion is read from the records of transitions: MLflow is queried only when a
version is loaded, since a query takes 10 ms and its import a second.
"""

from __future__ import annotations

from collections.abc import Mapping
from threading import Lock
from time import monotonic
from typing import TYPE_CHECKING

from grade_ml.ensemble.names import BASELINE, POOLED, name_of
from grade_ml.registry.history import champions

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from grade_ml.registry.registry import Registry
    from grade_ml.serving.models import Models, Served

#: A model's name and the number of its version.
Version = tuple[str, int]


class Champions:
    """The models that serve; safe to share between threads.

    Parameters
    ----------
    seconds
        How old the list of champions may be.
    """

    def __init__(self, registry: Registry, seconds: float) -> None:
        self._registry, self._seconds = registry, seconds
        self._versions: Mapping[str, int] = {}
        self._read_at = float("-inf")
        self._loading = Lock()
        self._models: tuple[frozenset[Version], Models] | None = None
        self._served: dict[tuple[Version, ...], tuple[float, Served]] = {}

    def refresh(self, connection: Connection) -> None:
        """Read which versions are champions if the list is too old."""
        if monotonic() - self._read_at > self._seconds:
            self._versions = champions(connection)
            self._read_at = monotonic()

    def first(self, course: str) -> Version | None:
        """Return the version that serves a course if it can be read; None if there is none."""
        return next(iter(self._line(course)), None)

    def serving(self, course: str) -> Served:
        """Return the loaded model that serves a course, and why it is not the champion.

        Raises
        ------
        NotReadyError
            No model has been trained yet.
        ArtifactError
            Not even the baseline can be read.
        """
        line = self._line(course)
        with self._loading:
            models = self._current_models()
            entry = self._served.get(line)
            # What could not be read may be readable again.
            if entry is None or (entry[1].degraded and monotonic() - entry[0] > self._seconds):
                ensembles = [
                    version
                    for version in line
                    if version[0] != BASELINE and self._registry.has(*version)
                ]
                served = models.first_readable(self._registry.at(*version) for version in ensembles)
                entry = self._served[line] = monotonic(), served
            return entry[1]

    def _line(self, course: str) -> tuple[Version, ...]:
        """Return the champions that may serve a course, in order of preference."""
        versions = self._versions
        names = (name_of(course), POOLED, BASELINE)
        return tuple((name, versions[name]) for name in names if name in versions)

    def _current_models(self) -> Models:
        """Return the cache of the shared models, a new one after one of them was replaced.

        Versions that are no longer champions go with the old cache; otherwise a process that
        serves for months would hold every ensemble of these months.
        """
        from grade_ml.serving.models import Models

        versions = self._versions
        shared = frozenset(
            (name, versions[name]) for name in (POOLED, BASELINE) if name in versions
        )
        if self._models is None or self._models[0] != shared:
            self._models = shared, Models(self._registry)
            self._served.clear()
        return self._models[1]
