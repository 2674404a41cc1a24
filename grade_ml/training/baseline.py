"""The baseline of a nightly run: data, fit, verdicts, transition.

Nothing is fitted where neither the data nor the program changed since the champion was trained.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from grade_ml.core.errors import ArtifactError
from grade_ml.ensemble import baseline
from grade_ml.ensemble.baseline import BaselineModel
from grade_ml.ensemble.names import BASELINE
from grade_ml.ensemble.rows import data_version
from grade_ml.registry.registry import Alias, ModelVersion, Registry
from grade_ml.registry.transition import Stages
from grade_ml.training.data import TrainingData
from grade_ml.training.steps import Training, program, promote, register, remove_exposed
from grade_ml.training.verdicts import of_baseline

logger = logging.getLogger(__name__)


def train(data: TrainingData, stages: Stages, seed: int = 0) -> Training[BaselineModel]:
    """Fit the baseline and register it; it becomes champion if all verdicts allow.

    Raises
    ------
    NotReadyError
        Too few enrollments have an outcome.
    """
    stages.reconcile()
    of_data = data_version(data.versions)
    current, champion = _usable_champion(stages.registry)
    known = current and (current.data_version, current.code_version)
    # The ensemble is compared with it section by section.
    measured = champion is not None and len(champion.section_errors)
    if current and champion and measured and known == (of_data, program()):
        remove_exposed(BASELINE, stages)
        return Training(current, champion, of_baseline(champion, champion), fitted=False)
    model = baseline.fit(data.snapshots, data.results, seed)
    version = register(
        stages.registry,
        BASELINE,
        model,
        parameters={"seed": seed, "sections": len(model.sections), "pass_marks": data.pass_marks},
        data_version=of_data,
        trained_at=stages.now,
    )
    training = Training(version, model, of_baseline(model, champion), fitted=True)
    if training.accepted:
        promote(stages, version, training.evidence("meets every condition"))
    else:
        training = replace(training, reason=f"stays a candidate: {training.failures}")
    remove_exposed(BASELINE, stages)
    return training


def _usable_champion(registry: Registry) -> tuple[ModelVersion, BaselineModel] | tuple[None, None]:
    version = registry.get(BASELINE, Alias.CHAMPION)
    if version is None:
        return None, None
    try:
        return version, BaselineModel.load(registry.fetch(version))
    except ArtifactError as error:
        logger.warning("Training without regard to the champion: %s", error)
        return None, None
