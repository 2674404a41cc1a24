"""What a step does when the database goes away for a while: it starts over when it is back.

Everything that a step writes replaces what it wrote before, so starting over is safe. Other
failures are not tried again: they have the same cause the next time.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

from dagster import RetryRequested

from grade_ml.core.database import is_lost

#: A server that was killed is back within seconds; one that is moved, or started by hand, later.
_RETRIES, _SECONDS = 6, 10


def retried(body: Callable[..., Any]) -> Callable[..., Any]:
    """Return the body of an asset or a check, which starts over after a loss of the database."""
    if inspect.isgeneratorfunction(body):

        @wraps(body)
        def yielding(*arguments: Any, **named: Any) -> Iterator[Any]:
            with _starting_over():
                yield from body(*arguments, **named)

        return yielding

    @wraps(body)
    def returning(*arguments: Any, **named: Any) -> Any:
        with _starting_over():
            return body(*arguments, **named)

    return returning


@contextmanager
def _starting_over() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if not is_lost(error):
            raise
        raise RetryRequested(max_retries=_RETRIES, seconds_to_wait=_SECONDS) from error
