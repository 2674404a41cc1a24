"""Commands in the process of the test: starting Python and importing take seconds each time."""

from __future__ import annotations

import contextlib
import io
import logging
import signal
import sys
from collections.abc import Iterator
from unittest.mock import patch

import pytest

from grade_ml.cli import main
from grade_ml_tests.launch import free_port


@contextlib.contextmanager
def logged_to(output: io.StringIO) -> Iterator[None]:
    """Let what is logged be seen too, of every level."""
    handler = logging.StreamHandler(output)
    logging.getLogger().addHandler(handler)
    yield
    logging.getLogger().removeHandler(handler)


def output_of(command: str) -> tuple[int, str]:
    """Return how `command` ends, and all that it prints."""
    output = io.StringIO()
    words = ["grade-ml", *command.format(port=free_port()).split()]
    with (
        patch.object(sys, "argv", words),
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(output),
        logged_to(output),
        pytest.raises(SystemExit) as ended,
    ):
        main()
    return int(ended.value.code or 0), output.getvalue()


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """Give pytest its signals back, which `up` takes."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)
