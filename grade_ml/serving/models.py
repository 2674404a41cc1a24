"""Which model serves a course: its own, else the pooled model, else the baseline.

The next model replaces one that cannot be read (a library is missing, a file was changed) or must
not serve (it reads a protected attribute), and the predictions give the reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from grade_ml.core.errors import ArtifactError, NotReadyError
from grade_ml.ensemble.baseline import BaselineModel
from grade_ml.ensemble.course import CourseModel
from grade_ml.ensemble.names import BASELINE, POOLED, name_of
from grade_ml.ensemble.pooled import PooledModel
from grade_ml.registry.registry import Alias, ModelVersion, Registry

#: The models that can serve a course.
Servable = PooledModel | CourseModel | BaselineModel


@dataclass(frozen=True)
class Served:
    """The model that serves, its version, and why it is not the champion."""

    version: ModelVersion
    model: Servable
    degraded: tuple[str, ...] = ()


class _Pooled(Mapping[int, PooledModel]):
    """The pooled model by version, each loaded once."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._loaded: dict[int, PooledModel] = {}

    def __getitem__(self, version: int) -> PooledModel:
        if version not in self._loaded:
            folder = self._registry.fetch(self._registry.at(POOLED, version))
            self._loaded[version] = PooledModel.load(folder)
        return self._loaded[version]

    def __iter__(self) -> Iterator[int]:
        return iter(self._loaded)

    def __len__(self) -> int:
        return len(self._loaded)


@dataclass
class Models:
    """The registry's models, each loaded at its first use and then kept in memory."""

    registry: Registry
    _problems: dict[str, str] = field(default_factory=dict)

    @cached_property
    def pooled(self) -> Mapping[int, PooledModel]:
        """The pooled models by version."""
        return _Pooled(self.registry)

    def pooled_versions(self) -> Iterator[ModelVersion]:
        """Yield the newest pooled model, the challenger and the champion that can be read."""
        aliases = (self.registry.get(POOLED, alias) for alias in (Alias.CHALLENGER, Alias.CHAMPION))
        candidates = self.registry.newest(POOLED), *aliases
        for version in {
            candidate.version: candidate for candidate in candidates if candidate
        }.values():
            if self._readable(version):
                yield version

    def pooled_champion(self) -> tuple[ModelVersion, PooledModel]:
        """Return the pooled champion.

        Raises
        ------
        NotReadyError
            There is no pooled champion, or it cannot be read.
        """
        version = self.registry.get(POOLED, Alias.CHAMPION)
        if version is None:
            raise NotReadyError(
                "No ensemble has been trained yet.", "Run grade-ml run train_advanced_ml_models."
            )
        try:
            return version, self.pooled[version.version]
        except ArtifactError as error:
            raise NotReadyError(f"No ensemble can serve: {error.message}", error.remedy) from error

    def serving(self, course: str) -> Served:
        """Return the champion for `course`.

        Raises
        ------
        NotReadyError
            No model has been trained yet.
        ArtifactError
            Not even the baseline can be read.
        """
        names = (name_of(course), POOLED)
        return self.first_readable(self.registry.get(name, Alias.CHAMPION) for name in names)

    def serving_each(self, courses: Iterable[str]) -> dict[str, Served]:
        """Return the champion for each of `courses`, all as they are at this moment.

        Raises
        ------
        NotReadyError, ArtifactError
            As in `serving`.
        """
        champions = {version.name: version for version in self.registry.holders(Alias.CHAMPION)}
        pooled = champions.get(POOLED)
        return {
            course: self.first_readable((champions.get(name_of(course)), pooled))
            for course in courses
        }

    def first_readable(self, versions: Iterable[ModelVersion | None]) -> Served:
        """Return the first of `versions` that can be read, else the baseline's champion.

        Raises
        ------
        NotReadyError, ArtifactError
            As in `serving`.
        """
        problems: list[str] = []
        for version in versions:
            if version is None:
                continue
            try:
                model = self._load(version)
                return Served(version, model, (*problems, *model.degraded))
            except ArtifactError as error:
                problems.append(f"{version.name} version {version.version} cannot serve: {error}")
        return Served(*self.baseline, tuple(problems))

    def at(self, name: str, version: int) -> Served:
        """Return a version by its number, whatever its stage.

        Raises
        ------
        ArtifactError
            There is no such version, or it cannot be read.
        """
        loaded = self.registry.at(name, version)
        if name == BASELINE:
            return Served(loaded, BaselineModel.load(self.registry.fetch(loaded)))
        return Served(loaded, self._load(loaded))

    @cached_property
    def baseline(self) -> tuple[ModelVersion, BaselineModel]:
        """The baseline's champion."""
        version = self.registry.get(BASELINE, Alias.CHAMPION)
        if version is None:
            raise self._no_baseline()
        return version, BaselineModel.load(self.registry.fetch(version))

    def _no_baseline(self) -> NotReadyError:
        newest = self.registry.newest(BASELINE)
        if newest is None:
            return NotReadyError(
                "No model has been trained yet.", "Run grade-ml run train_traditional_models."
            )
        return NotReadyError(
            f"No model is good enough to predict: {BASELINE} version {newest.version} stays a "
            "candidate, as the checks of the asset baseline_model show.",
            "Load more finished terms.",
        )

    def _load(self, version: ModelVersion) -> PooledModel | CourseModel:
        if version.name == POOLED:
            return self.pooled[version.version]
        return CourseModel.load(self.registry.fetch(version), self.pooled)

    def _readable(self, version: ModelVersion) -> bool:
        try:
            return self.pooled[version.version] is not None
        except ArtifactError as error:
            self._problems[f"{version.name}-{version.version}"] = str(error)
            return False
