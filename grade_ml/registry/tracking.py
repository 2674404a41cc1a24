"""Experiments in MLflow: one run for each, for users of MLflow.

A copy of the tables that no code reads. What exists already is not written again, so that the next
process completes what a process that died left incomplete.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from upath import UPath

from grade_ml.core.errors import ServiceError
from grade_ml.core.hashing import checksum
from grade_ml.core.storage import write_whole
from grade_ml.registry.registry import Registry

if TYPE_CHECKING:
    from mlflow.entities import Run

#: The group of all runs in MLflow, and the folder of their files below the storage root.
GROUP = "experiments"
REPORT = "report.html"
_KEY, _STATE, _DIGEST = "grade_ml.experiment", "grade_ml.state", "grade_ml.report_sha256"
#: The metric that counts the steps, so that a run shows how many it has.
_LOOK = "look"
#: Characters of a parameter; older servers of MLflow refuse longer values.
_LONGEST = 500


@dataclass(frozen=True)
class Step:
    """What was measured at one time; figures that are not finite are left out."""

    at: datetime
    figures: Mapping[str, float]


@dataclass(frozen=True)
class Tracked:
    """What MLflow shows of one experiment.

    Attributes
    ----------
    key
        Names it permanently, [a-z0-9-].
    parameters
        What was planned; they never change.
    steps
        In their order; later entries are added, earlier entries never change.
    state
        Its state, in one word.
    has_ended
        Whether nothing will be added any more.
    report
        A whole HTML page.
    """

    key: str
    parameters: Mapping[str, object]
    steps: Sequence[Step]
    state: str
    has_ended: bool
    report: str


def track(registry: Registry, root: str, tracked: Tracked) -> None:
    """Bring the experiment's run in step with `tracked`; create it if there is none.

    Parameters
    ----------
    root
        The storage root.

    Raises
    ------
    ServiceError
        MLflow does not answer, or refuses.
    """
    from mlflow.exceptions import MlflowException

    try:
        _bring_in_step(registry, UPath(root) / GROUP, tracked)
    except MlflowException as error:
        raise ServiceError(
            f"MLflow could not store the experiment {tracked.key}: {error.message}",
            "The next run of manage_ab_tests tries again.",
        ) from error


def _bring_in_step(registry: Registry, place: UPath, tracked: Tracked) -> None:
    from mlflow.entities import Metric, Param

    client = registry._client
    run = _run(registry, place, tracked.key)
    run_id, tags = run.info.run_id, run.data.tags
    planned = {name: str(value)[:_LONGEST] for name, value in tracked.parameters.items()}
    missing = [Param(name, planned[name]) for name in planned.keys() - run.data.params.keys()]
    if missing:
        client.log_batch(run_id, params=missing)
    known = int(run.data.metrics.get(_LOOK, 0))
    for number, step in enumerate(tracked.steps[known:], known + 1):
        moment = int(step.at.timestamp() * 1000)
        figures = {name: value for name, value in step.figures.items() if math.isfinite(value)}
        metrics = {**figures, _LOOK: number}.items()
        client.log_batch(run_id, [Metric(name, value, moment, number) for name, value in metrics])
    digest = checksum(tracked.report.encode())
    if tags.get(_DIGEST) != digest:
        # Where MLflow shows the files of the run; a server elsewhere need not reach the storage.
        write_whole(place / run_id / "artifacts" / REPORT, tracked.report.encode())
        client.set_tag(run_id, _DIGEST, digest)
    if tags.get(_STATE) != tracked.state:
        client.set_tag(run_id, _STATE, tracked.state)
    if tracked.has_ended and run.info.status == "RUNNING":
        client.set_terminated(run_id)


def _run(registry: Registry, place: UPath, key: str) -> Run:
    """Return the run of an experiment, the first if two processes each created a run."""
    client = registry._client
    group = registry._group(GROUP, place)
    runs = client.search_runs(
        [group], f"tags.`{_KEY}` = '{key}'", max_results=1, order_by=["attributes.start_time ASC"]
    )
    return runs[0] if runs else client.create_run(group, tags={_KEY: key}, run_name=key)
