"""Work on many keys at once, of which one that fails costs the others nothing."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from typing import TypeVar

from grade_ml.core.database import is_lost
from grade_ml.core.errors import ConfigurationError, OutOfMemoryError, ServiceError

Key = TypeVar("Key")
Done = TypeVar("Done")

#: What no key is the cause of.
_COMMON = (ConfigurationError, OutOfMemoryError, ServiceError)
#: So many keys fail alike, and none succeeds: the cause is taken for one of all.
_ENOUGH = 5


def settle(
    keys: Sequence[Key], work: Callable[[Sequence[Key]], Done]
) -> tuple[list[Done], dict[Key, Exception]]:
    """Return what `work` says of parts of `keys` that hold all but the failing ones, and those.

    Where `work` fails it is called again on halves, until the failing keys are alone.

    Raises
    ------
    Exception
        No key is the cause: an error of `_COMMON`, or one with which each of the first keys failed
        at the same place.
    """
    done: list[Done] = []
    failed: dict[Key, Exception] = {}

    def attempt(some: Sequence[Key]) -> None:
        try:
            done.append(work(some))
        except _COMMON:
            raise
        except Exception as error:  # of whatever kind: it is told with the key that is its cause
            if is_lost(error):
                raise
            if len(some) > 1:
                # Every second one, so that the first that are alone come from everywhere.
                attempt(some[::2])
                attempt(some[1::2])
                return
            failed[some[0]] = error
            alike = len({place(one) for one in failed.values()}) == 1
            if not done and alike and len(failed) == _ENOUGH:
                raise

    attempt(keys)
    return done, failed


def place(error: Exception) -> str:
    """Return where an error was raised."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"in {last.name}, line {last.lineno} of {last.filename}"
