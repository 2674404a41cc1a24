"""The entry point of Dagster: the code location loads `defs`."""

from grade_ml.core.process import keep_apart
from grade_ml.orchestration.build import build_defs

keep_apart()
defs = build_defs()
