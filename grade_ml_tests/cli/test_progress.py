"""What a command prints while it works: lines where they are read later, drawn in a terminal."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys

CODE = """
from grade_ml.cli.progress import Steps
with Steps() as step:
    step("Reading [results]", 1200)
    step("Reading terms")
    step("Reading [results]", 34)
    step("Fitting")
"""


def test_steps_are_lines_without_a_terminal_and_their_figures_come_last():
    ran = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    lines = ran.stderr.splitlines()
    assert ran.stdout == ""
    assert lines[:3] == ["Reading [results] …", "Reading terms …", "Fitting …"]
    figures = [re.sub(r"\d+\.\d s$", "_ s", line) for line in lines[3:]]
    assert figures == ["Reading [results]: 1,234 rows, _ s", "Reading terms: _ s", "Fitting: _ s"]


def test_steps_stay_with_their_figures_in_a_terminal():
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80", "NO_COLOR": "1"}
    subprocess.run([sys.executable, "-c", CODE], stderr=theirs, env=environment, check=True)
    os.close(theirs)
    shown = os.read(ours, 1 << 16).decode()
    assert re.search(r"Reading \[results\] +1,234 rows, \d+\.\d s", shown)
    assert re.search(r"Fitting +\d+\.\d s", shown)
