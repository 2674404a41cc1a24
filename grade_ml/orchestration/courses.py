"""Assets with a partition for each course, where a failing course does not affect the others.

A body works on all courses of its run at once, since most of the work is shared; `settle` isolates
the failing courses. The step then succeeds for the others, so that later steps continue with them;
failed courses are not materialized and give the reason, and the check `all_courses` of the asset
fails the run in a step of its own, on which nothing depends.
"""

import inspect
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from dagster import (
    AssetCheckExecutionContext,
    AssetCheckResult,
    AssetChecksDefinition,
    AssetCheckSeverity,
    AssetCheckSpec,
    AssetExecutionContext,
    AssetKey,
    AssetMaterialization,
    AssetObservation,
    AssetsDefinition,
    DagsterEventType,
    DagsterLogManager,
    Failure,
    MaterializeResult,
    ResourceParam,
    asset,
    multi_asset_check,
)
from dagster._core.definitions.source_asset import SYSTEM_METADATA_KEY_SOURCE_ASSET_OBSERVATION

from grade_ml.core.errors import GradeMLError
from grade_ml.core.settling import place, settle
from grade_ml.gradebook.catalog import course_ids, require_courses
from grade_ml.orchestration.partitions import course, keys_of, many_courses
from grade_ml.orchestration.reporting.entries import entries
from grade_ml.orchestration.resources import Platform
from grade_ml.orchestration.steps import step

#: Keeps Dagster from materializing: it would materialize every course of the run.
_BY_HAND = {SYSTEM_METADATA_KEY_SOURCE_ASSET_OBSERVATION: True}
#: The check, and the key of its metadata with the failed courses.
CHECK, FAILED = "all_courses", "failed"


@dataclass
class Courses:
    """The courses that a body works on, and the metadata of each."""

    keys: Sequence[str]
    log: DagsterLogManager
    run_id: str
    metadata: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add_asset_metadata(self, metadata: Mapping[str, Any], partition_key: str) -> None:
        """Show `metadata` with the course's materialization."""
        self.metadata.setdefault(partition_key, {}).update(metadata)


Body = Callable[[Courses, Platform], MaterializeResult[Any]]


def course_asset(**options: Any) -> Callable[[Body], AssetsDefinition]:
    """Return a decorator that makes an asset with a partition for each course of a body.

    Parameters
    ----------
    options
        As of Dagster's `asset`.
    """

    def decorate(body: Body) -> AssetsDefinition:
        @asset(  # type: ignore[untyped-decorator]
            name=body.__name__,
            description=inspect.getdoc(body),
            partitions_def=course,
            backfill_policy=many_courses,
            **options,
        )
        @step
        def made(
            context: AssetExecutionContext, platform: ResourceParam[Platform]
        ) -> MaterializeResult:  # type: ignore[type-arg]
            known = {*context.instance.get_dynamic_partitions(str(course.name))}
            with platform.connection() as connection:
                present = course_ids(connection)
            chosen = keys_of(context, lambda named: require_courses({*named} - known, present))

            def work(keys: Sequence[str]) -> tuple[Courses, MaterializeResult[Any]]:
                # A partition can be added in the launch dialog, for any text.
                require_courses(keys, present)
                courses = Courses(keys, context.log, context.run.run_id)
                return courses, body(courses, platform)

            parts, failed = settle(chosen, work)
            if not parts:
                raise next(iter(failed.values()))
            if len(parts) == 1 and not failed:
                courses, result = parts[0]
                for key in courses.metadata:
                    context.add_asset_metadata(_shown(courses, result, key), partition_key=key)
                return result
            return _by_hand(context, parts, failed)

        assert isinstance(made, AssetsDefinition)
        return made

    return decorate


def _by_hand(
    context: AssetExecutionContext,
    parts: Sequence[tuple[Courses, MaterializeResult[Any]]],
    failed: Mapping[str, Exception],
) -> MaterializeResult[Any]:
    """Materialize the courses of `parts` and record why the others are not."""
    key = context.asset_key
    for courses, result in parts:
        for name in courses.keys:
            metadata = _shown(courses, result, name)
            context.log_event(AssetMaterialization(key, metadata=metadata, partition=name))
    for name, error in failed.items():
        places = "".join(traceback.format_tb(error.__traceback__))
        context.log.error(f"{name} failed: {_reason(error)}\n{places}")
        metadata = {FAILED: _reason(error)}
        context.log_event(AssetObservation(key, metadata=metadata, partition=name))
    return MaterializeResult(
        metadata=_BY_HAND,
        check_results=list(_together(result for _, result in parts)),
    )


def _shown(courses: Courses, result: MaterializeResult[Any], key: str) -> dict[str, Any]:
    """Return the metadata of a course: that of the whole run, and that of the course."""
    return entries({**(result.metadata or {}), **courses.metadata.get(key, {})})


def _together(results: Iterator[MaterializeResult[Any]]) -> Iterator[AssetCheckResult]:
    """Yield one result for each check: the result of a part in which it failed, if any."""
    merged: dict[str | None, AssetCheckResult] = {}
    for check in chain.from_iterable(result.check_results or () for result in results):
        if check.check_name not in merged or not check.passed:
            merged[check.check_name] = check
    yield from merged.values()


def _reason(error: Exception) -> str:
    """Return the reason, without the message of a foreign error: it may contain a student's id."""
    if isinstance(error, GradeMLError):
        return str(error)
    return f"{type(error).__name__} {place(error)}"


def all_courses(definition: AssetsDefinition) -> AssetChecksDefinition:
    """Return the check of a course asset that fails the run if a course has failed."""
    key = definition.key
    name = key.to_user_string()
    spec = AssetCheckSpec(
        CHECK, asset=key, description="No course of the run failed; if one did, the run fails."
    )

    @multi_asset_check(
        name=f"{name}_{CHECK}",
        specs=[spec],
        description=f"Fail the run if {name} has failed.",
    )
    @step
    def check(
        context: AssetCheckExecutionContext, platform: ResourceParam[Platform]
    ) -> Iterator[AssetCheckResult]:
        reasons = dict(_failed_in(context, key))
        yield AssetCheckResult(
            asset_key=key,
            check_name=CHECK,
            passed=not reasons,
            severity=AssetCheckSeverity.ERROR,
            metadata={FAILED: reasons},
        )
        if reasons:
            listed = ", ".join(sorted(reasons)[:20]) + (", …" if len(reasons) > 20 else "")
            raise Failure(
                f"{name} failed for {listed}; the other courses are done.",
                metadata={FAILED: reasons},
                allow_retries=False,
            )

    return check


def _failed_in(context: AssetCheckExecutionContext, key: AssetKey) -> Iterator[tuple[str, str]]:
    """Yield the courses that failed in this run and why."""
    records = context.instance.get_records_for_run(
        context.run.run_id, of_type=DagsterEventType.ASSET_OBSERVATION
    ).records
    for record in records:
        observed = record.asset_observation
        if observed and observed.asset_key == key and FAILED in observed.metadata:
            yield str(observed.partition), str(observed.metadata[FAILED].value)


def is_partial(step: str) -> bool:
    """Return whether all but some courses are done although the step failed."""
    return step.endswith(f"_{CHECK}")
