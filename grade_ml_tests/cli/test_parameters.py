"""Days and identifiers on the command line that nothing can have."""

from __future__ import annotations

import shlex

import pytest
from click.testing import CliRunner

from grade_ml.cli import group

pytestmark = pytest.mark.security


@pytest.mark.parametrize(
    "command",
    [
        "predict --student {} --course c",
        "predict --student s --course {}",
        "run {}",
        "run train_traditional_models --course {}",
        "backtest --train-terms {} --test-terms t",
        "backtest --train-terms t --test-terms u,{}",
    ],
)
@pytest.mark.parametrize("text", ["\udcff", "Z\udcfcrich"])
def test_an_id_of_other_bytes_than_utf_8_is_named(command: str, text: str):
    found = CliRunner().invoke(group, shlex.split(command.format(text)))
    assert found.exit_code == 2
    assert "is not UTF-8" in found.output


@pytest.mark.parametrize(
    "command",
    [
        "predict --student s --course c --as-of {}",
        "load simulated --grading-shift -15 {}",
    ],
)
@pytest.mark.parametrize(
    "day",
    ["0001-01-01", "1677-09-21", "1899-12-31", "2200-01-01", "9999-12-31", "today", "20260301"],
)
def test_a_day_that_no_frame_holds_is_named(command: str, day: str):
    found = CliRunner().invoke(group, shlex.split(command.format(day)))
    assert found.exit_code == 2
    assert day in found.output
    assert "1900 to 2199" in found.output or "2026-03-01" in found.output


@pytest.mark.parametrize("command", ["load simulated", "status", "load oulad . --shift-to-today"])
def test_a_day_of_the_environment_that_no_frame_holds_is_named(
    monkeypatch: pytest.MonkeyPatch, command: str
):
    monkeypatch.setenv("GRADE_ML_AS_OF", "9999-12-31")
    found = CliRunner().invoke(group, shlex.split(command))
    assert "GRADE_ML_AS_OF" in str(found.exception)
    assert "1900 to 2199" in str(found.exception)
