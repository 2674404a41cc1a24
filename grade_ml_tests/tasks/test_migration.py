"""Every line of docs/migration.md is understood; `test_submitting` also submits what submits."""

from __future__ import annotations

import ast
import inspect
import json
import re
from typing import Any

import click
import pytest
from pydantic_settings import BaseSettings

from grade_ml import tasks
from grade_ml.cli import group
from grade_ml.core import settings
from grade_ml.orchestration.job_descriptions import JOB_DESCRIPTIONS
from grade_ml_tests.orchestration.test_definitions import SCHEDULES
from grade_ml_tests.tasks import migration


def called(expression: str) -> tuple[Any, ast.Call]:
    """Return the function of a call and the call; its arguments are those that it takes."""
    call = ast.parse(expression, mode="eval").body
    assert isinstance(call, ast.Call)
    return eval(ast.unparse(call.func), {"tasks": tasks}), call


@pytest.mark.parametrize(("expression", "job"), migration.SUBMITTING)
def test_a_call_that_submits_is_understood(expression: str, job: str):
    function, call = called(expression)
    task = function.__self__
    arguments = [ast.literal_eval(argument) for argument in call.args]
    named = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
    assert task.name == job and job in JOB_DESCRIPTIONS
    if function.__name__ == "delay":
        inspect.signature(task).bind(*arguments, **named)
    else:
        assert function.__name__ == "apply_async"
        assert set(named) <= {"queue"}
        inspect.signature(task).bind(*(arguments[0] if arguments else ()))


@pytest.mark.parametrize(("expression", "command"), migration.DIRECT)
def test_a_call_that_runs_here_is_understood_and_so_is_its_command(expression: str, command: str):
    function, call = called(expression)
    named = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
    inspect.signature(function).bind(*call.args, **named)
    program, name, job, *options = command.split()
    run = group.get_command(click.Context(group), name)
    assert run and program == "grade-ml" and job in JOB_DESCRIPTIONS
    run.make_context(name, [job, *options])
    assert job in expression + (inspect.getdoc(function) or "")
    assert options == [word for value in named.values() for word in ("--course", value)]


def test_every_task_and_every_former_name_is_listed():
    listed = {re.split(r"[.(]", call.removeprefix("tasks."))[0] for call, _ in migration.SUBMITTING}
    assert listed == {n for n in tasks.__all__ if isinstance(getattr(tasks, n), tasks.Task)}
    here = {call.removeprefix("tasks.").partition("(")[0] for call, _ in migration.DIRECT}
    assert here >= {name for name in tasks.__all__ if name.endswith("_sync")}


def test_the_schedules_are_those_of_the_definitions():
    assert migration.SCHEDULES.items() <= SCHEDULES.items()
    new = set(SCHEDULES) - set(migration.SCHEDULES)
    assert all(f"`{name}`" in migration.PAGE for name in new), new


def test_each_setting_and_each_error_exists():
    known = set()
    for kind in vars(settings).values():
        if isinstance(kind, type) and issubclass(kind, BaseSettings):
            prefix = str(kind.model_config.get("env_prefix", ""))
            for name, field in kind.model_fields.items():
                known.add(str(field.validation_alias or prefix + name.upper()))
    assert migration.SETTINGS and known >= migration.SETTINGS
    errors = {n for n in tasks.__all__ if isinstance(getattr(tasks, n), type)} - {
        "AsyncResult",
        "State",
        "Task",
        "TaskResult",
    }
    assert errors == migration.ERRORS
    mentioned = re.findall(
        r"`((?:Unknown|Not|Unsupported|Webserver|Task)[A-Z]\w+)`", migration.PAGE
    )
    from_engine = {"UnknownCourse", "UnknownStudent", "NotEnrolled"}
    assert set(mentioned) <= errors | from_engine


def test_the_handle_and_the_result_have_what_the_page_lists():
    (shown,) = re.findall(r"```json\n(.*?)```", migration.PAGE, re.DOTALL)
    assert list(json.loads(shown)) == [*inspect.signature(tasks.TaskResult).parameters]
    assert json.loads(shown)["task"] in JOB_DESCRIPTIONS
    for expression in migration.HANDLE:
        name = re.match(r"(handle|tasks)\.(\w+)", expression)
        assert name, expression
        owner = tasks.AsyncResult if name[1] == "handle" else tasks
        fields = getattr(owner, "__dataclass_fields__", {})
        assert hasattr(owner, name[2]) or name[2] in fields
    assert all(f"`{state}`" in migration.PAGE for state in tasks.State)
