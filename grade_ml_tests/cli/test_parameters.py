"""Days and identifiers on the command line that nothing can have."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from grade_ml.cli import group
from grade_ml_tests.cli.test_help import commands
from grade_ml_tests.imports import HEAVY

pytestmark = pytest.mark.security

PREDICTIONS = ("", " --explain", " --forecast", " --goal 80")


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
    result = CliRunner().invoke(group, shlex.split(command.format(text)))
    assert result.exit_code == 2
    assert "is not UTF-8" in result.output


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
    result = CliRunner().invoke(group, shlex.split(command.format(day)))
    assert result.exit_code == 2
    assert day in result.output
    assert "1900 to 2199" in result.output or "2026-03-01" in result.output


@pytest.mark.parametrize("command", ["load simulated", "status", "load oulad . --shift-to-today"])
def test_a_day_of_the_environment_that_no_frame_holds_is_named(
    monkeypatch: pytest.MonkeyPatch, command: str
):
    monkeypatch.setenv("GRADE_ML_AS_OF", "9999-12-31")
    result = CliRunner().invoke(group, shlex.split(command))
    assert "GRADE_ML_AS_OF" in str(result.exception)
    assert "1900 to 2199" in str(result.exception)


@pytest.mark.parametrize(
    ("command", "variable"),
    [
        *((f"predict --student s --course c{given} --as-of {{}}", "") for given in PREDICTIONS),
        *((f"predict --student s --course c{given}", "GRADE_ML_AS_OF") for given in PREDICTIONS),
        ("up", "GRADE_ML_AS_OF"),
        ("run data_cleanup", "GRADE_ML_AS_OF"),
        ("providers", "GRADE_ML_AS_OF"),
        ("load oulad . --shift-to-today", "GRADE_ML_AS_OF"),
    ],
)
def test_a_day_in_the_future_is_refused_before_anything_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, variable: str
):
    day = str(datetime.now(UTC).date() + timedelta(days=2))
    monkeypatch.setenv("GRADE_ML_HOME", str(tmp_path / "home"))
    if variable:
        monkeypatch.setenv(variable, day)
    result = CliRunner().invoke(group, shlex.split(command.format(day)))
    assert variable in str(result.exception)
    assert f"{day} lies in the future" in str(result.exception)
    assert not (tmp_path / "home").exists()


def options_of_numbers() -> Iterator[click.Option]:
    for words in commands():
        command: click.Command = group
        for word in words:
            assert isinstance(command, click.Group)
            command = command.get_command(click.Context(command), word) or command
        for option in command.params:
            kinds = getattr(option.type, "types", [option.type])
            if any(isinstance(kind, click.types.FloatParamType) for kind in kinds):
                assert isinstance(option, click.Option)
                yield option


@pytest.mark.parametrize("text", ["nan", "inf", "-inf"])
def test_no_option_takes_a_number_that_is_none(text: str):
    options = list(options_of_numbers())
    assert {option.name for option in options} >= {"goal", "wait_minutes", "grading_shift"}
    for option in options:
        kind = getattr(option.type, "types", [option.type])[0]
        with pytest.raises(click.BadParameter, match=r"number|range"):
            kind.convert(text, option, None)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("predict --goal 700", "0<=x<=100"),
        ("predict --goal -1", "0<=x<=100"),
        ("predict --student s", "both or neither"),
        ("predict --language de", "add --explain or --goal"),
        ("predict --explain --reader nobody", "nobody"),
        ("predict --explain --plot {folder}/none/why.png", "that can be written"),
        ("predict --forecast --plot {folder}/why.pdf", "neither"),
        ("run train_traditional_model", "Did you mean train_traditional_models?"),
        ("run system_health --course A", "no courses"),
        ("backtest --train-terms a,b --test-terms b", "both --train-terms and"),
        ("backtest --train-terms a --test-terms b --at 2", "share"),
        ("load csv {folder}/none", "none"),
        ("load oulad {folder}/none", "none"),
        ("load oneroster {folder}/none.zip", "none.zip"),
        ("load simulated --help-works 2", "0<=x<=1"),
        ("experiment create x --kind shadow --arms 5,7 --metric score --hypothesis h", "measures"),
        ("experiment create x --kind split --arms a --metric score --hypothesis h", "two arms"),
        ("cleanup everything", "everything"),
    ],
)
def test_arguments_are_checked_before_anything_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, words: str
):
    monkeypatch.setenv("GRADE_ML_HOME", str(tmp_path / "home"))
    result = CliRunner().invoke(group, shlex.split(command.format(folder=tmp_path)))
    assert result.exit_code and words in f"{result.output} {result.exception}"
    assert not (tmp_path / "home").exists()


def test_what_can_be_refused_is_refused_before_anything_heavy_is_imported():
    code = (
        "import sys; from click.testing import CliRunner; from grade_ml.cli import group\n"
        "for call in ('predict --goal 700', 'run train', 'run system_health --course A', "
        "'backtest --train-terms a --test-terms a'):\n"
        "    assert CliRunner().invoke(group, call.split()).exit_code\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
