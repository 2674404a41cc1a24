"""The wheel, installed where there is no checkout: what a user has who called `pip install`."""

from __future__ import annotations

import json
import os
import shutil
import site
import subprocess
import sys
import venv
from pathlib import Path
from zipfile import ZipFile

import pytest

from grade_ml_tests import REPOSITORY

pytestmark = pytest.mark.slow
#: Names an enrollment that runs.
EXAMPLE = """
from datetime import date
from grade_ml.campus.simulated import example
from grade_ml.core import database
from grade_ml.core.settings import Settings

engine = database.connect(database.start(Settings.from_environment()).grade_ml)
with engine.connect() as connection:
    print(*example(connection, date(2025, 10, 15)))
"""


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


def test_the_wheel_predicts_in_an_empty_folder(wheel: Path, tmp_path: Path):
    environment, empty = tmp_path / "environment", tmp_path / "empty"
    venv.create(environment, with_pip=False)
    empty.mkdir()
    python = environment / "bin" / "python"
    (packages,) = environment.glob("lib/python*/site-packages")
    # The libraries of these tests; files in a folder named here that name others do not count, so
    # an editable grade_ml among them is none.
    (packages / "libraries.pth").write_text("\n".join(site.getsitepackages()))
    variables = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path / "user"),
        "OMP_NUM_THREADS": "2",
        "GRADE_ML_AS_OF": "2025-10-15",
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

    found = run("python", "-c", "import grade_ml; print(grade_ml.__file__)")
    assert Path(found).is_relative_to(packages)
    run("grade-ml", "load", "simulated", "--students", "150", "--courses", "2")
    report = json.loads(run("grade-ml", "run", "train_traditional_models", "--json"))
    assert report["success"]
    student, course = run("python", "-c", EXAMPLE).split()
    asked = ("--student", student, "--course", course, "--json")
    assert 0 <= json.loads(run("grade-ml", "predict", *asked))["grade"] <= 100
    assert "UI" in run("grade-ml", "status")
    assert list((tmp_path / "user").rglob("postgres/PG_VERSION"))
    assert not list(empty.iterdir())
