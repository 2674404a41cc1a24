"""What a job would see, and whether that has changed since it ran last: if not, it skips.

Each run that a schedule requests carries what was seen as a tag; the schedule compares it with what
the newest run of the job saw. A run that failed, was canceled or was launched by hand does not
count, nor a run of some steps alone (Dagster gives it the tags of the run it repeats): the next
tick runs. The facts are read before the run, so the next tick sees a change during the run.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, tzinfo
from enum import StrEnum
from importlib.metadata import version as installed_version
from types import MappingProxyType
from typing import TYPE_CHECKING

from dagster import AssetCheckKey, AssetKey, DagsterInstance, DagsterRunStatus, RunsFilter
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus

from grade_ml.core.hashing import digest
from grade_ml.gradebook import catalog
from grade_ml.orchestration import recorded
from grade_ml.orchestration.in_flight import IN_FLIGHT
from grade_ml.orchestration.partitions import course
from grade_ml.orchestration.resources import Platform

if TYPE_CHECKING:
    from sqlalchemy import Connection

#: The tag of a run: what was seen when it was requested.
SEEN = "grade_ml/seen"
PREDICTIONS = AssetKey("grade_predictions")
_PROMOTIONS = AssetCheckKey(AssetKey("promotions"), recorded.COMPLETE)


class Fact(StrEnum):
    """The facts on which a job may depend."""

    #: The newest load, the courses, the institution's decisions, and the program.
    RECORDS = "record"
    #: The newest move of any version between stages.
    MODELS = "model"
    #: The newest materialization of `grade_predictions`.
    PREDICTIONS = "prediction"
    #: The newest event of any experiment, and whether the last run left something undone.
    EXPERIMENTS = "experiment"
    #: The day while a section runs, or has ended lately; between terms it does not change.
    TEACHING = "day of teaching"
    DAY = "day"


#: The facts on which each scheduled job depends. A nightly job computes what changes with the
#: calendar (weeks since the start, work that falls due), so it runs on each day of teaching.
WATCHED: Mapping[str, frozenset[Fact]] = MappingProxyType(
    dict.fromkeys(
        (
            "generate_time_series_forecasts",
            "train_advanced_ml_models",
            "train_traditional_models",
        ),
        frozenset({Fact.RECORDS, Fact.MODELS, Fact.TEACHING}),
    )
    | dict.fromkeys(
        ("monitor_model_performance", "update_model_explanations"),
        frozenset({Fact.RECORDS, Fact.MODELS, Fact.PREDICTIONS, Fact.TEACHING}),
    )
    # A running experiment has days of its own: the last day, and those of its labels.
    | {"manage_ab_tests": frozenset(Fact) - {Fact.TEACHING}}
)


@dataclass(frozen=True)
class Seen:
    """The facts on which a job depends, as they were at a moment."""

    at: datetime
    facts: Mapping[Fact, str]

    @property
    def tag(self) -> dict[str, str]:
        """The tag of a run that sees it."""
        return {SEEN: json.dumps({"at": self.at.isoformat(), **self.facts})}

    @classmethod
    def of(cls, tags: Mapping[str, str]) -> Seen | None:
        """Return what a run with these tags saw; None if the tags have no facts."""
        if SEEN not in tags:
            return None
        values = json.loads(tags[SEEN])
        at = datetime.fromisoformat(values.pop("at"))
        # A fact that another version of the program knew differs from all facts of this version.
        return cls(at, {Fact(name): values[name] for name in values.keys() & set(Fact)})


def why_skip(now: Seen, before: Seen | None, zone: tzinfo) -> str | None:
    """Return why a job would see nothing new; None if it would, or if its last run is unknown.

    >>> from datetime import UTC
    >>> early, late = datetime(2026, 11, 29, 2, tzinfo=UTC), datetime(2026, 11, 29, 4, tzinfo=UTC)
    >>> seen = {Fact.RECORDS: "a", Fact.MODELS: "1", Fact.TEACHING: "2026-11-29"}
    >>> why_skip(Seen(late, seen), Seen(early, seen), UTC)
    'No record, model or day of teaching is new since the last run (02:00 on 2026-11-29).'
    >>> why_skip(Seen(late, {**seen, Fact.MODELS: "2"}), Seen(early, seen), UTC)
    """
    if before is None or now.facts != before.facts:
        return None
    *first, last = (fact for fact in Fact if fact in now.facts)
    words = f"{', '.join(first)} or {last}" if first else last
    when = f"{before.at.astimezone(zone):%H:%M on %Y-%m-%d}"
    return f"No {words} is new since the last run ({when})."


def look(instance: DagsterInstance, platform: Platform, job: str) -> Seen:
    """Return the facts on which a scheduled job depends, now.

    Raises
    ------
    GradeMLError, SQLAlchemyError
        The facts cannot be read.
    """
    watched = WATCHED[job]
    with platform.connection() as connection:
        facts = _recorded(connection, platform, watched)
    if Fact.RECORDS in watched:
        courses = instance.get_dynamic_partitions(str(course.name))
        facts[Fact.RECORDS] = digest([facts[Fact.RECORDS], sorted(courses)])
    if Fact.PREDICTIONS in watched:
        made = instance.get_latest_materialization_event(PREDICTIONS)
        facts[Fact.PREDICTIONS] = f"{made.run_id} {made.timestamp}" if made else ""
    if Fact.EXPERIMENTS in watched:
        facts[Fact.EXPERIMENTS] += _undone(instance)
    return Seen(platform.clock.now(), facts)


def decide(instance: DagsterInstance, platform: Platform, job: str) -> tuple[str | None, Seen]:
    """Return why a run of a scheduled job would see nothing new, or None, and what it would see.

    Raises
    ------
    GradeMLError, SQLAlchemyError
        The facts cannot be read.
    """
    now = look(instance, platform, job)
    return why_skip(now, last_seen(instance, job), platform.settings.zone), now


def _recorded(
    connection: Connection, platform: Platform, watched: Collection[Fact]
) -> dict[Fact, str]:
    from grade_ml.experiments import store
    from grade_ml.registry import history

    load = catalog.newest_load(connection)
    rules = (platform.institution.model_dump_json(), installed_version("grade-ml"))
    facts: dict[Fact, object] = {
        Fact.RECORDS: digest([load.key if load else None, *rules]),
        Fact.MODELS: history.newest(connection),
        Fact.EXPERIMENTS: store.newest_event(connection),
        Fact.TEACHING: catalog.last_day_of_teaching(connection, platform.as_of),
        Fact.DAY: platform.as_of,
    }
    return {fact: str(value) for fact, value in facts.items() if fact in watched}


def _undone(instance: DagsterInstance) -> str:
    """Return a value unique to the run if the last run could not promote what was decided."""
    storage = instance.event_log_storage
    execution = storage.get_latest_asset_check_execution_by_key([_PROMOTIONS]).get(_PROMOTIONS)
    if execution is None or execution.status is AssetCheckExecutionRecordStatus.SUCCEEDED:
        return ""
    return f" {execution.run_id}"


def last_seen(instance: DagsterInstance, job: str) -> Seen | None:
    """Return what the newest run of a job saw, if all of it succeeded or is in flight."""
    for run in instance.get_runs(RunsFilter(job_name=job), limit=1):
        # A run that this program executes itself names all its steps; it does not repeat another.
        repeats_some = run.parent_run_id is not None and run.step_keys_to_execute is not None
        if (
            not repeats_some
            and not run.asset_selection
            and run.status in (DagsterRunStatus.SUCCESS, *IN_FLIGHT)
        ):
            return Seen.of(run.tags)
    return None
