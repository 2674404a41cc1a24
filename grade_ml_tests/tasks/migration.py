"""The lines of docs/migration.md, as the tests of tasks take them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from grade_ml_tests import REPOSITORY

PAGE = (REPOSITORY / "docs" / "migration.md").read_text()


def rows(*heads: str) -> Iterator[list[str]]:
    """Yield the cells of each row below a heading that begins with `heads`."""
    within = False
    for line in PAGE.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|"):
            within = False
        elif within and not set(line) <= {"|", "-"}:
            yield cells
        elif tuple(cells[: len(heads)]) == heads:
            within = True


def code(cell: str) -> list[str]:
    """Return what is between backticks."""
    return re.findall(r"`([^`]+)`", cell)


#: The calls that submit, and those that run here with the command that does the same.
SUBMITTING = [(code(now)[0], code(job)[0]) for _, now, job in rows("former call", "now", "job")]
DIRECT = [(code(now)[0], code(run)[0]) for _, now, run in rows("former call", "now", "command")]
HANDLE = [code(now)[0] for _, now, _ in rows("former", "now")]
SCHEDULES = {
    code(name)[0]: (code(cron)[0], code(job)[0])
    for _, name, cron, job in rows("former entry (task)")
}
SETTINGS = {name for _, now in rows("former setting") for name in code(now) if name.isupper()}
ERRORS = {name for cell, *_ in rows("error (all from `grade_ml.tasks`)") for name in code(cell)}
