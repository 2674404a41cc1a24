"""Kills a process at its n-th write, to see that what it had begun is finished by the next."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine, event


@contextmanager
def dying_at(number: int) -> Iterator[None]:
    """Kill this process at the step of that number if the block has so many; else end it well."""
    fuse = _Fuse(number)
    event.listen(Engine, "before_cursor_execute", fuse.execute)
    event.listen(Engine, "commit", fuse.commit)
    yield
    # Not by the ordinary way out, which has the pools roll back.
    os._exit(0)


class _Fuse:
    """Kills this process before the write or commit of that number, in whichever database.

    Reads and their commits are passed over: a kill there leaves what one before the next write
    leaves.
    """

    def __init__(self, number: int) -> None:
        self.left = number

    def execute(self, connection: Connection, _: object, statement: str, *__: object) -> None:
        if statement.split(maxsplit=1)[0].lower() in ("insert", "update", "delete"):
            connection.info["wrote"] = True
            self._burn()

    def commit(self, connection: Connection) -> None:
        if connection.info.pop("wrote", False):
            self._burn()

    def _burn(self) -> None:
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self.left -= 1
