"""The table of docs/security.md and the tests marked `security` are the same trials."""

from __future__ import annotations

import ast
import re
from pathlib import Path

TESTS = Path(__file__).parent
TABLE = (TESTS.parent / "docs" / "security.md").read_text("utf-8")
NAMED = sorted(set(re.findall(r"`([\w/]*test_\w+\.py)(?:::(\w+))?`", TABLE)))


def _trials(path: Path) -> set[str]:
    """Return the names of the tests in the module that are marked `security`."""
    module = ast.parse(path.read_text("utf-8"))
    all_are = any(
        isinstance(node, ast.Assign)
        and "pytestmark" in ast.unparse(node.targets[0])
        and "mark.security" in ast.unparse(node.value)
        for node in module.body
    )
    return {
        node.name
        for node in module.body
        if isinstance(node, ast.FunctionDef)
        and node.name.startswith("test_")
        and (all_are or any("mark.security" in ast.unparse(d) for d in node.decorator_list))
    }


def test_each_trial_of_the_table_is_a_test() -> None:
    assert len(NAMED) > 50
    missing = [
        f"{path}::{name}"
        for path, name in NAMED
        if not (TESTS / path).exists() or not _trials(TESTS / path) >= ({name} if name else set())
    ]
    assert missing == []


def test_each_module_with_trials_is_in_the_table() -> None:
    with_trials = {
        str(path.relative_to(TESTS)) for path in TESTS.rglob("test_*.py") if _trials(path)
    }
    assert with_trials - {path for path, _ in NAMED} == set()
