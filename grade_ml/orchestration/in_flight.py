"""Runs in flight, from the queue to their end, and the assets and courses that they work on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set

from dagster import AssetKey, DagsterInstance, DagsterRun, RepositoryDefinition, RunsFilter
from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES

from grade_ml.orchestration.ranges import PARTITION, RANGE_END, RANGE_START

#: The statuses of all runs that have not ended: a run that waits in the queue or is suspended will
#: still work.
IN_FLIGHT = tuple(NOT_FINISHED_STATUSES)


def is_in_flight(instance: DagsterInstance, job: str) -> bool:
    """Return whether a run of the job is in flight."""
    filters = RunsFilter(job_name=job, statuses=list(IN_FLIGHT))
    return bool(instance.get_run_records(filters, limit=1))


def worked_on(instance: DagsterInstance, known: Sequence[str], job: str | None = None) -> set[str]:
    """Return the partitions of `known` on which runs in flight work, of one job or of any."""
    runs = instance.get_runs(RunsFilter(job_name=job, statuses=list(IN_FLIGHT)))
    return set[str]().union(*(covered(known, run.tags) for run in runs))


def covered(known: Sequence[str], tags: Mapping[str, str]) -> set[str]:
    """Return the partitions of `known` that a run with `tags` works on.

    >>> sorted(covered(["a", "b", "c"], {RANGE_START: "b", RANGE_END: "c"}))
    ['b', 'c']
    >>> covered(["a", "b", "c"], {PARTITION: "d"})
    set()
    """
    if PARTITION in tags:
        return {tags[PARTITION]} if tags[PARTITION] in known else set()
    start, end = tags.get(RANGE_START), tags.get(RANGE_END)
    if start not in known or end not in known:
        return set()
    return set(known[known.index(start) : known.index(end) + 1])


def assets_of(run: DagsterRun, repository: RepositoryDefinition) -> Set[AssetKey]:
    """Return the assets that a run works on, also those of which it executes only checks."""
    checked = {key.asset_key for key in run.asset_check_selection or ()}
    selected = (run.asset_selection or set()) | checked
    if selected or not repository.has_job(run.job_name):
        return selected
    return repository.get_job(run.job_name).asset_layer.selected_asset_keys
