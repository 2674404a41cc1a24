"""Which heavy libraries a call of the command imports: they are most of the time it takes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping

#: Each of them takes a tenth of a second to three seconds.
HEAVY = ("alembic", "dagster", "mlflow", "numpy", "pandas", "pyarrow", "scipy", "sklearn")
#: What a command that reads nothing does without, too.
READING = ("psycopg", "pydantic", "rich", "sqlalchemy")

_CODE = """
import sys
from grade_ml.cli import group
group(sys.argv[1:], standalone_mode=False)
print("", *sys.modules)
"""


def call(*arguments: str, env: Mapping[str, str] | None = None) -> tuple[str, set[str]]:
    """Return what a call prints, and the modules that its process has then."""
    ended = subprocess.run(
        [sys.executable, "-P", "-c", _CODE, *arguments],
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        check=True,
    )
    *printed, modules = ended.stdout.splitlines()
    return "\n".join(printed), set(modules.split())
