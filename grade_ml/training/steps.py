"""What trainings do beside fitting: they register and promote, and remove what must not stay."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from grade_ml.ensemble.evaluation import Evaluation
from grade_ml.registry.history import Stage
from grade_ml.registry.registry import ModelVersion, Registry
from grade_ml.registry.transition import Evidence, Stages
from grade_ml.training.tuning import Study
from grade_ml.training.verdicts import Verdict

Fitted = TypeVar("Fitted")


class Model(Protocol):
    """What can be registered."""

    @property
    def features(self) -> Sequence[str]:
        """The columns that it reads."""

    @property
    def evaluation(self) -> Evaluation:
        """What it showed on rows that it had not seen."""

    def save(self, folder: Path) -> None:
        """Write its files."""


@dataclass(frozen=True)
class Training(Generic[Fitted]):
    """The outcome of training; `fitted` is False if the last version was still up to date."""

    version: ModelVersion
    model: Fitted
    verdicts: tuple[Verdict, ...]
    fitted: bool
    #: Why it was not fitted, or what became of it, as text.
    reason: str = ""
    #: The searches for parameters that came before.
    studies: tuple[Study, ...] = ()

    @property
    def accepted(self) -> bool:
        """Whether every verdict allows this version to serve."""
        return all(verdict.passed for verdict in self.verdicts)

    @property
    def failures(self) -> str:
        """The conditions that are not met, with their texts."""
        return "; ".join(
            f"{verdict.name} failed" + (f" ({verdict.text})" if verdict.text else "")
            for verdict in self.verdicts
            if not verdict.passed
        )

    def evidence(self, reason: str) -> Evidence:
        """Return the verdicts' figures as evidence for `reason`."""
        judged = ((verdict.name, verdict.figures.items()) for verdict in self.verdicts)
        return Evidence(reason, {f"{of}_{name}": x for of, items in judged for name, x in items})


def program() -> str:
    """Return the version of the program; another version trains the models again."""
    return installed_version("grade-ml")


def register(  # noqa: PLR0913 - what a version must be traceable to
    registry: Registry,
    name: str,
    model: Model,
    *,
    parameters: Mapping[str, object],
    data_version: str,
    trained_at: datetime,
    costs: Mapping[str, float] | None = None,
) -> ModelVersion:
    """Store `model` as the next version of `name`, a candidate; its metrics are its evaluation.

    Parameters
    ----------
    costs
        Metrics beside: seconds, memory.
    """
    return register_files(
        registry,
        name,
        model.save,
        metrics={**model.evaluation.flat(), **(costs or {})},
        features=model.features,
        parameters=parameters,
        data_version=data_version,
        trained_at=trained_at,
    )


def register_files(  # noqa: PLR0913 - what a version must be traceable to
    registry: Registry,
    name: str,
    save: Callable[[Path], None],
    *,
    metrics: Mapping[str, float],
    features: Sequence[str],
    parameters: Mapping[str, object],
    data_version: str,
    trained_at: datetime,
) -> ModelVersion:
    """Store the files that `save` writes into a folder as the next version of `name`."""
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder))
        return registry.register(
            name,
            Path(folder),
            metrics=metrics,
            parameters=parameters,
            features=features,
            data_version=data_version,
            code_version=program(),
            trained_at=trained_at,
        )


def promote(stages: Stages, version: ModelVersion, evidence: Evidence) -> None:
    """Make a candidate champion, or a challenger whose process died before it did so."""
    if stages.of(version) is Stage.CANDIDATE:
        stages.transition(version, Stage.CHALLENGER, evidence)
    stages.transition(version, Stage.CHAMPION, evidence)


def remove_exposed(name: str, stages: Stages) -> None:
    """Remove the versions of `name` that keep values of students under another secret or none."""
    for version in stages.registry.exposed(name):
        stages.remove(version, "keeps values of students under another secret, or none")
