"""What holds across packages: which import Dagster, and that the files users read agree."""

from __future__ import annotations

import ast
import importlib
import re
import tomllib
import warnings
from collections.abc import Iterable, Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
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
from grade_ml_tests import REPOSITORY

PACKAGE = REPOSITORY / "grade_ml"
ABOVE_DOMAIN = {"cli", "definitions", "orchestration", "tasks"}
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
README = (REPOSITORY / "README.md").read_text()
MAKEFILE = (REPOSITORY / "Makefile").read_text()


def package(module: Path) -> str:
    return module.relative_to(PACKAGE).with_suffix("").parts[0]


@cache
def parsed(module: Path) -> ast.Module:
    return ast.parse(module.read_text())


def imported(module: Path) -> Iterator[str]:
    """Yield the first word of everything that `module` imports anywhere, also in functions."""
    for node in ast.walk(parsed(module)):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]


def test_no_domain_package_imports_dagster():
    domain = [module for module in PACKAGE.rglob("*.py") if package(module) not in ABOVE_DOMAIN]
    assert {"core", "engine", "gradebook"} <= {package(module) for module in domain}
    assert not [
        str(module.relative_to(REPOSITORY))
        for module in domain
        if any(name.startswith("dagster") for name in imported(module))
    ]


def at_import(nodes: Iterable[ast.AST]) -> Iterator[ast.Import | ast.ImportFrom]:
    """Yield the import statements that run when a module is imported."""
    for node in nodes:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            yield from at_import(node.orelse)
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from at_import(ast.iter_child_nodes(node))


def import_graph(folder: Path) -> dict[str, set[str]]:
    """Return the modules of the package `folder`, each with those that its import imports."""
    files = {
        ".".join(path.relative_to(folder.parent).with_suffix("").parts).removesuffix(
            ".__init__"
        ): path
        for path in folder.rglob("*.py")
    }
    graph: dict[str, set[str]] = {name: set() for name in files}
    for name, path in files.items():
        for node in at_import(parsed(path).body):
            targets = [alias.name for alias in node.names]
            if isinstance(node, ast.ImportFrom):
                targets = [f"{node.module}.{target}" for target in targets]
            for target in targets:
                parts = target.split(".")
                steps = {".".join(parts[:end]) for end in range(1, len(parts) + 1)}
                # A package is imported before its modules, and may import them.
                graph[name] |= {
                    step for step in steps & files.keys() if not f"{name}.".startswith(f"{step}.")
                }
    return graph


def test_any_module_may_be_imported_first():
    graph = import_graph(PACKAGE)
    assert "grade_ml.core.errors" in graph["grade_ml.cli"]
    tuple(TopologicalSorter(graph).static_order())


def test_a_circular_import_through_a_package_is_seen(tmp_path: Path):
    package = tmp_path / "it"
    (package / "sensors").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "sensors" / "__init__.py").write_text("from it.sensors.sensor import act")
    (package / "sensors" / "reading.py").touch()
    (package / "sensors" / "sensor.py").write_text("from it import jobs")
    (package / "jobs.py").write_text("if True:\n    import it.sensors.reading")
    with pytest.raises(CycleError):
        tuple(TopologicalSorter(import_graph(package)).static_order())


def test_only_the_assets_of_models_train():
    """What trains has checks, figures and a stage; nothing does so under another name."""
    assets = PACKAGE / "orchestration" / "assets"
    training = {
        module.stem
        for module in assets.glob("*.py")
        for node in ast.walk(parsed(module))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("grade_ml.training")
    }
    assert training == {"models"}


def test_nothing_but_a_transition_moves_the_alias_of_a_model_or_deletes_a_version():
    registry = PACKAGE / "registry" / "registry.py"
    calls = {
        (module, node.func.attr)
        for module in PACKAGE.rglob("*.py")
        for node in ast.walk(parsed(module))
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


def test_the_docs_list_every_setting():
    def names(alias: Any) -> set[str]:
        return set(alias.choices) if isinstance(alias, AliasChoices) else {alias}

    page = (REPOSITORY / "docs" / "settings.md").read_text()
    listed = set(re.findall(r"^\| `([A-Z_]+)` \|", page, re.MULTILINE))
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


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, spelled as GitHub spells them."""
    titles = re.findall(r"^#{1,6} (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "CHANGELOG.md",
        *sorted(str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "docs").rglob("*.md")),
    ],
)
def test_every_link_leads_to_a_page_and_a_heading(page: str):
    source = REPOSITORY / page
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", source.read_text()):
        name, _, anchor = link.partition("#")
        target = source.parent / name if name else source
        if "://" not in link and (
            not target.exists() or (anchor and anchor not in anchors(target))
        ):
            broken.append(link)
    assert broken == []


def test_no_process_changes_its_own_environment_but_for_libraries_and_children():
    changes = re.compile(
        r"environ\[[^]]*\] *=[^=]|environ *\|=|environ\.(setdefault|update|pop)|putenv|del os\.env"
    )
    changing = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if changes.search(path.read_text())
    }
    # Variables that OpenMP and MLflow read when they are loaded; what Python's children and
    # Dagster read.
    assert changing == {"__init__.py", "core/process.py"}


def test_settings_are_read_at_the_edge_only():
    """A command reads them, the definitions, the engine, or what Dagster makes in its processes."""
    reading = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if re.search(r"\w+\.from_environment\(\)", path.read_text())
        and path != PACKAGE / "core" / "settings.py"
    }
    parts = ("build", "providers", "queue", "storage")
    of_dagster = {f"orchestration/{name}.py" for name in parts}
    edge = {"engine/engine.py", "tasks/installation.py", *of_dagster}
    assert {reader for reader in reading if not reader.startswith("cli/")} == edge


def bound(module: Path) -> set[str]:
    """Return the names that a module binds, in any branch, and those of its submodules."""
    names = {path.stem for path in module.parent.iterdir() if module.name == "__init__.py"}
    for node in ast.walk(parsed(module)):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.alias):
            names.add(node.asname or node.name)
    return names


BENCHMARKS = sorted((REPOSITORY / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("path", BENCHMARKS, ids=[path.stem for path in BENCHMARKS])
def test_what_a_benchmark_imports_is_there(path: Path):
    """No other test runs them, so what moves would be missed when figures are made again."""
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
