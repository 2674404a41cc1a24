"""`grade-ml providers` as a person starts it, and as `up --demo` does."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import psutil
import pytest

from grade_ml.core.process import Identity
from grade_ml.core.up_record import providers_url
from grade_ml_tests.launch import Installation, free_port, wait_until

VARIABLE = "GRADE_ML_EXTERNAL_PROVIDERS_URL"


def label(url: str) -> str:
    with urllib.request.urlopen(f"{url}/calendar/academic.ics", timeout=10) as answer:
        return str(answer.headers["X-Simulated"])


def test_it_prints_where_it_is_and_what_to_set_until_ctrl_c(tmp_path: Path):
    process = subprocess.Popen(
        [sys.executable, "-m", "grade_ml.cli", "providers", "--port", "0"],
        env={**os.environ, "GRADE_ML_HOME": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    lines = [process.stdout.readline() for _ in range(10)]
    try:
        match = re.search(rf"{VARIABLE}=(http://127\.0\.0\.1:\d+)", "".join(lines))
        assert match, lines
        assert match[1] in lines[0]
        assert "real" in lines[0]
        assert label(match[1]) == "grade_ml"
        assert f"GRADE_ML_ONEROSTER_URL={match[1]}/oneroster" in "".join(lines)
    finally:
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=30)
    assert (process.returncode, output) == (0, "Stopped.\n")
    assert "GET /calendar/academic.ics" in errors


def test_a_port_in_use_is_reported(tmp_path: Path):
    from grade_ml.campus.simulated import CampusConfig
    from grade_ml_tests.campus.providers.conftest import TODAY, serve

    with serve(CampusConfig(), TODAY) as taken:
        port = taken.url.rsplit(":", 1)[1]
        ran = Installation(tmp_path).command("providers", "--port", port)
    assert ran.returncode == 1
    assert f"Port {port} cannot be used" in ran.stderr


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Installation]:
    installation = Installation(tmp_path)
    yield installation
    installation.stop()


def providers_of(process: int) -> str | None:
    return psutil.Process(process).environ().get(VARIABLE)


@pytest.mark.slow
def test_the_demo_has_its_own_providers_and_keeps_them(installation: Installation):
    installation.up("--demo")
    url = providers_of(installation.child("daemon"))
    assert url
    assert url == providers_of(installation.child("webserver"))
    wait_until(lambda: _answers(url), "the providers")
    assert label(url) == "grade_ml"
    assert url in installation.output
    up = psutil.Process(installation.child("daemon")).parent()
    assert up
    (providers,) = (child for child in up.children() if "providers" in child.cmdline())
    providers.kill()
    providers.wait(30)
    wait_until(lambda: _answers(url), "the providers again")
    installation.stop()
    assert not _answers(url)


@pytest.mark.slow
def test_a_demo_that_knows_real_providers_keeps_to_them(tmp_path: Path):
    real = f"http://127.0.0.1:{free_port()}"
    installation = Installation(tmp_path, **{VARIABLE: real})
    installation.up("--demo")
    try:
        assert providers_of(installation.child("daemon")) == real
        assert "around the campus" not in installation.output
    finally:
        installation.stop()


@pytest.mark.slow
def test_without_the_demo_nothing_is_made_up(installation: Installation):
    installation.up()
    assert providers_of(installation.child("daemon")) is None


def _answers(url: str) -> bool:
    try:
        return label(url) == "grade_ml"
    except OSError:
        return False


@pytest.mark.slow
def test_a_job_beside_the_demo_queries_its_providers(installation: Installation):
    installation.up("--demo")
    ran = installation.command("run", "collect_external_data", "--json")
    assert ran.returncode == 0, ran.stderr
    report = json.loads(ran.stdout)
    # A source that could not be queried would warn.
    assert report["warnings"] == []
    assert {asset["asset"] for asset in report["assets"] if asset["rows"]} >= {
        "weather",
        "job_market",
    }


def test_a_demo_that_is_gone_has_no_providers(tmp_path: Path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    up = asdict(Identity.of(gone.pid))
    gone.wait()
    holder = {"url": "http://127.0.0.1:3000", "providers": "http://127.0.0.1:3100", "up": up}
    lock = tmp_path / "up.lock"
    assert providers_url(tmp_path) is None
    lock.write_text(json.dumps(holder))
    assert providers_url(tmp_path) is None
    lock.write_text(json.dumps(holder | {"up": asdict(Identity.of(os.getpid()))}))
    assert providers_url(tmp_path) == "http://127.0.0.1:3100"
