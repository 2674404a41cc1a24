"""The trajectory model of a day, fitted anew where much has changed, and its risk.

A model for a day knows only what had ended by then, so that a past day can be forecast again as it
would have been.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version as installed_version
from pathlib import Path

import pandas as pd

from grade_ml.core.errors import ArtifactError
from grade_ml.early_warning.risk_model import RiskModel
from grade_ml.features.store import SEQUENCES
from grade_ml.forecasting import store
from grade_ml.forecasting.contract import Panel
from grade_ml.forecasting.loading import frames, sections_where
from grade_ml.forecasting.panels import origins, panels
from grade_ml.forecasting.settings import SETTINGS
from grade_ml.forecasting.trajectory import NAME, Progress, Trajectory, fit
from grade_ml.gradebook.schema import section
from grade_ml.registry.workspace import Workspace


@dataclass(frozen=True)
class Current:
    """The model of a day; `reason` says why it was fitted, or is empty."""

    model: Trajectory
    version: int
    reason: str


def current(
    workspace: Workspace, trained_at: datetime, on_progress: Progress = lambda message: None
) -> Current:
    """Return the model for the day: the newest one that fits it, or one fitted now.

    It is fitted where there is none, where its artifact is unusable, and where more than a small
    share of the ended sections is new or changed.

    Raises
    ------
    NotReadyError
        No section has ended, or the features of none have been computed.
    """
    ended = sections_where(workspace, section.c.ends_on < workspace.as_of)
    hashes = _hashes(workspace, ended)
    known = store.newest_model(workspace.connection, workspace.as_of)
    previous, problem = None, "there was none"
    if known:
        version, sections = known
        try:
            folder = workspace.registry.fetch(workspace.registry.at(NAME, version))
            previous = Trajectory.load(folder)
            RiskModel.load(folder)
        except ArtifactError as error:
            problem = error.message
        else:
            changed = sum(sections.get(name) != value for name, value in hashes.items())
            if changed <= SETTINGS.changed * len(hashes):
                return Current(previous, version, "")
            problem = f"{changed} of {len(hashes)} ended sections are new or changed"
    return Current(*_train(workspace, hashes, previous, trained_at, on_progress), problem)


def _hashes(workspace: Workspace, ended: pd.DataFrame) -> dict[str, int]:
    stored = workspace.frames.hashes(None, SEQUENCES)
    names = set(ended["section_id"])
    return {name: value for of in stored.values() for name, value in of.items() if name in names}


def _train(
    workspace: Workspace,
    hashes: Mapping[str, int],
    previous: Trajectory | None,
    trained_at: datetime,
    on_progress: Progress,
) -> tuple[Trajectory, int]:
    on_progress("Reading ended sections")
    ended = sections_where(workspace, section.c.ends_on < workspace.as_of)
    known: list[Panel] = []
    weekly = []
    # Courses whose features have not been computed yet come in when they are.
    learned = ended.loc[ended["section_id"].isin(hashes), "course_id"]
    for sequences, snapshots in frames(workspace, sorted(set(learned))):
        own = snapshots[snapshots["section_id"].astype(object).isin(hashes)]
        known += panels(sequences, origins(own, SETTINGS.origins), truth_on=workspace.as_of)
        weekly.append(own[["course_id", "section_id", "student_id", "cut_day", "activity_last_7"]])
    fitted = fit(
        known,
        pd.concat(weekly, ignore_index=True) if weekly else pd.DataFrame(),
        seed=workspace.seed,
        previous=previous,
        on_progress=on_progress,
    )
    on_progress("Risk on held-out sections")
    risk = RiskModel.fit(fitted.forecasts, fitted.panels)
    with tempfile.TemporaryDirectory() as folder:
        fitted.model.save(Path(folder))
        risk.save(Path(folder))
        version = workspace.registry.register(
            NAME,
            Path(folder),
            metrics={},
            parameters={"as_of": workspace.as_of, "seed": workspace.seed},
            features=known[0].feature_names,
            data_version=str(sum(hashes.values()) % 2**64),
            code_version=installed_version("grade-ml"),
            trained_at=trained_at,
        )
    store.remember_model(workspace.connection, version.version, workspace.as_of, hashes)
    return fitted.model, version.version
