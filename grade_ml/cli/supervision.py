"""Child processes that are kept alive: started in their own group, restarted, stopped as a whole.

What they are and when they are started is decided in `up`.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from grade_ml.core.process import Identity

#: A process that lived this long (seconds) starts again at once when it dies.
STEADY_SECONDS = 60
LONGEST_PAUSE_SECONDS = 30
#: So many deaths in a row are reported with the end of the log.
DEATHS_REPORTED = 3
#: Dagster's long-lived processes grow over weeks (its issue 32070); their runs outlive a restart.
MEMORY_LIMIT_BYTES = 2 << 30
#: A running step needs a moment to record that it was stopped.
STOP_SECONDS = 15
LOG_BYTES = 10 << 20


@dataclass
class Child:
    """One supervised process, which works in `folder`.

    `say` is called with what a person should know; the process's output goes to `log`.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    folder: Path
    log: Path
    say: Callable[[str], None]
    identity: Identity | None = None
    _process: subprocess.Popen[bytes] | None = None
    _deaths: int = 0
    _started: float = 0.0
    _due: float = field(default=0.0)

    def start(self) -> None:
        """Start the process in a group of its own, which a Ctrl-C in the terminal misses."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                self.command,
                env=self.environment,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.identity = Identity.of(self._process.pid)
        self._started = time.monotonic()

    def tend(self) -> bool:
        """Start the process again if it died and its pause is over; return whether it did."""
        rotate(self.log)
        if self._process is not None:
            if self._process.poll() is None:
                self._limit_memory()
                return False
            self._bury(self._process.returncode)
        if time.monotonic() < self._due:
            return False
        self.start()
        return True

    def _bury(self, status: int) -> None:
        self._process = None
        steady = time.monotonic() - self._started > STEADY_SECONDS
        self._deaths = 1 if steady else self._deaths + 1
        pause = min(2.0 ** (self._deaths - 1), LONGEST_PAUSE_SECONDS)
        self._due = time.monotonic() + pause
        self.say(f"{self.name} ended (status {status}); it starts again in {pause:.0f} s.")
        if self._deaths % DEATHS_REPORTED == 0:
            self.say(f"{self.name} keeps ending. The end of {self.log}:\n{self.last_lines()}")

    def _limit_memory(self) -> None:
        assert self._process is not None
        with suppress(psutil.Error):
            if psutil.Process(self._process.pid).memory_info().rss > MEMORY_LIMIT_BYTES:
                self.say(f"{self.name} has grown beyond {MEMORY_LIMIT_BYTES >> 20} MB.")
                self._process.terminate()

    def last_lines(self, count: int = 15) -> str:
        """Return the end of the log."""
        with suppress(FileNotFoundError):
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-count:])
        return ""


def rotate(log: Path) -> None:
    """Move the content of a long `log` to `….old.log`.

    Its writers have it open to append, so what they write next stands at its new beginning. The
    few lines that they write between copying and cutting are lost.
    """
    with suppress(FileNotFoundError):
        if log.stat().st_size > LOG_BYTES:
            shutil.copyfile(log, log.with_suffix(".old.log"))
            os.truncate(log, 0)


def stop(processes: Sequence[Identity]) -> None:
    """End the groups of `processes`: first asked, then, after `STOP_SECONDS`, killed."""
    for process in processes:
        _signal(process.pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    while time.monotonic() < deadline and any(_has_members(process.pid) for process in processes):
        time.sleep(0.1)
    for process in processes:
        _signal(process.pid, signal.SIGKILL)


def _has_members(group: int) -> bool:
    for process in psutil.process_iter(["status"]):
        with suppress(OSError):
            dead = process.info["status"] == psutil.STATUS_ZOMBIE
            if not dead and os.getpgid(process.pid) == group:
                return True
    return False


def _signal(group: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, number)
