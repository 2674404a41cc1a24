"""Whether there is anything to do about experiments; nothing heavy is imported for the answer."""

from __future__ import annotations

from sqlalchemy import Connection

from grade_ml.ensemble.names import POOLED
from grade_ml.experiments import store
from grade_ml.experiments.store import State
from grade_ml.registry.history import Stage, holders


def why_idle(connection: Connection) -> str | None:
    """Return why there is nothing to do about experiments; `None` if there is something."""
    if any(experiment.state is not State.ENDED for experiment in store.read(connection)):
        return None
    stages = holders(connection, POOLED)
    if Stage.CHAMPION not in stages:
        return f"No experiment runs, and the model {POOLED} has no champion; training makes one."
    if Stage.CHALLENGER not in stages:
        return (
            f"No experiment runs, and no version of the model {POOLED} challenges version "
            f"{stages[Stage.CHAMPION]}, which serves."
        )
    return None
