"""A real `grade-ml up` for the tests that need it."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from dotenv import dotenv_values

from grade_ml.cli.up import answers
from grade_ml_tests import REPOSITORY

PATIENCE_SECONDS = 120
#: With these of a developer's `.env`, a test would work on something else than its own folder.
FOREIGN = {
    "DAGSTER_POSTGRES_URL",
    "GRADE_ML_AS_OF",
    "GRADE_ML_DATABASE_URL",
    "GRADE_ML_STORAGE",
    "GRADE_ML_TIMEZONE",
    "MLFLOW_TRACKING_URI",
}

#: In the order of the record of `up`.
_CHILDREN = ("webserver", "daemon", "code_server")


def free_port() -> int:
    """Return a port for a server to start on.

    It lies below those that the system gives to connections: one of these would take it before
    the server starts.
    """
    for port in random.SystemRandom().sample(range(10_000, 30_000), 100):
        with socket.socket() as probe, suppress(OSError):  # in use: the next
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("100 ports out of 20,000 are in use")


def wait_until(condition: Callable[[], Any], what: str, patience: float = PATIENCE_SECONDS) -> Any:
    """Return the first value of `condition` that is true."""
    deadline = time.monotonic() + patience
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not happen within {patience} s")
        time.sleep(0.1)
    return value


class Installation:
    """An installation under `home`; nothing of the surrounding environment reaches it.

    A developer's `.env` would, so an `.env` that names other stores or another day is refused.
    `user` is the id of the user whom it belongs to, if not the user who runs the tests.
    """

    def __init__(self, home: Path, user: int | None = None, **variables: str) -> None:
        foreign = set(dotenv_values(REPOSITORY / ".env")) & FOREIGN
        assert not foreign, f"move .env away while the tests run: it sets {sorted(foreign)}"
        self.home = home
        self.folder = REPOSITORY
        self._user: dict[str, Any] = (
            {} if user is None else {"user": user, "group": user, "extra_groups": []}
        )
        self.port = free_port()
        self.output = ""
        self._process: subprocess.Popen[str] | None = None
        kept = ("PATH", "PYTHONPATH", "HOME", "LANG", "TMPDIR")
        self.environment = {
            **{name: os.environ[name] for name in kept if name in os.environ},
            # Children import nothing from cwd; another copy may be installed than is tested.
            "PYTHONPATH": str(REPOSITORY),
            "GRADE_ML_HOME": str(home),
            "DAGSTER_HOME": str(home / "dagster"),
            "OMP_NUM_THREADS": "2",
            **variables,
        }

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self._words(arguments),
            cwd=self.folder,
            env=self.environment,
            **self._user,
            capture_output=True,
            text=True,
            check=False,
        )

    def python(self, code: str) -> str:
        """Return what a program of an application beside `up` prints."""
        words = [sys.executable, "-P", "-c", code]
        return subprocess.check_output(words, cwd=self.folder, env=self.environment, text=True)

    def start(self, *arguments: str, **streams: Any) -> subprocess.Popen[str]:
        """Start a command in a group of its own; its outputs are merged without `streams`."""
        return subprocess.Popen(
            self._words(arguments),
            cwd=self.folder,
            env=self.environment,
            **{"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, **streams},
            **self._user,
            text=True,
            start_new_session=True,
        )

    def up(self, *arguments: str) -> None:
        """Start `up` and wait until it reports that it is up."""
        self.output = ""
        self._process = self.start("up", "--port", str(self.port), *arguments)
        threading.Thread(target=self._read, args=[self._process], daemon=True).start()
        wait_until(lambda: "Ctrl-C stops everything" in self.output or self.ended, "up")
        assert not self.ended and f"is up: {self.url}" in self.output, self.output

    @property
    def ended(self) -> bool:
        return self._process is None or self._process.poll() is not None

    def signal(self, number: signal.Signals) -> int:
        """Send a signal to the whole group of `up`, as a terminal does; return its status."""
        assert self._process
        os.killpg(self._process.pid, number)
        return self._process.wait(60)

    def stop(self) -> None:
        if not self.ended:
            self.signal(signal.SIGTERM)

    def child(self, name: str) -> int:
        """Return the process id of a child, running or just killed."""
        # While `up` rewrites the record, it is empty for a moment.
        record = json.loads(wait_until((self.home / "up.lock").read_text, "a record of up"))
        return int(record["children"][_CHILDREN.index(name)]["pid"])

    def graphql(self, query: str) -> dict[str, Any]:
        """Return the data that the UI's server answers."""
        request = urllib.request.Request(
            f"{self.url}/graphql",
            json.dumps({"query": query}).encode(),
            {"content-type": "application/json"},
        )
        with urllib.request.urlopen(request) as answer:
            data: dict[str, Any] = json.load(answer)["data"]
        return data

    def postgres(self) -> psutil.Process | None:
        try:
            return psutil.Process(
                int((self.home / "postgres" / "postmaster.pid").read_text().split()[0])
            )
        except (FileNotFoundError, IndexError, psutil.NoSuchProcess):
            return None

    def _words(self, arguments: tuple[str, ...]) -> list[str]:
        return [sys.executable, "-P", "-m", "grade_ml.cli", *arguments]

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout
        for line in process.stdout:
            self.output += line


@contextmanager
def webserver(
    environment: Mapping[str, str],
    log: Path,
    *arguments: str,
    code: Sequence[str] = ("--empty-workspace",),
) -> Iterator[str]:
    """Serve Dagster's UI as `up` does, by default without any code, and yield its URL."""
    port = free_port()
    words = [sys.executable, "-m", "grade_ml.cli.webserver", "-p", str(port), *code]
    with log.open("w") as output:
        process = subprocess.Popen(
            [*words, *arguments],
            env={**os.environ, **environment},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: answers(url) or process.poll() is not None, "the UI")
        assert process.poll() is None, log.read_text()
        yield url
    finally:
        process.terminate()
        process.wait(60)
