"""What this process takes of the machine, and that it is stopped before nothing is left."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from grade_ml.core import process
from grade_ml.core.errors import OutOfMemoryError
from grade_ml.core.process import Identity, Meter, guarded, left_megabytes, total_megabytes

#: No machine has so much.
TOO_MUCH = 1e12


@pytest.fixture
def looking_always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process._MemoryWatch, "PAUSE_SECONDS", 1e-4)


def compute_for_ever() -> None:
    """Compute what fails: as an ensemble does with its members."""
    while True:
        try:
            sum(range(1000))
        except Exception:
            continue


def test_a_process_is_known_after_the_clock_of_the_machine_was_set(monkeypatch: pytest.MonkeyPatch):
    """On Linux psutil computes the moment of the start from the present time."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    identity = Identity.of(child.pid)
    as_it_was = psutil.Process.create_time
    monkeypatch.setattr(psutil.Process, "create_time", lambda self: as_it_was(self) + 3600)
    assert identity == Identity.of(child.pid) and identity.is_alive()
    assert not Identity(child.pid, Identity.of(os.getpid()).created).is_alive()
    child.communicate()
    assert not identity.is_alive()


def test_work_is_stopped_before_memory_runs_out(looking_always: None):
    with pytest.raises(OutOfMemoryError, match="Training was stopped") as caught:
        guarded("Training", TOO_MUCH, compute_for_ever, Meter())
    assert "MB at their peak" in caught.value.message
    assert "GRADE_ML_RUN_MEMORY_RESERVE_MB" in caught.value.remedy


def test_work_in_another_thread_is_stopped_there(looking_always: None):
    caught: list[Exception] = []

    def work() -> None:
        try:
            guarded("Training", TOO_MUCH, compute_for_ever, Meter())
        except OutOfMemoryError as error:
            caught.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(60)
    assert caught


def test_memory_that_cannot_be_allocated_is_reported_alike():
    with pytest.raises(OutOfMemoryError, match="Training was stopped: no more memory can be had"):
        guarded("Training", 0, lambda: bytearray(1 << 62), Meter())


def test_what_is_done_is_given_back_and_other_errors_are_themselves():
    assert guarded("It", 0, lambda: 3, Meter()) == 3
    with pytest.raises(ZeroDivisionError):
        guarded("It", 0, lambda: 1 // 0, Meter())


def test_nothing_is_stopped_after_the_work(looking_always: None):
    ended = 0
    for turns in range(300):
        try:
            guarded("It", TOO_MUCH, lambda turns=turns: sum(range(turns * 100)), Meter())
            ended += 1
        except OutOfMemoryError:
            pass
        time.perf_counter()  # here a late stop would fall
    assert ended


V2 = {"memory.max": "{limit}", "memory.current": "{used}", "memory.stat": "inactive_file {cached}"}
V1 = {
    "memory/memory.limit_in_bytes": "{limit}",
    "memory/memory.usage_in_bytes": "{used}",
    "memory/memory.stat": "cache 1\ntotal_inactive_file {cached}",
}


@pytest.mark.parametrize("files", [V2, V1], ids=["version 2", "version 1"])
def test_a_container_has_what_its_limit_leaves(files: dict[str, str], tmp_path: Path):
    unlimited, machine = left_megabytes(tmp_path), total_megabytes(tmp_path)

    def group(limit: str, used: int, cached: int) -> Path:
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            filled = text.format(limit=limit, used=used << 20, cached=cached << 20)
            (tmp_path / name).write_text(filled + "\n")
        return tmp_path

    assert left_megabytes(group(str(30 << 20), 25, 4)) == 9
    assert total_megabytes(tmp_path) == 30
    for no_limit in ("max", str(2**63 - 4096)):
        assert left_megabytes(group(no_limit, 25, 4)) == pytest.approx(unlimited, rel=0.5)
        assert total_megabytes(tmp_path) == machine


def test_children_count_while_they_live_and_when_they_have_ended():
    meter = Meter()
    before = meter.peak_megabytes()
    code = "held = bytearray(100 << 20); sum(range(6_000_000)); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout and child.stdin
        child.stdout.readline()
        meter.look()
        worked = sum(psutil.Process(child.pid).cpu_times()[:2])
        living = meter.read()
        child.communicate("\n")
    assert living.peak_rss_mb >= before + 90
    ticks = 2 / os.sysconf("SC_CLK_TCK")  # the kernel rounds user and system time one by one
    assert living.cpu_seconds > worked - ticks > 0
    ended = meter.read()
    assert ended.peak_rss_mb >= living.peak_rss_mb
    assert ended.cpu_seconds > living.cpu_seconds - ticks
