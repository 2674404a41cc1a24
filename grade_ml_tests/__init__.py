"""Tests of grade_ml, in folders like its packages."""

from pathlib import Path

#: The checkout, whose documents and tools are tested, too.
REPOSITORY = Path(__file__).resolve().parents[1]
