"""A code location over the settings in the environment, imported only by the test of backfills."""

from grade_ml.orchestration.build import build_defs

defs = build_defs()
