"""Assets with a partition for each course, of which one that fails costs the others nothing.

A body works on all courses of its run at once, since most of the work is shared; `settle` finds the
failing ones. The step then succeeds for the others, so that later steps go on with them; those that
failed are not materialized and say why, and the check `all_courses` of the asset fails the run in a
step of its own, on which nothing depends.
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
from grade_ml.orchestration.partitions import course, many_courses
from grade_ml.orchestration.resources import Platform
from grade_ml.orchestration.retrying import retried

#: With it Dagster materializes nothing by itself: it would materialize every course of the run.
_BY_HAND = {SYSTEM_METADATA_KEY_SOURCE_ASSET_OBSERVATION: True}
_CHECK, _REASON = "all_courses", "failed"


@dataclass
class Courses:
    """The courses that a body works on, and what it tells Dagster of each."""

    keys: Sequence[str]
    log: DagsterLogManager
    run_id: str
    told: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add_asset_metadata(self, metadata: Mapping[str, Any], partition_key: str) -> None:
        """Show `metadata` with the course's materialization."""
        self.told.setdefault(partition_key, {}).update(metadata)


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
        @retried
        def step(
            context: AssetExecutionContext, platform: ResourceParam[Platform]
        ) -> MaterializeResult:  # type: ignore[type-arg]
            parts, failed = settle(
                context.partition_keys,
                lambda keys: _called(
                    body, Courses(keys, context.log, context.run.run_id), platform
                ),
            )
            if not parts:
                raise next(iter(failed.values()))
            if len(parts) == 1 and not failed:
                courses, result = parts[0]
                for key, metadata in courses.told.items():
                    context.add_asset_metadata(metadata, partition_key=key)
                return result
            return _by_hand(context, parts, failed)

        assert isinstance(step, AssetsDefinition)
        return step

    return decorate


def _called(
    body: Body, courses: Courses, platform: Platform
) -> tuple[Courses, MaterializeResult[Any]]:
    return courses, body(courses, platform)


def _by_hand(
    context: AssetExecutionContext,
    parts: Sequence[tuple[Courses, MaterializeResult[Any]]],
    failed: Mapping[str, Exception],
) -> MaterializeResult[Any]:
    """Materialize the courses of `parts` and tell why the others are not."""
    key = context.asset_key
    for courses, result in parts:
        for name in courses.keys:
            metadata = {**(result.metadata or {}), **courses.told.get(name, {})}
            context.log_event(AssetMaterialization(key, metadata=metadata, partition=name))
    for name, error in failed.items():
        places = "".join(traceback.format_tb(error.__traceback__))
        context.log.error(f"{name} failed: {_reason(error)}\n{places}")
        metadata = {_REASON: _reason(error)}
        context.log_event(AssetObservation(key, metadata=metadata, partition=name))
    return MaterializeResult(
        metadata=_BY_HAND,
        check_results=list(_together(result for _, result in parts)),
    )


def _together(results: Iterator[MaterializeResult[Any]]) -> Iterator[AssetCheckResult]:
    """Yield one result for each check: that of a part where it failed, if there is one."""
    answers: dict[str | None, AssetCheckResult] = {}
    for one in chain.from_iterable(result.check_results or () for result in results):
        if one.check_name not in answers or not one.passed:
            answers[one.check_name] = one
    yield from answers.values()


def _reason(error: Exception) -> str:
    """Return why, without the words of a foreign error: they may hold a student's id."""
    if isinstance(error, GradeMLError):
        return str(error)
    return f"{type(error).__name__} {place(error)}"


def all_courses(definition: AssetsDefinition) -> AssetChecksDefinition:
    """Return the check of a course asset that fails the run where a course has failed."""
    key = definition.key
    name = key.to_user_string()
    spec = AssetCheckSpec(
        _CHECK, asset=key, description="No course of the run failed; if one did, the run fails."
    )

    @multi_asset_check(name=f"{name}_{_CHECK}", specs=[spec])
    @retried
    def check(context: AssetCheckExecutionContext) -> Iterator[AssetCheckResult]:
        reasons = dict(_failed_in(context, key))
        yield AssetCheckResult(
            asset_key=key,
            check_name=_CHECK,
            passed=not reasons,
            severity=AssetCheckSeverity.ERROR,
            metadata={"failed": reasons},
        )
        if reasons:
            some = ", ".join(sorted(reasons)[:20]) + (", …" if len(reasons) > 20 else "")
            raise Failure(
                f"{name} failed for {some}; the other courses are done.",
                metadata={"failed": reasons},
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
        if observed and observed.asset_key == key and _REASON in observed.metadata:
            yield str(observed.partition), str(observed.metadata[_REASON].value)


def is_partial(step: str) -> bool:
    """Return whether the failure of a step leaves all but some courses done."""
    return step.endswith(f"_{_CHECK}")
