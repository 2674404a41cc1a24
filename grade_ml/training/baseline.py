"""From snapshots to a registered baseline: fit, judge, register, and let it become champion.

What a baseline is stands in `baseline`, where versions live in `grade_ml.registry`. Nothing is
fitted where neither the data nor the program changed since the champion was trained.
"""

from __future__ import annotations

import logging
import tempfile
from collections import ChainMap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from functools import cached_property
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Generic, Self, TypeVar

import pandas as pd
from sqlalchemy import Connection

from grade_ml.core.errors import ArtifactError
from grade_ml.core.hashing import section_hashes
from grade_ml.core.pseudonyms import Pseudonyms
from grade_ml.ensemble import baseline
from grade_ml.ensemble.baseline import NAME, BaselineModel
from grade_ml.ensemble.rows import data_version, section_versions, versions_of
from grade_ml.features.attributes import as_declared
from grade_ml.features.store import Frames
from grade_ml.gradebook import frames
from grade_ml.gradebook.attributes import Declarations
from grade_ml.gradebook.frames import Gradebook
from grade_ml.gradebook.institution import Institution
from grade_ml.gradebook.outcomes import outcomes
from grade_ml.registry.registry import Alias, ModelVersion, Registry
from grade_ml.registry.transition import Evidence, Stage, Stages
from grade_ml.training.tuning import Study

Fitted = TypeVar("Fitted")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingSettings:
    """How much is read, and what a new version must show on sections that it had not seen."""

    #: More snapshots are not read at once: they are 400 bytes each, several times over while they
    #: are joined. It is twice OULAD's weekly ones, of which a fit uses a sixth.
    max_snapshots: int = 1_000_000

    #: How far below its promise an interval may fall: within a section the errors go together, and
    #: held-out figures are low where sections are few (OULAD, three sections: .76 and .89; nine:
    #: .78 and .93, where the next term then showed .84 and .96).
    coverage80: float = 0.7
    coverage95: float = 0.85


SETTINGS = TrainingSettings()


@dataclass(frozen=True)
class TrainingData:
    """What models learn from.

    Attributes
    ----------
    results
        Outcomes of all sections that have ended, and of no other (see `finished`).
    versions
        Per section a text that changes with its snapshots or results.
    """

    results: pd.DataFrame
    versions: Mapping[str, str]
    _read: Callable[[], pd.DataFrame]

    @cached_property
    def snapshots(self) -> pd.DataFrame:
        """Those of sections with outcomes; read when asked for, most nights they are not."""
        ended = self.results["section_id"].astype("string[pyarrow]").unique()
        some = self._read()
        rows: pd.DataFrame = some[some["section_id"].astype("string[pyarrow]").isin(ended)]
        return rows

    @property
    def pass_marks(self) -> str:
        """The pass marks by which the outcomes were judged, points of 100, in words."""
        return ", ".join(f"{mark:g}" for mark in sorted(self.results["pass_mark"].unique()))

    @classmethod
    def of(cls, snapshots: pd.DataFrame, results: pd.DataFrame, pseudonyms: Pseudonyms) -> Self:
        """Return those of `snapshots` that have an outcome, beside it."""
        return cls(results, section_versions(snapshots, results, pseudonyms), lambda: snapshots)

    @classmethod
    def stored(
        cls, stored: Frames, results: pd.DataFrame, declared: Declarations, seed: int = 0
    ) -> Self:
        """Return the stored snapshots of all courses, with the attributes that are `declared`.

        Of more than `max_snapshots` a part is drawn; the versions are those of all.

        Raises
        ------
        NotReadyError
            No snapshots have been computed.
        """
        hashes = dict(ChainMap(*stored.hashes(None).values()))

        def read() -> pd.DataFrame:
            found = stored.snapshots(None, most=SETTINGS.max_snapshots, seed=seed)
            return as_declared(found, declared)

        return cls(results, versions_of(hashes, section_hashes(results, stored.pseudonyms)), read)


@dataclass(frozen=True)
class Verdict:
    """Whether one condition of becoming champion is met, with the figures that decided it."""

    name: str
    passed: bool
    figures: dict[str, float]


@dataclass(frozen=True)
class Training(Generic[Fitted]):
    """What came of training; `fitted` is False where the last version was still up to date."""

    version: ModelVersion
    model: Fitted
    verdicts: tuple[Verdict, ...]
    fitted: bool
    #: Why it was not fitted, or what became of it, in words.
    reason: str = ""
    #: The searches for parameters that came before.
    studies: tuple[Study, ...] = ()

    @property
    def accepted(self) -> bool:
        """Whether every verdict allows this version to serve."""
        return all(verdict.passed for verdict in self.verdicts)

    def evidence(self, reason: str) -> Evidence:
        """Return the verdicts' figures, for what `reason` says."""
        judged = ((one.name, one.figures.items()) for one in self.verdicts)
        return Evidence(reason, {f"{of}_{name}": x for of, found in judged for name, x in found})


def train(
    data: TrainingData, stages: Stages, *, trained_at: datetime, seed: int = 0
) -> Training[BaselineModel]:
    """Fit the baseline and register it; it becomes challenger and champion if all verdicts allow.

    Parameters
    ----------
    trained_at
        Timezone-aware.

    Raises
    ------
    NotReadyError
        Too few enrollments have an outcome.
    """
    stages.reconcile()
    registry = stages.registry
    version_of_data, code = data_version(data.versions), installed_version("grade-ml")
    current, champion = _usable_champion(registry)
    known = current and (current.data_version, current.code_version)
    if current and champion and known == (version_of_data, code):
        return Training(current, champion, verdicts(champion, champion), fitted=False)
    model = baseline.fit(data.snapshots, data.results, seed)
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder))
        version = registry.register(
            NAME,
            Path(folder),
            metrics=model.evaluation.flat(),
            parameters={
                "seed": seed,
                "sections": len(model.sections),
                "pass_marks": data.pass_marks,
            },
            features=model.features,
            data_version=version_of_data,
            code_version=code,
            trained_at=trained_at,
        )
    training = Training(version, model, verdicts(model, champion), fitted=True)
    if training.accepted:
        stages.transition(version, Stage.CHALLENGER, training.evidence("meets every condition"))
        stages.transition(version, Stage.CHAMPION, training.evidence("meets every condition"))
    remove_exposed(NAME, stages)
    return training


def remove_exposed(name: str, stages: Stages) -> None:
    """Remove the versions of `name` that keep values of students under another secret or none."""
    for version in stages.registry.exposed(name):
        stages.remove(version, "keeps values of students under another secret, or none")


def _usable_champion(registry: Registry) -> tuple[ModelVersion, BaselineModel] | tuple[None, None]:
    version = registry.get(NAME, Alias.CHAMPION)
    if version is None:
        return None, None
    try:
        return version, BaselineModel.load(registry.fetch(version))
    except ArtifactError as error:
        logger.warning("Training without regard to the champion: %s", error)
        return None, None


def verdicts(model: BaselineModel, champion: BaselineModel | None) -> tuple[Verdict, ...]:
    """Return the conditions of becoming champion; a figure that is unknown speaks for no one."""
    everywhere = model.evaluation.metrics["all"]
    figures = {name: value for name, value in everywhere.items() if value is not None}
    errors = {name: value for name, value in figures.items() if name in ("rmse", "naive_rmse")}
    better = len(errors) < 2 or errors["rmse"] < errors["naive_rmse"]
    keeps_up = model is champion or baseline.may_become_champion(model, champion)
    return (
        Verdict("better_than_naive", better, errors),
        covers(figures),
        Verdict("keeps_up_with_champion", keeps_up, {}),
    )


def covers(figures: Mapping[str, float]) -> Verdict:
    """Return whether the intervals hold what they promise."""
    floors = {"coverage80": SETTINGS.coverage80, "coverage95": SETTINGS.coverage95}
    shares = {name: figures[name] for name in floors if name in figures}
    cover = all(share >= floors[name] for name, share in shares.items())
    return Verdict("intervals_cover", cover, shares)


def finished_in(connection: Connection, as_of: date, institution: Institution) -> pd.DataFrame:
    """Return the outcomes of the gradebook's sections that ended before `as_of`."""
    known = frames.read(connection, without={"activity", "student"})
    return finished(known, as_of, institution)


def finished(gradebook: Gradebook, as_of: date, institution: Institution) -> pd.DataFrame:
    """Return the outcomes of the sections that ended before `as_of`.

    Withdrawals from running sections are known too, but alone they say nothing: those who stay
    have no outcome yet.
    """
    known = outcomes(gradebook, as_of, institution)
    sections = gradebook.sections
    ended = sections.loc[sections["ends_on"] < pd.Timestamp(as_of), "section_id"]
    rows: pd.DataFrame = known[known["section_id"].astype("string[pyarrow]").isin(ended)]
    return rows
