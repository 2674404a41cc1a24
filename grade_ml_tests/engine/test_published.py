"""The file that applications read is that of the code."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields

import pytest
from jsonschema import Draft202012Validator, ValidationError

from grade_ml.engine import GradePrediction, published
from grade_ml_tests.engine.schemas import require_valid


def test_the_published_schema_is_that_of_the_answers() -> None:
    assert published.FILE.read_text() == published.text(), (
        f"{published.FILE.name} is out of date; make it anew by python -m {published.__name__}."
    )
    Draft202012Validator.check_schema(published.schema())
    described = published.schema()["$defs"]["GradePrediction"]["properties"]
    assert set(described) == {one.name for one in fields(GradePrediction)}


def test_what_is_not_as_published_is_found() -> None:
    class Answer:
        def to_dict(self) -> dict[str, object]:
            return {"answers": [], "refused": [], "more": 1}

    with pytest.raises(ValidationError):
        require_valid("predict_final_grade", Answer())


def test_the_engine_is_imported_without_heavy_libraries() -> None:
    heavy = ("pandas", "mlflow", "sklearn", "scipy", "tensorflow", "xgboost", "lightgbm", "alembic")
    code = (
        "import sys\nfrom grade_ml.engine import PredictiveAnalyticsEngine\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
