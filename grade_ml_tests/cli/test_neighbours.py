"""What another user of the machine can list and read of an installation: nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from grade_ml_tests.launch import Installation, wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.security,
    pytest.mark.skipif(os.geteuid() != 0, reason="being two users needs root"),
]
NEIGHBOUR = 65533
ORDINARY = 65534  # nobody, who has a name as every user has
#: Reads paths that end in NUL and prints those that the user who runs it can list or read.
_TRY = r"""while IFS= read -r path; do [ -r "$path" ] && printf '%s\n' "$path"; done; true"""


def readable(paths: list[Path], user: int) -> list[str]:
    done = subprocess.run(
        ["/bin/sh", "-c", _TRY],
        input="".join(f"{path}\n" for path in paths),
        user=user,
        group=user,
        extra_groups=[],
        cwd="/",
        capture_output=True,
        text=True,
        check=True,
    )
    assert not done.stderr
    return done.stdout.splitlines()


def everything(*folders: Path) -> list[Path]:
    paths = [path for folder in folders for path in (folder, *folder.rglob("*"))]
    # A link shows where it leads: to the repository, which everybody may read.
    return [path for path in paths if not path.is_symlink()]


@pytest.fixture(params=["the superuser", "an ordinary user"])
def used(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Installation]:
    """An installation that has loaded, trained and predicted, while `up` runs on it."""
    for folder in (tmp_path, *tmp_path.parents):
        folder.chmod(folder.stat().st_mode | 0o055)
    user = None
    if request.param == "an ordinary user":
        user = ORDINARY
        if not readable([Path(sys.executable).resolve()], user):
            pytest.skip("this Python can be run by the superuser only")
        for name in ("home", "storage", "tmp"):
            (tmp_path / name).mkdir(mode=0o755)
            os.chown(tmp_path / name, user, user)
    installation = Installation(
        tmp_path / "home", user, GRADE_ML_STORAGE=str(tmp_path / "storage"), HOME=str(tmp_path)
    )
    old = os.umask(0o022)
    try:
        for command in (
            "load simulated --students 60 --courses 1",
            "run train_traditional_models",
        ):
            ran = installation.command(*command.split())
            assert ran.returncode == 0, ran.stderr
        installation.up()
        suggested = re.search(r"--student (\S+) --course (\S+)", installation.output)
        assert suggested
        ran = installation.command("predict", "--student", suggested[1], "--course", suggested[2])
        assert ran.returncode == 0, ran.stderr
    finally:
        os.umask(old)
    yield installation
    installation.stop()


def test_a_neighbour_reads_nothing(used: Installation):
    storage = used.home.with_name("storage")
    paths = everything(used.home, storage)
    assert {"up.lock", "daemon.log", "fitted.skops", "PG_VERSION"} <= {path.name for path in paths}
    assert readable(paths, NEIGHBOUR) == []
    # Nor would it if a folder above were opened.
    open_to_others = [
        path for path in paths if path not in (used.home, storage) and path.stat().st_mode & 0o077
    ]
    assert open_to_others == []

    used.stop()
    # A run that is killed while `up` ends leaves the server to the next command that ends.
    assert used.command("status").returncode == 0
    wait_until(lambda: used.postgres() is None, "the end of PostgreSQL")
    earlier = [path for path in everything(used.home, storage) if "postgres/" not in str(path)]
    for path in earlier:
        path.chmod(0o755 if path.is_dir() else 0o644)
    assert set(readable(earlier, NEIGHBOUR)) == {str(path) for path in earlier}
    assert used.command("status").returncode == 0
    assert readable(everything(used.home, storage), NEIGHBOUR) == []
