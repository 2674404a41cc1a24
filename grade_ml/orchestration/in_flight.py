"""Which runs are on their way, from the queue to their end, and the courses that they work on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dagster import DagsterInstance, RunsFilter
from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES

from grade_ml.orchestration.partitions import RANGE_END, RANGE_START

#: All of Dagster's but those of runs that have ended: one that waits in the queue or is suspended
#: will still do what it was asked for.
IN_FLIGHT = tuple(NOT_FINISHED_STATUSES)


def is_in_flight(instance: DagsterInstance, job: str) -> bool:
    """Return whether a run of the job is on its way."""
    filters = RunsFilter(job_name=job, statuses=list(IN_FLIGHT))
    return bool(instance.get_run_records(filters, limit=1))


def worked_on(instance: DagsterInstance, known: Sequence[str], job: str | None = None) -> set[str]:
    """Return the partitions of `known` on which runs are on their way, of one job or of any."""
    runs = instance.get_runs(RunsFilter(job_name=job, statuses=list(IN_FLIGHT)))
    return set[str]().union(*(covered(known, run.tags) for run in runs))


def covered(known: Sequence[str], tags: Mapping[str, str]) -> set[str]:
    """Return the partitions that a run with `tags` works on.

    >>> sorted(covered(["a", "b", "c"], {RANGE_START: "b", RANGE_END: "c"}))
    ['b', 'c']
    """
    if "dagster/partition" in tags:
        return {tags["dagster/partition"]}
    start, end = tags.get(RANGE_START), tags.get(RANGE_END)
    if start not in known or end not in known:
        return set()
    return set(known[known.index(start) : known.index(end) + 1])
