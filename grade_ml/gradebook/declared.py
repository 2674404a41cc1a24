"""The declared uses of each attribute of the sources.

Apart from the modules that read the sources: every question to the engine needs the uses, and none
of them needs the libraries that read files.
"""

from __future__ import annotations

from grade_ml.gradebook.institution import Use

#: Attributes of the Open University: of a student, and of an enrollment.
OULAD_STUDENTS = {
    "gender": Use.PROTECTED,
    # Of residence, one of 13 parts of the British Isles: no characteristic of the Equality Act.
    "region": Use.USABLE,
    "highest_education": Use.USABLE,
    "imd_band": Use.PROTECTED,
    "age_band": Use.PROTECTED,
    "disability": Use.PROTECTED,
}
OULAD_ENROLLMENTS = {"num_of_prev_attempts": Use.USABLE, "studied_credits": Use.USABLE}
OULAD = {**OULAD_STUDENTS, **OULAD_ENROLLMENTS}
#: The columns of demographics in OneRoster. Age, sex, race, ethnicity and national origin
#: are protected by law in most places, and so is the place of residence: it shows homelessness.
ONEROSTER = {
    "birthYear": Use.PROTECTED,
    "sex": Use.PROTECTED,
    "americanIndianOrAlaskaNative": Use.PROTECTED,
    "asian": Use.PROTECTED,
    "blackOrAfricanAmerican": Use.PROTECTED,
    "nativeHawaiianOrOtherPacificIslander": Use.PROTECTED,
    "white": Use.PROTECTED,
    "demographicRaceTwoOrMoreRaces": Use.PROTECTED,
    "hispanicOrLatinoEthnicity": Use.PROTECTED,
    "countryOfBirthCode": Use.PROTECTED,
    "stateOfBirthAbbreviation": Use.PROTECTED,
    "publicSchoolResidenceStatus": Use.PROTECTED,
    "birthDate": Use.IDENTIFYING,
    "cityOfBirth": Use.IDENTIFYING,
}
#: How the names of a source's own columns begin in OneRoster.
METADATA = "metadata."
#: Of the simulated campus.
CAMPUS = {
    "age_band": Use.PROTECTED,
    "disability": Use.PROTECTED,
    "gender": Use.PROTECTED,
    "imd_band": Use.PROTECTED,
    "prior_grade": Use.USABLE,
    "region": Use.USABLE,
    "studied_credits": Use.USABLE,
}
