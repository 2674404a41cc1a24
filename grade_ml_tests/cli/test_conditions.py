"""Each command where nothing can be written: words that name the place, and no traceback."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from unittest.mock import patch

import pytest

from grade_ml.core import database, embedded_postgres
from grade_ml.core.settings import Settings
from grade_ml_tests.cli.in_process import output_of, signals
from grade_ml_tests.launch import Installation

__all__ = ["signals"]

pytestmark = [pytest.mark.slow, pytest.mark.security]
COMMANDS = {
    "up": "up --port {port}",
    "load": "load simulated --students 400 --courses 2",
    "run": "run refresh_gradebook",
    "predict": "predict --student {student} --course {course}",
    "backtest": "backtest --train-terms {term} --test-terms another",
    "status": "status",
}


def mount(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a file system cannot be mounted here: {done.stderr.strip()}")


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file system of its own; what runs out on it runs out nowhere else."""
    place = tmp_path_factory.mktemp("disk")
    mount("-t", "tmpfs", "-o", "size=200m", "tmpfs", str(place))
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.fixture(scope="module")
def used(disk: Path) -> Installation:
    """An installation with records."""
    installation = Installation(disk / "home")
    loaded = installation.command("load", "simulated", "--students", "20", "--courses", "1")
    assert loaded.returncode == 0, loaded.stderr
    return installation


@pytest.fixture
def full(disk: Path) -> Iterator[Path]:
    """Nothing is left on the disk."""
    with (disk / "filling").open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            with suppress(OSError):
                while True:
                    file.write(b"\0" * size)
    yield disk
    (disk / "filling").unlink()


@pytest.fixture
def read_only(disk: Path) -> Iterator[Path]:
    mount("-o", "remount,ro", str(disk))
    yield disk
    mount("-o", "remount,rw", str(disk))


def words(installation: Installation, name: str) -> list[str]:
    arguments = {
        "port": installation.port,
        "student": "sim-1",
        "course": "SIM-MATH101",
        "term": "SIM",
    }
    return COMMANDS[name].format(**arguments).split()


def assert_reported(installation: Installation, name: str) -> None:
    ran = installation.command(*words(installation, name))
    assert_words(installation, name, ran.returncode, ran.stdout + ran.stderr)


def assert_reported_in_a_new(home: Path, name: str) -> None:
    """Without a process: it ends before it starts any."""
    installation = Installation(home)
    with patch.dict(os.environ, installation.environment, clear=True):
        status, output = output_of(" ".join(words(installation, name)))
    assert_words(installation, name, status, output)


def assert_words(installation: Installation, name: str, status: int, output: str) -> None:
    assert "Traceback" not in output
    if name == "status":
        assert status == 0, output
        return
    assert status == 1, output
    assert f"{installation.home}" in output.replace("\n", "")
    assert "What to do: " in output


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.usefixtures("full")
def test_a_new_home_on_a_full_disk(disk: Path, name: str):
    assert_reported_in_a_new(disk / "new", name)


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.usefixtures("read_only")
def test_a_new_home_on_a_read_only_disk(disk: Path, name: str):
    assert_reported_in_a_new(disk / "new", name)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_disk_that_is_full_by_now(used: Installation, full: Path, name: str):
    assert_reported(used, name)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_home_that_is_read_only_by_now(used: Installation, read_only: Path, name: str):
    assert_reported(used, name)


@pytest.mark.parametrize("name", ["load", "run"])
def test_a_disk_that_fills_up_while_postgresql_runs(
    used: Installation, name: str, request: pytest.FixtureRequest
):
    settings = Settings(_env_file=None, home=used.home)
    database.start(settings)
    try:
        request.getfixturevalue("full")
        assert_reported(used, name)
    finally:
        embedded_postgres.release(settings.postgres_dir)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
@pytest.mark.parametrize("name", COMMANDS)
def test_a_home_without_permission(tmp_path: Path, name: str):
    (tmp_path / "home").mkdir(mode=0o500)
    assert_reported(Installation(tmp_path / "home"), name)


@pytest.mark.parametrize("condition", ["full", "read_only"])
def test_providers_need_no_disk(used: Installation, condition: str, request: pytest.FixtureRequest):
    request.getfixturevalue(condition)
    process = used.start("providers", "--port", "0")
    try:
        assert process.stdout
        assert process.stdout.readline().startswith("Simulated providers at ")
    finally:
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate()
    assert "Traceback" not in output


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_an_output_that_accepts_nothing_is_reported(tmp_path: Path):
    with Path("/dev/full").open("w") as output:
        process = Installation(tmp_path / "home").start(
            "status", stdout=output, stderr=subprocess.PIPE
        )
        _, printed = process.communicate()
    assert process.returncode
    assert "the output of this command" in printed
    assert "Traceback" not in printed
