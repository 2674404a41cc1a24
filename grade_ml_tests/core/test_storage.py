from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis.strategies import lists, text

from grade_ml.core.storage import file_name


@given(lists(text(max_size=255), unique=True, max_size=20))
def test_every_text_has_a_file_name_of_its_own_on_every_file_system(identifiers: list[str]):
    names = [file_name(one) for one in identifiers]
    assert len({name.casefold() for name in names}) == len(identifiers)
    assert names == [file_name(one) for one in identifiers]
    for name in names:
        assert name.isascii() and len(name) <= 61
        assert name == name.strip(" .-") and "/" not in name


def test_ids_that_differ_by_case_or_accent_only():
    names = {
        file_name(one).casefold() for one in ("MATH", "math", "é", "e\u0301", "", "-", ".", "..")
    }
    assert len(names) == 8


def test_a_file_of_the_longest_id_can_be_written(tmp_path: Path):
    for identifier in ("я" * 255, "%" * 255, "A" * 255, "😀" * 255):
        (tmp_path / file_name(identifier)).write_text(identifier)
    assert len(list(tmp_path.iterdir())) == 4
