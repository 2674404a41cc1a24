from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis.strategies import lists, text
from upath import UPath

from grade_ml.core.storage import file_name, remove_tree, size_of


@given(lists(text(max_size=255), unique=True, max_size=20))
def test_every_text_has_a_file_name_of_its_own_on_every_file_system(identifiers: list[str]):
    names = [file_name(identifier) for identifier in identifiers]
    assert len({name.casefold() for name in names}) == len(identifiers)
    assert names == [file_name(identifier) for identifier in identifiers]
    for name in names:
        assert name.isascii() and len(name) <= 61
        assert name == name.strip(" .-") and "/" not in name


def test_ids_that_differ_by_case_or_accent_only():
    names = {
        file_name(identifier).casefold()
        for identifier in ("MATH", "math", "é", "e\u0301", "", "-", ".", "..")
    }
    assert len(names) == 8


def test_a_file_of_the_longest_id_can_be_written(tmp_path: Path):
    for identifier in ("я" * 255, "%" * 255, "A" * 255, "😀" * 255):
        (tmp_path / file_name(identifier)).write_text(identifier)
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize("root", ["local", "memory://measured"])
def test_what_is_measured_is_what_is_removed(root: str, tmp_path: Path):
    folder = UPath(tmp_path if root == "local" else root) / "model"
    for name in ("weights", "members/forest"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"12345")
    assert size_of(folder) == 10 and size_of(folder / "weights") == 5
    remove_tree(folder)
    assert not folder.exists() and size_of(folder) == 0
    remove_tree(folder)


def test_a_link_is_removed_and_what_it_leads_to_is_not(tmp_path: Path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "file").write_bytes(b"12345")
    (tmp_path / "folder").mkdir()
    for link in ("link", "folder/link", "broken"):
        to = "nowhere" if link == "broken" else "elsewhere"
        (tmp_path / link).symlink_to(tmp_path / to)
    for name in ("link", "folder", "broken"):
        assert size_of(UPath(tmp_path / name)) == 0
        remove_tree(UPath(tmp_path / name))
    assert [path.name for path in tmp_path.iterdir()] == ["elsewhere"]
    assert (tmp_path / "elsewhere" / "file").exists()
