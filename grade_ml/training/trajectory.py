"""The trajectory model of a day: fitted again if much has changed, judged, and promoted.

A model for a day knows only what had ended by then, so that a past day can be forecast again as it
would have been. Which of the models serves a day is decided in `grade_ml.serving.forecasts`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import date
from pathlib import Path
from time import perf_counter

import pandas as pd

from grade_ml.core.errors import ArtifactError
from grade_ml.core.process import peak_megabytes
from grade_ml.early_warning.risk_model import RiskModel
from grade_ml.features.store import SEQUENCES
from grade_ml.forecasting import store
from grade_ml.forecasting.contract import Method, Panel
from grade_ml.forecasting.forecasters import FORECASTERS
from grade_ml.forecasting.loading import frames, sections_where
from grade_ml.forecasting.panels import origins, panels
from grade_ml.forecasting.settings import SETTINGS
from grade_ml.forecasting.trajectory import NAME, Fitted, Progress, Trajectory, fit
from grade_ml.gradebook.schema import section
from grade_ml.registry.history import Stage
from grade_ml.registry.registry import Alias, ModelVersion
from grade_ml.registry.workspace import Opening, Workspace
from grade_ml.training.steps import Training, promote, register_files
from grade_ml.training.verdicts import Verdict, covers

_WEEKLY = ["course_id", "section_id", "student_id", "cut_day", "activity_last_7"]


def train_trajectory(
    opened: Opening,
    *,
    offered: Collection[Method] = tuple(FORECASTERS),
    on_progress: Progress = lambda message: None,
) -> Training[Trajectory]:
    """Return the newest model for the day, or one fitted now; it becomes champion if it may.

    It is fitted if there is none, if its artifact is unusable, or if more than a small share of the
    ended sections is new or changed. A model of a past day leaves a champion that knows more in
    place.

    Parameters
    ----------
    opened
        Opens a transaction; none is open while the model is fitted.
    offered
        The forecasters to try.

    Raises
    ------
    NotReadyError
        No section has ended, or no features of ended sections have been computed.
    """
    with opened() as workspace:
        ended = sections_where(workspace, section.c.ends_on < workspace.as_of)
        known = store.newest_model(workspace.connection, workspace.as_of)
    workspace.stages.reconcile()
    hashes = _hashes(workspace, ended)
    previous, why = None, "there was none"
    if known:
        number, sections = known
        changed = sum(sections.get(name) != value for name, value in hashes.items())
        why = f"{changed} of {len(hashes)} ended sections are new or changed"
        try:
            version = workspace.registry.at(NAME, number)
            previous = _load(workspace.registry.fetch(version))
        except ArtifactError as error:
            why = error.message
        else:
            if changed <= SETTINGS.changed * len(hashes):
                training = Training(version, previous, verdicts(version.metrics), False)
                reason = f"version {number} is kept ({why}) and {_let_serve(training, workspace)}"
                return replace(training, reason=reason)
    learned = ended.loc[ended["section_id"].isin(hashes), "course_id"]
    known_panels, weekly = _learned(workspace, sorted(set(learned)), hashes, on_progress)
    started = perf_counter()
    fitted = fit(
        known_panels,
        weekly,
        seed=workspace.seed,
        previous=previous,
        offered=offered,
        on_progress=on_progress,
    )
    on_progress("Risk on held-out sections")
    risk = RiskModel.fit(fitted.forecasts, fitted.panels)
    version = _register(workspace, fitted, risk, hashes, perf_counter() - started)
    training = Training(version, fitted.model, verdicts(version.metrics), True)
    with opened() as workspace:
        store.remember_model(
            workspace.connection,
            version.version,
            workspace.as_of,
            hashes,
            accepted=training.accepted,
        )
    return replace(training, reason=f"fitted ({why}) and {_let_serve(training, workspace)}")


def verdicts(figures: Mapping[str, float]) -> tuple[Verdict, ...]:
    """Return the conditions of serving; a condition whose figure is unknown is met.

    Parameters
    ----------
    figures
        As `forecasting.evaluation.figures` returns them.
    """
    errors = {name: figures[name] for name in ("rmse", "naive_rmse") if name in figures}
    better = len(errors) < 2 or errors["rmse"] < errors["naive_rmse"]
    return Verdict("better_than_naive", better, errors), covers(figures)


def _hashes(workspace: Workspace, ended: pd.DataFrame) -> dict[str, int]:
    stored = workspace.frames.hashes(None, SEQUENCES)
    names = set(ended["section_id"])
    return {name: value for of in stored.values() for name, value in of.items() if name in names}


def _load(folder: Path) -> Trajectory:
    RiskModel.load(folder)
    return Trajectory.load(folder)


def _learned(
    workspace: Workspace, courses: list[str], hashes: Mapping[str, int], on_progress: Progress
) -> tuple[list[Panel], pd.DataFrame]:
    """Return the panels of the ended sections, with truth, and their weekly snapshots.

    Sections whose features have not been computed yet come in when they are.
    """
    on_progress("Reading ended sections")
    training_panels: list[Panel] = []
    weekly = [pd.DataFrame()]
    for sequences, snapshots in frames(workspace, courses):
        own = snapshots[snapshots["section_id"].astype(object).isin(hashes)]
        training_panels += panels(
            sequences, origins(own, SETTINGS.origins), truth_on=workspace.as_of
        )
        weekly.append(own[_WEEKLY])
    return training_panels, pd.concat(weekly[1:] or weekly, ignore_index=True)


def _register(
    workspace: Workspace,
    fitted: Fitted,
    risk: RiskModel,
    hashes: Mapping[str, int],
    seconds: float,
) -> ModelVersion:
    figures = {**fitted.figures, **_of_risk(risk)}

    def save(folder: Path) -> None:
        fitted.model.save(folder)
        risk.save(folder)

    return register_files(
        workspace.registry,
        NAME,
        save,
        metrics={name: value for name, value in figures.items() if math.isfinite(value)}
        | {"training_seconds": seconds, "peak_megabytes": peak_megabytes()},
        features=fitted.panels[0].feature_names,
        parameters={
            "as_of": workspace.as_of,
            "seed": workspace.seed,
            "sections": len(fitted.model.sections),
            "forecasters": ", ".join(fitted.model.forecasters),
        },
        data_version=str(sum(hashes.values()) % 2**64),
        trained_at=workspace.now,
    )


def _of_risk(risk: RiskModel) -> dict[str, float]:
    """Return how the risk periods of all enrollments did on the newest term that has ended."""
    names = ("precision", "recall", "brier", "lead_weeks")
    return {
        f"risk_{name}": float(getattr(evaluation, name))
        for evaluation in risk.evaluation
        if evaluation.group == "all"
        for name in names
    }


def _let_serve(training: Training[Trajectory], workspace: Workspace) -> str:
    """Make the version champion if it may be and no champion knows more; return what became of it.

    Versions of the time before stages, and of processes that died too early, are caught up with.
    """
    stages, version = workspace.stages, training.version
    champion = stages.registry.get(NAME, Alias.CHAMPION)
    if champion and champion.version == version.version:
        return "is champion"
    if not training.accepted:
        return f"stays a candidate: {training.failures}"
    if champion and _day(champion) > workspace.as_of:
        return f"serves days before {_day(champion)}; version {champion.version} knows more"
    stage = stages.of(version)
    if stage not in (Stage.CANDIDATE, Stage.CHALLENGER):
        return f"is {stage}; what serves is left as it is"
    promote(stages, version, training.evidence("meets every condition"))
    before = f"in the place of version {champion.version}" if champion else "where there was none"
    return f"became champion {before}"


def _day(version: ModelVersion) -> date:
    """Return the as-of day of a version."""
    return date.fromisoformat(version.parameters["as_of"])
