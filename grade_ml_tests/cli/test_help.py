"""What a new user reads first: `--help` of every command, quick, whole and with examples."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from grade_ml.cli import COMMANDS, group
from grade_ml.cli.help import summary
from grade_ml.orchestration.jobs import JOBS
from grade_ml_tests.imports import HEAVY, READING, call


def commands(own: click.Group = group, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield words
    for name in own.list_commands(click.Context(own)):
        subcommand = own.get_command(click.Context(own), name)
        assert subcommand
        if isinstance(subcommand, click.Group):
            yield from commands(subcommand, (*words, name))
        else:
            yield (*words, name)


def help_of(words: tuple[str, ...], width: int = 80) -> str:
    ran = CliRunner().invoke(
        group, [*words, "--help"], prog_name="grade-ml", terminal_width=width, max_content_width=100
    )
    assert ran.exit_code == 0, ran.output
    return ran.output


ALL = list(commands())


@pytest.mark.parametrize("words", ALL, ids=" ".join)
@pytest.mark.parametrize("width", [80, 120])
def test_help_is_whole_and_fits_the_terminal(words: tuple[str, ...], width: int):
    lines = help_of(words, width).splitlines()
    assert not [line for line in lines[1:] if line.endswith("...")]
    assert max(map(len, lines)) <= width


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_the_examples_of_a_command_are_understood(words: tuple[str, ...]):
    _, _, after = help_of(words).partition("Example")
    calls = after.partition(":\n")[2].replace("\\\n", " ").splitlines()
    assert calls
    for shown in calls:
        program, *arguments = shlex.split(shown)
        assert program == "grade-ml" and tuple(arguments[: len(words)]) == words
        command: click.Command = group
        context = click.Context(group)
        while isinstance(command, click.Group):
            subcommand = command.get_command(context, arguments.pop(0))
            assert subcommand, shown
            command, context = subcommand, click.Context(subcommand, parent=context)
        if "--help" not in arguments:
            command.make_context("", arguments)


def test_the_list_of_commands_has_the_first_sentence_of_each():
    own = {name: group.get_command(click.Context(group), name) for name in COMMANDS}
    assert {name: summary(command) for name, command in own.items() if command} == COMMANDS


def test_help_of_run_names_every_job():
    lines = help_of(("run",)).splitlines()
    assert {job.name for job in JOBS} <= {line.strip() for line in lines}


def test_help_imports_nothing_heavy():
    _, modules = call("--help")
    assert modules.isdisjoint({*HEAVY, *READING})


@pytest.mark.parametrize(("typed", "meant"), [("loads", "load"), ("predicts", "predict")])
def test_a_command_that_is_nearly_right_is_guessed(typed: str, meant: str):
    ran = CliRunner().invoke(group, [typed])
    assert ran.exit_code == 2 and f"Did you mean '{meant}'?" in ran.output


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_every_option_states_its_purpose(words: tuple[str, ...]):
    command: click.Command = group
    for word in words:
        assert isinstance(command, click.Group)
        subcommand = command.get_command(click.Context(command), word)
        assert subcommand
        command = subcommand
    options = [option for option in command.params if isinstance(option, click.Option)]
    assert not [option.name for option in options if not option.help]
    assert "None]" not in help_of(words)
