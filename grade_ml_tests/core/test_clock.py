"""That nothing but the project's clock reads the time of the machine."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from grade_ml.core.clock import Clock
from grade_ml_tests import REPOSITORY

PACKAGE = REPOSITORY / "grade_ml"
#: Methods that give the time, of whatever they are called on, and functions of `time` that do.
NOW = {"now", "today", "utcnow"}
OF_TIME = {"time", "time_ns", "localtime", "gmtime", "ctime", "strftime", "clock_gettime"}
IN_SQL = re.compile(r"\bnow\(\)|\bcurrent_(date|timestamp)\b", re.IGNORECASE)


def last_word(node: ast.expr) -> str:
    return getattr(node, "attr", getattr(node, "id", "")).strip("_")


def readings(source: str) -> Iterator[int]:
    """Yield the lines that read the time by themselves, not from a clock."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Attribute(value=owner, attr=name) if name in NOW:
                owner_name = last_word(owner if not isinstance(owner, ast.Call) else owner.func)
                # Values that were made by a clock before: `client.now` is a moment, not a method.
                if owner_name in {"datetime", "date", "Timestamp", "func", "pd", "dt"}:
                    yield node.lineno
            case ast.Attribute(value=ast.Name(id="time"), attr=name) if name in OF_TIME:
                yield node.lineno
            case ast.ImportFrom(module="time", names=names):
                if OF_TIME & {alias.name for alias in names}:
                    yield node.lineno
            case ast.Constant(value=str(text)) if IN_SQL.search(text) and "select" in text.lower():
                yield node.lineno


@pytest.mark.parametrize(
    "source",
    [
        "datetime.now(UTC)",
        "datetime.datetime.now()",
        "made_at = field(default_factory=date.today)",
        "datetime.utcnow()",
        "pd.Timestamp.now()",
        "time.time()",
        "from time import time",
        "sa.func.now()",
        "text('select * from t where at < now()')",
    ],
)
def test_each_way_to_read_the_time_is_detected(source: str):
    assert list(readings(source)) == [1]


@pytest.mark.parametrize("source", ["self.clock.now()", "workspace.now", "time.monotonic()"])
def test_a_clock_and_a_stop_watch_are_none(source: str):
    assert not list(readings(source))


def test_only_the_clock_reads_the_time():
    uses = {
        f"{path.relative_to(PACKAGE)}:{line}"
        for path in PACKAGE.rglob("*.py")
        if "migrations" not in path.parts and re.search(r"now|today|time", path.read_text())
        for line in readings(path.read_text())
    }
    assert {use.partition(":")[0] for use in uses} == {"core/clock.py"}, sorted(uses)


def test_clocks_are_made_at_the_edge_only():
    made = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.Call) and last_word(node.func) == "Clock")
        or (isinstance(node, ast.keyword) and last_word(node.value) == "Clock")
    }
    # Commands have theirs by `pass_clock`.
    edge = {"engine/engine.py", "orchestration/build.py", "orchestration/running.py"}
    assert made == edge | {"tasks/__init__.py", "tasks/handle.py"}


def test_the_clock_gives_the_time_in_utc():
    moment = Clock().now()
    assert moment.tzinfo is UTC
    assert abs(datetime.now(UTC) - moment) < timedelta(minutes=1)
