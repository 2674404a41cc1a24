"""Wraps the body of every step: it waits for its turn, leaves memory free, records its usage.

Dagster's queue counts the started runs of a pool, so that it admits two runs that start in the same
second, one by `grade-ml run`. Their steps take turns: each holds a place of the pool in the
database.

`reporting.entries` gives the metadata of the step readable names and units.

A step starts again after a transient failure, such as a lost database. That is safe, because
everything that it writes replaces what it wrote before. Any other failure would have the same cause
the next time, so the step fails at once.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial, wraps
from time import sleep
from typing import Any

from dagster import OpExecutionContext, RetryRequested
from sqlalchemy.exc import SQLAlchemyError

from grade_ml.core import database
from grade_ml.core.errors import ServiceError
from grade_ml.core.failures import is_transient
from grade_ml.core.process import Meter, guarded
from grade_ml.maintenance import usage
from grade_ml.orchestration.queue import places
from grade_ml.orchestration.reporting import entries
from grade_ml.orchestration.resources import Platform

#: A server that was killed is back within seconds; one that is moved, or started by hand, later.
_PAUSES = (5, 10, 20, 40, 80, 120)
_END = object()


def step(body: Callable[..., Any]) -> Callable[..., Any]:
    """Return the body of an asset, a check or an op as a step; it takes `platform`."""
    assert "platform" in inspect.signature(body).parameters, body
    if inspect.isgeneratorfunction(body):

        @wraps(body)
        def yielding(*arguments: Any, platform: Platform, **named: Any) -> Iterator[Any]:
            with _attempt(platform) as work:
                results = body(*arguments, platform=platform, **named)
                # Between two results Dagster itself works, which must not be stopped.
                while (result := work(partial(next, results, _END))) is not _END:
                    yield entries.result(result)

        return yielding

    @wraps(body)
    def returning(*arguments: Any, platform: Platform, **named: Any) -> Any:
        with _attempt(platform) as work:
            return entries.result(work(partial(body, *arguments, platform=platform, **named)))

    return returning


@contextmanager
def _attempt(platform: Platform) -> Iterator[Callable[[Callable[[], Any]], Any]]:
    """Yield a function that runs work under guard; request another attempt, record the usage."""
    context = OpExecutionContext.get()
    name = context.get_step_execution_context().step.key
    try:
        with in_pool(context, platform), _measured(context, platform, name) as meter:
            reserve = platform.settings.run_memory_reserve_mb
            yield partial(guarded, name, reserve, meter=meter)
    except Exception as error:  # raised again, or replaced by the request of another attempt
        if context.retry_number >= len(_PAUSES) or not is_transient(error):
            raise
        pause = _PAUSES[context.retry_number]
        context.log.warning(f"{name} starts again in {pause} s: {error}")
        raise RetryRequested(max_retries=len(_PAUSES), seconds_to_wait=pause) from error


@contextmanager
def in_pool(context: OpExecutionContext, platform: Platform) -> Iterator[None]:
    """Hold a place in the pool of the step, if it has one; wait while other runs hold all."""
    pool, logged = context.get_step_execution_context().step.pool, set[tuple[str, ...]]()

    def wait(holders: Sequence[str]) -> None:
        if tuple(holders) not in logged:
            logged.add(tuple(holders))
            runs = ", ".join(holders) or "another run"
            context.log.info(f"Waiting for a place in the pool {pool}, which {runs} has.")
        sleep(1)

    if pool is None:
        yield
        return
    size = places(platform.settings).get(pool, 1)
    with database.place(platform.engine, pool, size, f"run {context.run.run_id}", wait):
        yield


@contextmanager
def _measured(context: OpExecutionContext, platform: Platform, name: str) -> Iterator[Meter]:
    """Record the usage of the step, whether it succeeds or fails."""
    started_at, meter = platform.clock.now(), Meter()
    try:
        yield meter
    finally:
        used = meter.read()
        try:
            with platform.connection() as connection:
                usage.record(connection, context.run.run_id, name, started_at, used)
        except (ServiceError, SQLAlchemyError) as error:
            # The work of the step is valid without it; the cause of a failure must stay visible.
            context.log.warning(f"The usage of {name} could not be recorded: {error}")
