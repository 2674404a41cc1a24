"""Processes that lack libraries, as where extras of the package are not installed."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Collection, Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from grade_ml.core.optional import FAMILIES, family
from grade_ml_tests import REPOSITORY

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]

_EXTRAS = tuple(known_family.extra for known_family in FAMILIES)
#: Python imports a module of this name before anything else, in children of children, too. What is
#: None in `sys.modules` cannot be imported, and `find_spec` does not find it.
_HOOK = """import os, sys

sys.modules.update(dict.fromkeys(os.environ["GRADE_ML_TESTS_ABSENT"].split()))
"""


def without(extras: Collection[str], folder: Path) -> dict[str, str]:
    """Return the variables that keep a process and its children from what only `extras` install."""
    hidden = hiding(modules(extras), folder)
    path = [hidden["PYTHONPATH"], *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**hidden, "PYTHONPATH": os.pathsep.join(path)}


def hiding(names: Collection[str], folder: Path) -> dict[str, str]:
    """Return the variables that keep a process and its children from modules."""
    (folder / "sitecustomize.py").write_text(_HOOK)
    return {"PYTHONPATH": str(folder), "GRADE_ML_TESTS_ABSENT": " ".join(sorted(names))}


def modules(extras: Collection[str]) -> set[str]:
    """Return the modules of families, and of all other libraries that only their extras install."""
    named = {module for extra in extras for module in family(extra).modules}
    return named | _beyond(frozenset(_EXTRAS) - set(extras))


def beyond_the_demo() -> set[str]:
    """Return the modules that come with all extras, and not with those of `make up`."""
    return _beyond(frozenset({"demo"}))


def _beyond(extras: frozenset[str]) -> set[str]:
    gone = _installed_with(frozenset(_EXTRAS)) - _installed_with(extras)
    return {module for module, names in _distributions().items() if names <= gone}


@cache
def _distributions() -> dict[str, set[str]]:
    """Return by module the distributions that have it."""
    distributions = packages_distributions()
    return {module: set(map(canonicalize_name, names)) for module, names in distributions.items()}


@cache
def _installed_with(extras: frozenset[str]) -> frozenset[str]:
    """Return the distributions that an installation with these extras has."""
    installed: set[tuple[str, frozenset[str]]] = set()
    waiting = [("grade-ml", extras)]
    while waiting:
        requirement = waiting.pop()
        if requirement not in installed:
            installed.add(requirement)
            waiting += _needed(*requirement)
    return frozenset(name for name, _ in installed)


def _needed(name: str, extras: frozenset[str]) -> Iterator[tuple[str, frozenset[str]]]:
    if name == PROJECT["name"]:  # an installation for development knows its extras of another day
        optional = PROJECT["optional-dependencies"]
        described = [
            *PROJECT["dependencies"],
            *(library for extra in extras for library in optional[extra]),
        ]
    else:
        try:
            described = requires(name) or []
        except PackageNotFoundError:  # of another platform
            return
    for requirement in map(Requirement, described):
        if requirement.marker is None or any(
            requirement.marker.evaluate({"extra": e}) for e in extras or {""}
        ):
            yield canonicalize_name(requirement.name), frozenset(requirement.extras)
