from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from grade_ml.cli import supervision
from grade_ml.cli.supervision import Child, stop
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
