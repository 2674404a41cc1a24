"""Work on many keys at once, in which a key that fails does not affect the others."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from typing import TypeVar

from grade_ml.core.errors import ConfigurationError, ServiceError
from grade_ml.core.failures import is_transient

Key = TypeVar("Key")
Done = TypeVar("Done")

#: What no key is the cause of.
_COMMON = (ConfigurationError, ServiceError)
#: If so many keys fail alike and none succeeds, the cause is assumed to be common to all.
_ENOUGH = 5


def settle(
    keys: Sequence[Key], work: Callable[[Sequence[Key]], Done]
) -> tuple[list[Done], dict[Key, Exception]]:
    """Return the results of `work` on parts of `keys` without the failing keys, and their errors.

    Where `work` fails it is called again on halves, until the failing keys are alone.

    Raises
    ------
    Exception
        No key is the cause: an error of `_COMMON`, or one with which each of the first keys failed
        at the same place.
    """
    done: list[Done] = []
    failed: dict[Key, Exception] = {}

    def attempt(batch: Sequence[Key]) -> None:
        try:
            done.append(work(batch))
        except _COMMON:
            raise
        except Exception as error:  # of any kind: it is returned with the key that is its cause
            if is_transient(error):
                raise
            if len(batch) > 1:
                # Every second key, so that the first that are alone come from everywhere.
                attempt(batch[::2])
                attempt(batch[1::2])
                return
            failed[batch[0]] = error
            alike = len({place(problem) for problem in failed.values()}) == 1
            if not done and alike and len(failed) == _ENOUGH:
                raise

    attempt(keys)
    return done, failed


def place(error: Exception) -> str:
    """Return where an error was raised."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"in {last.name}, line {last.lineno} of {last.filename}"
