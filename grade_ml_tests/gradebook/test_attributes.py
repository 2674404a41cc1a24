"""What attributes may be used for: what sources declare, and what an institution may change."""

from __future__ import annotations

import json
from datetime import date

import pytest

from grade_ml.campus import simulated
from grade_ml.core.errors import ConfigurationError
from grade_ml.gradebook.attributes import SOURCES, declarations
from grade_ml.gradebook.declared import CAMPUS, ONEROSTER, OULAD
from grade_ml.gradebook.institution import Institution, Use, read

#: The columns of demographics in OneRoster 1.1 and 1.2, beside those of every file.
DEMOGRAPHICS = (
    *("birthDate", "sex", "americanIndianOrAlaskaNative", "asian", "blackOrAfricanAmerican"),
    *("nativeHawaiianOrOtherPacificIslander", "white", "demographicRaceTwoOrMoreRaces"),
    *("hispanicOrLatinoEthnicity", "countryOfBirthCode", "stateOfBirthAbbreviation"),
    *("cityOfBirth", "publicSchoolResidenceStatus"),
)
TABLES = (OULAD, ONEROSTER, CAMPUS)


def test_each_source_declares_all_that_it_delivers() -> None:
    assert {*DEMOGRAPHICS, "birthYear"} == set(ONEROSTER)
    assert Use.USABLE not in ONEROSTER.values()
    book = simulated.gradebook(simulated.CampusConfig(students=20, courses=1), date(2026, 1, 1))
    attributes = [
        json.loads(text) for text in {*book.students.attributes, *book.enrollments.attributes}
    ]
    assert {name for row in attributes for name in row} == set(CAMPUS)


def test_what_one_source_protects_is_protected_wherever_it_comes_from() -> None:
    strict = list(Use)
    for name in {name for table in TABLES for name in table}:
        uses = [table[name] for table in TABLES if name in table]
        assert SOURCES.use_of(name) is max(uses, key=strict.index)


@pytest.mark.parametrize("name", ["sex", "Sex", "metadata.sex", "metadata.SEX"])
def test_names_are_the_same_in_any_case_and_with_the_prefix_of_oneroster(name: str) -> None:
    assert SOURCES.use_of(name) is Use.PROTECTED


def test_an_institution_adds_and_restricts(tmp_path) -> None:
    file = tmp_path / "institution.toml"
    file.write_text(
        '[attributes]\nentry_route = "usable"\nreligion = "protected"\nregion = "protected"\n'
        'imd_band = "identifying"\nsex = "protected"\n'
    )
    declared = declarations(read(file))
    assert SOURCES.use_of("entry_route") is None and SOURCES.use_of("region") is Use.USABLE
    assert declared.use_of("entry_route") is Use.USABLE
    assert {name: declared.use_of(name) for name in ("religion", "region", "sex")} == dict.fromkeys(
        ("religion", "region", "sex"), Use.PROTECTED
    )
    assert declared.use_of("imd_band") is Use.IDENTIFYING
    assert declared.use_of("studied_credits") is Use.USABLE
    assert declared.use_of("shoe_size") is None


@pytest.mark.parametrize(
    ("name", "use"),
    [("gender", Use.USABLE), ("Sex", Use.USABLE), ("cityOfBirth", Use.PROTECTED)],
)
def test_an_institution_does_not_allow_what_a_source_forbids(name: str, use: Use) -> None:
    with pytest.raises(ConfigurationError, match=f"attribute {name} {use}") as caught:
        declarations(Institution(attributes={name: use}))
    assert f"Remove {name} from [attributes]" in caught.value.remedy
