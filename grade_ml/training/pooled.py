"""The pooled ensemble of a nightly run: data, fit, verdicts, transition.

It is fitted again if the data of more than a few sections changed, or the program did. A version
that was tried and retired is not fitted again either. A version that passes becomes challenger; an
experiment compares its predictions of running sections with the champion's, and decides.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from time import perf_counter

import pandas as pd

from grade_ml.core.errors import ArtifactError, NotReadyError
from grade_ml.core.process import peak_megabytes
from grade_ml.core.pseudonyms import Pseudonyms
from grade_ml.ensemble import pooled
from grade_ml.ensemble.importance import spread_between_fits
from grade_ml.ensemble.names import POOLED
from grade_ml.ensemble.pooled import Parameters, PooledModel, Progress
from grade_ml.ensemble.rows import data_version, require_enough
from grade_ml.external.features import read_wide
from grade_ml.external.protocol import Window
from grade_ml.features.surroundings import columns_of, with_surroundings
from grade_ml.gradebook.frames import read_table
from grade_ml.gradebook.schema import section
from grade_ml.registry.history import Stage
from grade_ml.registry.registry import Alias, ModelVersion
from grade_ml.registry.transition import Evidence
from grade_ml.registry.workspace import Opening
from grade_ml.serving.models import Models
from grade_ml.training.admission import Admission, admission
from grade_ml.training.comparison import Comparison, with_baseline
from grade_ml.training.data import TrainingData
from grade_ml.training.settings import SETTINGS
from grade_ml.training.steps import Training, program, register, remove_exposed
from grade_ml.training.tuning import Tuned
from grade_ml.training.verdicts import of_pooled

#: From a version's data and the last parameters to new parameters.
Tuner = Callable[[pd.DataFrame, pd.DataFrame, Parameters | None], Tuned]

logger = logging.getLogger(__name__)


def train(
    data: TrainingData,
    opened: Opening,
    *,
    tune: Tuner,
    on_progress: Progress = lambda message: None,
) -> Training[PooledModel]:
    """Fit the pooled ensemble, register it, and let it become challenger if it may.

    It becomes champion at once if there is no champion, or none that can serve.

    Parameters
    ----------
    opened
        Opens a transaction, for as long as something is read.
    tune
        Finds parameters, starting from those of the last version.

    Raises
    ------
    NotReadyError
        Too few enrollments have an outcome.
    """
    with opened() as workspace:
        stages, seed = workspace.stages, workspace.seed
    stages.reconcile()
    registry, models = stages.registry, Models(stages.registry)
    readable, champion = list(models.pooled_versions()), registry.get(POOLED, Alias.CHAMPION)
    # A challenger that is up to date does not make up for a champion that cannot be read.
    for current in readable if champion is None or champion in readable else ():
        model = models.pooled[current.version]
        if why := _up_to_date(current, model, data):
            reason = f"version {current.version} is kept: {why}"
            judged = of_pooled(model, _against_baseline(model, data, models), None)
            training = Training(current, model, judged, False, reason)
            stage = stages.of(current)
            # These two were left by a process that died too early: a challenger without a champion,
            # and a candidate that meets every condition.
            if champion is None and stage is Stage.CHALLENGER:
                stages.transition(current, Stage.CHAMPION, Evidence(_missing(None, models)))
            if stage is not Stage.CANDIDATE or not training.accepted:
                remove_exposed(POOLED, stages)
                return training
    require_enough(data.snapshots)
    started = perf_counter()
    previous = models.pooled[readable[0].version].parameters if readable else None
    on_progress("Trying which external sources help to predict grades")
    rows, admitted = _with_admitted(data, _around(data.snapshots, opened), seed)
    tuned = tune(rows, data.results, previous)
    model = _fit(rows, data, tuned, admitted, registry.pseudonyms, seed, on_progress)
    version = register(
        registry,
        POOLED,
        model,
        parameters=_flat(model.parameters)
        | {"seed": seed, "sections": len(model.sections), "pass_marks": data.pass_marks},
        data_version=data_version(data.versions),
        trained_at=stages.now,
        costs={"training_seconds": perf_counter() - started, "peak_megabytes": peak_megabytes()},
    )
    judged = of_pooled(model, _against_baseline(model, data, models), rows)
    training = Training(version, model, judged, True, studies=tuned.studies)
    if training.accepted:
        stages.transition(version, Stage.CHALLENGER, training.evidence("meets every condition"))
        if why := _missing(champion, models):
            stages.transition(version, Stage.CHAMPION, Evidence(why))
            reason = f"became champion: {why}"
        else:
            reason = "became challenger: an experiment decides whether it replaces the champion"
    else:
        reason = f"stays a candidate: {training.failures}"
    remove_exposed(POOLED, stages)
    return replace(training, reason=reason)


def _against_baseline(model: PooledModel, data: TrainingData, models: Models) -> Comparison | None:
    """Compare with the baseline that would serve otherwise; None if none could."""
    try:
        _, plain = models.baseline
    except (NotReadyError, ArtifactError) as error:
        logger.warning("Training without regard to the baseline: %s", error)
        return None
    return with_baseline(model, plain, data, models.registry.pseudonyms)


def _up_to_date(current: ModelVersion, model: PooledModel, data: TrainingData) -> str:
    """Return why no new fit is needed; empty if a fit is needed."""
    if current.code_version != program():
        return ""
    now, before = data.versions, model.section_versions
    changed = [name for name in now.keys() | before.keys() if now.get(name) != before.get(name)]
    sizes = data.results["section_id"].astype(str).value_counts()
    share = float(sizes.reindex(changed).fillna(1).sum() / max(sizes.sum(), 1))
    if share >= SETTINGS.refit_share:
        return ""
    return "nothing changed" if share == 0 else f"{share:.1%} of the outcomes changed"


@dataclass(frozen=True)
class _Around:
    """What surrounded the sections: observations by day and place, and the sections themselves."""

    wide: pd.DataFrame
    sections: pd.DataFrame


def _around(snapshots: pd.DataFrame, opened: Opening) -> _Around:
    days = snapshots["cut_on"].dt.date
    with opened() as workspace:
        wide = read_wide(workspace.connection, Window(days.min(), days.max()))
        return _Around(wide, read_table(workspace.connection, section))


def _with_admitted(
    data: TrainingData, around: _Around, seed: int
) -> tuple[pd.DataFrame, Admission]:
    """Return the snapshots with the external columns that may enter, and how that was decided."""
    snapshots = with_surroundings(data.snapshots, around.wide)
    verdict = admission(snapshots, data.results, around.sections, seed=seed)
    columns = [*data.snapshots.columns, *columns_of(snapshots, verdict.sources)]
    return snapshots[columns], verdict


def _fit(  # noqa: PLR0913, PLR0917 - what a model learns from, and what its card shows
    rows: pd.DataFrame,
    data: TrainingData,
    tuned: Tuned,
    admitted: Admission,
    pseudonyms: Pseudonyms,
    seed: int,
    on_progress: Progress,
) -> PooledModel:
    model = pooled.fit(
        rows,
        data.results,
        seed,
        pseudonyms,
        parameters=tuned.parameters,
        on_progress=on_progress,
    )
    return replace(
        model,
        choices={**model.choices, "external": admitted.to_dict()},
        section_versions=data.versions,
        importance_spread=spread_between_fits(model, rows, data.results, seed),
        degraded=tuple(dict.fromkeys([*model.degraded, *tuned.degraded])),
    )


def _missing(champion: ModelVersion | None, models: Models) -> str:
    """Return why there is no champion to compare a new version with; empty if there is one."""
    if champion is None:
        return "there was no champion"
    try:
        models.pooled[champion.version]
    except ArtifactError as error:
        return f"version {champion.version} cannot serve: {error}"
    return ""


def _flat(parameters: Parameters) -> dict[str, float]:
    return {
        f"{task}.{member}.{name}": value
        for task, members in parameters.items()
        for member, values in members.items()
        for name, value in values.items()
    }
