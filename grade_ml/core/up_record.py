"""What a running `grade-ml up` records about itself, in the file `up.lock` of its home."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from grade_ml.core.process import Identity

#: A daemon whose last heartbeat is older is dead: the daemon of Dagster reports every 30 seconds.
DAEMON_SECONDS = 90


def where(home: Path) -> tuple[str, int] | None:
    """Return the URL and the process id of the `up` that runs on `home`, or None."""
    content = _running(home)
    return None if content is None else (content["url"], content["up"]["pid"])


def providers_url(home: Path) -> str | None:
    """Return where the `up` that runs on `home` serves simulated providers, or None."""
    content = _running(home)
    return None if content is None else content.get("providers")


def _running(home: Path) -> dict[str, Any] | None:
    """Return the record of the `up` that runs on `home`; an `up` that was killed has no record."""
    try:
        content: dict[str, Any] = json.loads((home / "up.lock").read_text())
    except (OSError, ValueError):  # none, not readable, or half written
        return None
    return content if Identity(**content["up"]).is_alive() else None
