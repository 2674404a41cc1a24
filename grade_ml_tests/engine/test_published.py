"""The file that applications read is that of the code."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator, ValidationError

from grade_ml.engine import GradePrediction, published
from grade_ml_tests.engine.schemas import require_described, require_valid


def test_the_published_schema_is_that_of_the_answers() -> None:
    assert published.FILE.read_text() == published.text(), (
        f"{published.FILE.name} is out of date; make it anew by python -m {published.__name__}."
    )
    Draft202012Validator.check_schema(published.schema())
    described = published.schema()["$defs"]["GradePrediction"]["properties"]
    assert set(described) == {field.name for field in fields(GradePrediction)}


def test_the_outputs_in_the_document_are_as_published() -> None:
    page = published.FILE.with_name("application.md").read_text()
    shown = re.findall(
        r"`engine\.(\w+)\([^`]*\)\.to_dict\(\)`[^`]*```json\n(.*?)```", page, re.DOTALL
    )
    assert {call for call, _ in shown} == {"predict_final_grade", "generate_time_series_forecast"}
    for call, text in shown:
        require_described(call, json.loads(text))
    assert all(f"`{name}(" in page for name in published.ANSWERS)


def test_what_is_not_as_published_is_detected() -> None:
    class Answer:
        def to_dict(self) -> dict[str, object]:
            return {"answers": [], "refused": [], "more": 1}

    with pytest.raises(ValidationError):
        require_valid("predict_final_grade", Answer())


def test_a_library_without_which_nothing_answers_is_named(tmp_path: Path) -> None:
    """Not optional: the first use of the engine raises, and so does the command."""
    for code in (
        "from grade_ml.cli import main\n"
        "sys.argv = ['grade-ml', 'predict', '--student', 's', '--course', 'c']\n"
        "main()",
        "from grade_ml.engine import PredictiveAnalyticsEngine\n"
        "from grade_ml.core.errors import GradeMLError\n"
        "try: PredictiveAnalyticsEngine()\n"
        "except GradeMLError as error: sys.exit(f'{error.message} {error.remedy}')",
    ):
        ran = subprocess.run(
            [sys.executable, "-c", f"import sys; sys.modules['upath'] = None\n{code}"],
            env={**os.environ, "GRADE_ML_HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 1
        assert "The library upath is not installed" in ran.stderr
        assert "Traceback" not in ran.stderr and "grade-ml itself" in ran.stderr


def test_the_engine_is_imported_without_heavy_libraries() -> None:
    heavy = ("pandas", "mlflow", "sklearn", "scipy", "tensorflow", "xgboost", "lightgbm", "alembic")
    code = (
        "import sys\nfrom grade_ml.engine import PredictiveAnalyticsEngine\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert process.stdout.strip() == "[]"
