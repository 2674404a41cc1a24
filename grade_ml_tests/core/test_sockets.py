"""Where sockets lie: nowhere that a neighbour can prepare."""

from __future__ import annotations

from pathlib import Path

import pytest

from grade_ml.core.sockets import socket_directory

pytestmark = pytest.mark.security


def test_a_short_plain_directory_is_its_own(tmp_path: Path) -> None:
    assert socket_directory(Path("/srv/grades/postgres")) == Path("/srv/grades/postgres")


@pytest.mark.parametrize("name", ["My home", "a" * 100, "höme"])
def test_another_place_is_private_and_cannot_be_guessed(tmp_path: Path, name: str) -> None:
    first, second = (socket_directory(tmp_path / name) for _ in range(2))
    assert first != second
    for place in (first, second):
        assert place.stat().st_mode & 0o777 == 0o700
        assert list(place.iterdir()) == []
        place.rmdir()
