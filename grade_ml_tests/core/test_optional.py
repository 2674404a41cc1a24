from __future__ import annotations

import tomllib
from collections.abc import Iterator

import pytest
from packaging.requirements import Requirement

from grade_ml.core import optional
from grade_ml.core.degradation import faults
from grade_ml.forecasting.forecasters import FORECASTERS
from grade_ml_tests import REPOSITORY

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
LIBRARIES = {
    module: (family.extra, without)
    for family in optional.FAMILIES
    for module, without in family.libraries.items()
}


def expanded(extra: str) -> Iterator[str]:
    """Yield the requirements of an extra and of those that it includes."""
    for line in PROJECT["optional-dependencies"][extra]:
        requirement = Requirement(line)
        if requirement.name == PROJECT["name"]:
            for included in requirement.extras:
                yield from expanded(included)
        else:
            yield line


def test_the_demo_is_a_part_of_all_with_the_same_limits():
    assert set(expanded("demo")) < set(expanded("all"))


def test_the_readme_states_for_each_library_what_is_lost_without_it():
    rows = [
        [cell.strip(" `") for cell in line.strip("|").split("|")]
        for line in (REPOSITORY / "README.md").read_text().splitlines()
        if line.startswith("| `") and line.count("|") == 6
    ]
    assert {row[0]: (row[1], row[4]) for row in rows} == LIBRARIES
    of_demo = {Requirement(line).name for line in expanded("demo")}
    assert {row[0] for row in rows if row[3] == "yes"} == of_demo & LIBRARIES.keys()


@pytest.mark.parametrize("module", LIBRARIES)
def test_what_is_missing_is_named_with_its_loss_and_both_ways_to_install_it(
    module: str, monkeypatch: pytest.MonkeyPatch
):
    find_spec = optional.find_spec
    monkeypatch.setattr(
        optional, "find_spec", lambda name: None if name == module else find_spec(name)
    )
    extra, without = LIBRARIES[module]
    with pytest.raises(optional.MissingLibraryError) as caught:
        optional.needed(extra)
    failed = optional.of_import(ModuleNotFoundError(name=f"{module}.core"))
    assert failed
    for remedy in (caught.value.remedy, failed.remedy):
        assert "make up ALL=1" in remedy
        assert f"pip install 'grade-ml[{extra}]'" in remedy
    assert module in caught.value.message and without in caught.value.message
    assert f"{module} (extra {extra}): without it, {without}." in optional.degraded()


def test_a_library_that_takes_more_memory_than_there_is_is_left_out_and_so_is_its_forecaster(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(optional, "find_spec", lambda name: True)
    assert not optional.all_left_out(8000)
    (reason,) = optional.all_left_out(4000)
    assert "tensorflow" in reason and "not 4.0 GB" in reason
    assert LIBRARIES["tensorflow"][1] in reason
    monkeypatch.setattr(optional, "total_megabytes", lambda: 4000.0)
    assert reason in optional.degraded()
    lacking = {
        forecaster.library: forecaster.lacks()
        for forecaster in FORECASTERS.values()
        if forecaster.lacks()
    }
    assert lacking.keys() == {"tensorflow"} and "is left out" in lacking["tensorflow"]
    assert not faults(lacking.values())
