"""The wheel, installed where there is no checkout: what a user has who called `pip install`."""

from __future__ import annotations

import json
import os
import shutil
import signal
import site
import subprocess
import sys
import venv
from pathlib import Path
from zipfile import ZipFile

import pytest

from grade_ml.cli.up import answers
from grade_ml_tests import REPOSITORY
from grade_ml_tests.absent import beyond_the_demo, hiding
from grade_ml_tests.launch import free_port, wait_until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from nothing but what belongs to the package."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built")
    unwanted = shutil.ignore_patterns("__pycache__")
    shutil.copytree(REPOSITORY / "grade_ml", source / "grade_ml", ignore=unwanted)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    backend = f"from setuptools.build_meta import build_wheel; build_wheel({str(built)!r})"
    subprocess.run([sys.executable, "-c", backend], cwd=source, capture_output=True, check=True)
    (path,) = built.iterdir()
    return path


def test_the_wheel_has_every_file_of_the_package_and_no_other(wheel: Path):
    package = REPOSITORY / "grade_ml"
    expected = {
        str(path.relative_to(REPOSITORY))
        for path in package.rglob("*")
        if path.is_file() and path.parent.name != "__pycache__"
    }
    with ZipFile(wheel) as file:
        assert {name for name in file.namelist() if ".dist-info/" not in name} == expected


def test_the_wheel_predicts_beside_its_demo_in_an_empty_folder_without_large_libraries(
    wheel: Path, tmp_path: Path
):
    environment, empty = tmp_path / "environment", tmp_path / "empty"
    venv.create(environment, with_pip=False)
    empty.mkdir()
    python = environment / "bin" / "python"
    (packages,) = environment.glob("lib/python*/site-packages")
    # The libraries of these tests; files in a folder named here that name others do not count, so
    # an editable grade_ml among them is none.
    (packages / "libraries.pth").write_text("\n".join(site.getsitepackages()))
    port = free_port()
    variables = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path / "user"),
        "OMP_NUM_THREADS": "2",
        "GRADE_ML_AS_OF": "2025-10-15",
        **hiding(beyond_the_demo(), environment),
    }

    pip = [sys.executable, "-m", "pip", "--python", str(python)]
    options = ["--no-deps", "--no-index", "--disable-pip-version-check", "-q"]
    subprocess.run([*pip, "install", *options, str(wheel)], env=variables, check=True)

    def run(program: str, *arguments: str) -> str:
        ran = subprocess.run(
            [environment / "bin" / program, *arguments],
            cwd=empty,
            env=variables,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    location = run("python", "-c", "import grade_ml; print(grade_ml.__file__)")
    assert Path(location).is_relative_to(packages)
    run("grade-ml", "load", "simulated", "--students", "150", "--courses", "2")
    report = json.loads(run("grade-ml", "run", "train_traditional_models", "--json"))
    assert report["success"]
    with (tmp_path / "log").open("w+") as log:
        words = [environment / "bin" / "grade-ml", "up", "--demo", "--port", str(port)]
        up = subprocess.Popen(words, cwd=empty, env=variables, stdout=log, stderr=log)
        try:
            wait_until(lambda: answers(f"http://127.0.0.1:{port}") or up.poll() is not None, "up")
            assert 0 <= json.loads(run("grade-ml", "predict", "--json"))["grade"] <= 100
            assert f"127.0.0.1:{port}" in run("grade-ml", "status")
        finally:
            up.send_signal(signal.SIGINT)
            assert up.wait(60) == 0, (tmp_path / "log").read_text()
    assert list((tmp_path / "user").rglob("postgres/PG_VERSION"))
    assert not list(empty.iterdir())
