"""What holds across rooms: who imports Dagster, and that the files users read say the same."""

from __future__ import annotations

import ast
import importlib
import re
import tomllib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import dagster
import pytest
import yaml
from dagster_shared.utils.warnings import (
    beta_warning,
    deprecation_warning,
    preview_warning,
    supersession_warning,
)
from pydantic import AliasChoices

from grade_ml.cli import COMMANDS, group
from grade_ml.core.settings import Settings
from grade_ml.orchestration.jobs import JOBS
from grade_ml_tests import REPOSITORY

PACKAGE = REPOSITORY / "grade_ml"
ABOVE_DOMAIN = {"cli", "definitions", "orchestration", "tasks"}
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
README = (REPOSITORY / "README.md").read_text()
MAKEFILE = (REPOSITORY / "Makefile").read_text()


def room(module: Path) -> str:
    return module.relative_to(PACKAGE).with_suffix("").parts[0]


def imported(module: Path) -> Iterator[str]:
    """Yield the first word of everything that `module` imports anywhere, also in functions."""
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]


def test_no_domain_room_imports_dagster():
    domain = [module for module in PACKAGE.rglob("*.py") if room(module) not in ABOVE_DOMAIN]
    assert {"core", "engine", "gradebook"} <= {room(module) for module in domain}
    assert not [
        str(module.relative_to(REPOSITORY))
        for module in domain
        if any(name.startswith("dagster") for name in imported(module))
    ]


def test_only_the_assets_of_models_train():
    """What trains has checks, figures and a stage; nothing does so under another name."""
    assets = PACKAGE / "orchestration" / "assets"
    training = {
        module.stem
        for module in assets.glob("*.py")
        for node in ast.walk(ast.parse(module.read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("grade_ml.training")
    }
    assert training == {"models"}


def test_nothing_but_a_transition_moves_the_alias_of_a_model_or_deletes_a_version():
    registry = PACKAGE / "registry" / "registry.py"
    calls = {
        (module, node.func.attr)
        for module in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(module.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    }
    of_mlflow = re.compile(
        r"(set|delete)_registered_model_alias|delete_(model_version|registered_model)"
    )
    assert {module for module, name in calls if of_mlflow.fullmatch(name)} == {registry}
    ours = {module for module, name in calls if name in {"_point", "_remove"}}
    assert ours == {PACKAGE / "registry" / "transition.py"}


def test_workspace_and_pyproject_name_the_same_module_and_location():
    workspace = yaml.safe_load((REPOSITORY / "workspace.yaml").read_text())
    (location,) = workspace["load_from"]
    named = PROJECT["tool"]["dagster"]
    assert location["python_module"] == {
        "module_name": named["module_name"],
        "location_name": named["code_location_name"],
    }
    module = importlib.import_module(named["module_name"])
    assert isinstance(module.defs, dagster.Definitions)


def commands_shown(program: str) -> list[list[str]]:
    """Return the words after `program` of each call in the README's code and its comments."""
    code = re.findall(r"^```console\n(.*?)^```|`([^`\n]+)`", README, re.DOTALL | re.MULTILINE)
    text = "\n".join(part for block in code for part in block)
    calls = re.findall(rf"(?:^|[ (/]){program}((?: [^\s#()]+)*)", text, re.MULTILINE)
    return [call.split() for call in calls]


def targets() -> set[str]:
    (phony,) = re.findall(r"^\.PHONY: (.+)$", MAKEFILE, re.MULTILINE)
    return set(phony.split())


def test_every_make_command_of_the_readme_is_a_target():
    shown = {words[0] for words in commands_shown("make") if words}
    assert {"up", "test"} <= shown
    assert shown <= targets()
    for target in targets():
        assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE), target


def test_every_option_of_a_make_command_of_the_readme_is_a_variable():
    variables = set(re.findall(r"^(\w+) \?=", MAKEFILE, re.MULTILINE))
    given = {
        word.split("=")[0] for words in commands_shown("make") for word in words if "=" in word
    }
    assert given and given <= variables


@pytest.mark.parametrize("words", commands_shown("grade-ml"), ids=" ".join)
def test_a_command_of_the_readme_is_understood(words: list[str]):
    command: click.Command = group
    context = click.Context(command)
    while isinstance(command, click.Group):
        if not words:
            return
        name, words = words[0], words[1:]
        found = command.get_command(context, name)
        assert found, f"{name} is not among {command.list_commands(context)}"
        command, context = found, click.Context(found, parent=context)
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("-")} <= known
    if command.name == "run" and words:
        assert words[0] in {job.name for job in JOBS}


def test_the_default_port_is_the_same_everywhere():
    (of_make,) = re.findall(r"^PORT \?= (\d+)$", MAKEFILE, re.MULTILINE)
    up = group.get_command(click.Context(group), "up")
    assert up
    (of_up,) = [parameter.default for parameter in up.params if parameter.name == "port"]
    assert of_up == int(of_make)
    assert f"http://127.0.0.1:{of_make}" in README


def test_the_python_versions_of_the_readme_are_those_of_the_package():
    first, last = re.findall(r"Python (3\.\d+) to (3\.\d+)", README)[0]
    following = f"3.{int(last.split('.')[1]) + 1}"
    assert PROJECT["project"]["requires-python"] == f">={first},<{following}"
    assert all(
        f"Programming Language :: Python :: {version}" in PROJECT["project"]["classifiers"]
        for version in (first, last)
    )


def test_the_readme_lists_every_setting():
    def names(alias: Any) -> set[str]:
        return set(alias.choices) if isinstance(alias, AliasChoices) else {alias}

    listed = set(re.findall(r"^\| `([A-Z_]+)` \|", README, re.MULTILINE))
    assert listed == set().union(
        *(names(field.validation_alias) for field in Settings.model_fields.values())
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_described(name: str):
    command = group.get_command(click.Context(group), name)
    assert command and command.help


@pytest.mark.parametrize(
    "warn",
    [
        lambda: preview_warning("It"),
        lambda: supersession_warning("It"),
        lambda: beta_warning("It"),
        lambda: deprecation_warning("It", "2.0"),
        lambda: warnings.warn("It is old", DeprecationWarning, stacklevel=1),
    ],
    ids=["preview", "superseded", "beta", "deprecated in dagster", "deprecated in our code"],
)
def test_a_moving_part_is_an_error(warn: Any):
    with pytest.raises(Warning, match="It"):
        warn()


def test_an_accepted_beta_is_none():
    beta_warning("Parameter `backfill_policy` of function `asset`")


@pytest.mark.parametrize(
    "page",
    ["README.md", *sorted(f"docs/{path.name}" for path in (REPOSITORY / "docs").glob("*.md"))],
)
def test_every_link_leads_to_a_file(page: str):
    links = re.findall(r"\]\(([^)#]+)", (REPOSITORY / page).read_text())
    folder = (REPOSITORY / page).parent
    assert [link for link in links if "://" not in link and not (folder / link).exists()] == []


def test_no_process_changes_its_own_environment_but_for_libraries_and_children():
    changes = re.compile(
        r"environ\[[^]]*\] *=[^=]|environ *\|=|environ\.(setdefault|update|pop)|putenv|del os\.env"
    )
    changing = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if changes.search(path.read_text())
    }
    # Variables that OpenMP and MLflow read when they are loaded; what Python's children read.
    assert changing == {"__init__.py", "core/process.py"}


def test_settings_are_read_at_the_edge_only():
    """A command reads them, the definitions, the engine, or what Dagster makes in its processes."""
    reading = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if re.search(r"\w+\.from_environment\(\)", path.read_text())
        and path != PACKAGE / "core" / "settings.py"
    }
    edge = {"engine/engine.py", "orchestration/build.py", "orchestration/storage.py"}
    assert {one for one in reading if not one.startswith("cli/")} == edge


def bound(module: Path) -> set[str]:
    """Return the names that a module binds, whatever the branch, and those of its submodules."""
    found = {path.stem for path in module.parent.iterdir() if module.name == "__init__.py"}
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.alias):
            found.add(node.asname or node.name)
    return found


BENCHMARKS = sorted((REPOSITORY / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("path", BENCHMARKS, ids=[path.stem for path in BENCHMARKS])
def test_what_a_benchmark_imports_is_there(path: Path):
    """No other test runs them, so what moves would be missed when figures are made anew."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom) or node.module is None:
            continue
        places = [REPOSITORY / node.module.replace(".", "/"), path.parent / node.module]
        files = [
            file
            for place in places
            for file in (place.with_suffix(".py"), place / "__init__.py")
            if file.exists()
        ]
        if not files:
            ours = node.module.startswith("grade_ml") or any(place.is_dir() for place in places)
            assert not ours, f"there is no module {node.module}"
            continue
        missing = {alias.name for alias in node.names} - bound(files[0])
        assert not missing, f"{node.module} has no {sorted(missing)}"
