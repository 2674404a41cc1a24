"""Optuna's studies in our database: opened where the last process left them, and forgotten."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version as installed_version
from typing import TYPE_CHECKING

import sqlalchemy as sa

from grade_ml.core.database import reachable, with_driver
from grade_ml.core.hashing import digest
from grade_ml.core.locks import DatabaseLock
from grade_ml.ensemble import pooled
from grade_ml.ensemble.members import Member, Task
from grade_ml.training.tuning.contest import Contest
from grade_ml.training.tuning.search import Search
from grade_ml.training.tuning.settings import SETTINGS

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.storages import RDBStorage

#: Where Optuna's tables are, in our own database: its names (trials, studies) would be in the way.
SCHEMA = "optuna"


@contextmanager
def opened(url: str) -> Iterator[RDBStorage]:
    """Open Optuna's tables in a schema of their own; they are made where they are missing."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    url = with_driver(url, "psycopg")
    engine = sa.create_engine(url)
    try:
        with reachable(engine) as connection:
            DatabaseLock.TUNING.wait(connection)
            connection.execute(sa.text(f"create schema if not exists {SCHEMA}"))
    finally:
        engine.dispose()
    storage = optuna.storages.RDBStorage(
        url,
        engine_kwargs={
            "connect_args": {"options": f"-c search_path={SCHEMA} -c timezone=UTC"},
            "pool_pre_ping": True,
        },
    )
    try:
        yield storage
    finally:
        storage.remove_session()
        storage.engine.dispose()


def study_of(  # noqa: PLR0913, PLR0917 - what a study must not be mixed up by
    storage: RDBStorage,
    data: str,
    contest: Contest,
    kind: type[Member],
    start: Mapping[str, float],
    seed: int,
) -> Search:
    """Return the study of a member on these data, as its last process left it."""
    import optuna
    from optuna.distributions import FloatDistribution, IntDistribution
    from optuna.trial import TrialState

    task = contest.load.task
    conditions = {
        "code": installed_version("grade-ml"),
        "seed": seed,
        "settings": asdict(SETTINGS),
        "ensemble": asdict(pooled.SETTINGS),
        "space": {name: asdict(range_) for name, range_ in kind.space(task).items()},
        "defaults": kind.defaults(task),
    }
    study = optuna.create_study(
        storage=storage,
        study_name=f"{data} {digest(conditions, 8)} {task} {kind.name}",
        pruner=optuna.pruners.MedianPruner(n_startup_trials=SETTINGS.startup_trials),
        load_if_exists=True,
    )
    # Trials that a dead process had enqueued or begun are marked as failed.
    for _ in study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        study.ask()
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
    space: dict[str, BaseDistribution] = {
        name: IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log)
        if dimension.whole
        else FloatDistribution(dimension.low, dimension.high, log=dimension.log)
        for name, dimension in kind.space(task).items()
    }
    default = within(kind, task, {})
    first = [dict(start)] if start == default else [dict(start), default]
    search = Search(contest, kind, study, space, first, seed)
    search.read()
    return search


def within(kind: type[Member], task: Task, values: Mapping[str, float]) -> dict[str, float]:
    """Return `values` drawn into a member's space, with defaults for what they lack."""
    space = kind.space(task)
    parameters = {}
    for name, default in kind.defaults(task).items():
        parameters[name] = default
        if name in space:
            value = min(max(values.get(name, default), space[name].low), space[name].high)
            parameters[name] = round(value) if space[name].whole else float(value)
    return parameters


def forget(storage: RDBStorage, running: set[str]) -> None:
    """Delete the oldest studies beyond `TuningSettings.kept_studies`, and none of `kept`."""
    import optuna

    names = optuna.get_all_study_names(storage)
    for name in names[: -SETTINGS.kept_studies]:
        if name not in running:
            optuna.delete_study(study_name=name, storage=storage)
