from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner

from grade_ml.cli import supervision
from grade_ml.cli.supervision import Child, stop
from grade_ml.cli.up import command
from grade_ml.core.process import Identity
from grade_ml_tests.launch import wait_until

TALKS = "import itertools\nfor n in itertools.count(): print('line', n, flush=True)"


def test_a_log_is_cut_while_its_process_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(supervision, "LOG_BYTES", 100_000)
    log = tmp_path / "talker.log"
    child = Child("talker", (sys.executable, "-c", TALKS), os.environ, tmp_path, log, say=print)
    child.start()
    old = tmp_path / "talker.old.log"
    for _ in range(3):
        wait_until(lambda: log.stat().st_size > supervision.LOG_BYTES, "a long log")
        old.unlink(missing_ok=True)
        assert not child.tend()
        assert old.read_text().startswith("line") or old.stat().st_size > supervision.LOG_BYTES
        wait_until(lambda: log.stat().st_size > 0, "what follows")
        with log.open("rb") as file:
            assert b"\0" not in file.read(1000)
    assert child.identity
    assert child.identity.is_alive()
    stop([child.identity])


@pytest.fixture
def parent(tmp_path: Path) -> Iterator[Child]:
    """A process with a child of its own, as the daemon has runs."""
    words = ("sh", "-c", "sleep 1000 & wait")
    child = Child("parent", words, os.environ, tmp_path, tmp_path / "log", say=print)
    child.start()
    yield child
    stop(leaders(child))


def leaders(parent: Child) -> list[Identity]:
    return [*filter(None, [parent.identity]), *parent.earlier]


def kill(parent: Child) -> Identity:
    """Kill the process alone, and return its child, which lives on."""
    assert parent.identity
    process = psutil.Process(parent.identity.pid)
    (left,) = wait_until(process.children, "a child of the process")
    process.kill()
    wait_until(lambda: not parent.identity.is_alive(), "the end of the process")
    return Identity.of(left.pid)


WORKS_BY_CHILD = """
import subprocess, threading
print(subprocess.Popen(("sleep", "1000")).pid, flush=True)
threading.Event().wait()
"""


def test_a_process_whose_worker_has_ended_starts_again(tmp_path: Path, capsys):
    command, log = (sys.executable, "-c", WORKS_BY_CHILD), tmp_path / "log"
    child = Child("server", command, os.environ, tmp_path, log, say=print, has_worker=True)
    child.start()
    first = child.identity
    worker = int(wait_until(log.read_text, "a worker"))
    assert not child.tend() and child.identity == first
    os.kill(worker, signal.SIGKILL)
    wait_until(child.tend, "a new process")
    assert "The process in which server works has ended." in capsys.readouterr().out
    assert child.identity != first and not first.is_alive()
    # One that has no worker yet is left alone.
    assert not child.tend()
    wait_until(lambda: len(log.read_text().split()) == 2, "its worker")
    assert not child.tend() and child.identity.is_alive()
    stop(leaders(child))


@pytest.mark.security
def test_what_killed_processes_left_ends_with_their_successor(parent: Child):
    first = kill(parent)
    wait_until(parent.tend, "a new process")
    second = kill(parent)
    assert first.is_alive() and second.is_alive()
    stop(leaders(parent))
    assert not first.is_alive() and not second.is_alive()


def test_a_group_is_forgotten_when_its_last_process_has_ended(parent: Child):
    left = kill(parent)
    wait_until(parent.tend, "a new process")
    assert len(parent.earlier) == 1
    psutil.Process(left.pid).kill()
    wait_until(parent.tend, "the end of the group")
    assert not parent.earlier and parent.identity.is_alive()


def test_the_group_of_a_later_process_with_the_same_number_is_left_alone(parent: Child):
    assert parent.identity
    stop([replace(parent.identity, created=f"{parent.identity.created}1")])
    assert parent.identity.is_alive()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a process is known by a moment")
@pytest.mark.parametrize("booted_since", [False, True])
def test_the_next_up_ends_what_killed_processes_of_a_killed_up_left(
    parent: Child, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, booted_since: bool
):
    left = kill(parent)
    before_boot = {"created": "boot-before+1"} if booted_since else {}
    record = {"children": [asdict(leader) | before_boot for leader in leaders(parent)]}
    (tmp_path / "up.lock").write_text(json.dumps(record))
    monkeypatch.setenv("GRADE_ML_HOME", str(tmp_path))
    with socket.socket() as taken:  # so that this `up` ends before it starts anything
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ended = CliRunner().invoke(command, ["--port", str(taken.getsockname()[1])])
    assert "cannot be used" in str(ended.exception)
    assert ("was killed" in ended.output) is not booted_since
    assert left.is_alive() is booted_since
