"""Dagster's instance of one installation: its home, made ready, and the runs that died in it.

What the instance is made of stands in dagster.yaml at the top of the repository.
"""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

from dagster import DagsterInstance

from grade_ml.core.settings import REPOSITORY, Settings


def open_instance(settings: Settings) -> DagsterInstance:
    """Return the instance; it holds the embedded server if its tables lie there.

    The `dagster` database is that of this process's environment, as for every Dagster process.
    """
    return DagsterInstance.from_config(str(prepare_home(settings)))


def prepare_home(settings: Settings) -> Path:
    """Make Dagster's home with its dagster.yaml and return it.

    The file is a link to the repository's, so that a new version of it counts at once; a file
    that somebody put there stays.
    """
    home = settings.dagster_home or settings.home / "dagster"
    home.mkdir(parents=True, exist_ok=True)
    target, link = REPOSITORY / "dagster.yaml", home / "dagster.yaml"
    if link.is_symlink() and not link.exists():
        link.unlink()  # the repository has moved
    try:
        with suppress(FileExistsError):  # another process was first
            if not link.exists():
                link.symlink_to(target)
    except OSError:  # a file system without links
        shutil.copyfile(target, link)
    return home
