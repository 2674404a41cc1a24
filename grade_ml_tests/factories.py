"""Small inputs that several packages' tests write: files as a source would deliver them."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import Engine

from grade_ml.core.pseudonyms import Pseudonyms
from grade_ml.core.settings import Settings
from grade_ml.registry.history import Stage
from grade_ml.registry.registry import ModelVersion, Registry
from grade_ml.registry.transition import Evidence, Stages

Row = Sequence[object]
SECRET = "no secret"
PSEUDONYMS = Pseudonyms.of_installation(Settings(_env_file=None, secret=SECRET))

OULAD_HEADERS: Mapping[str, str] = {
    "courses": "code_module,code_presentation,module_presentation_length",
    "assessments": "code_module,code_presentation,id_assessment,assessment_type,date,weight",
    "studentInfo": "code_module,code_presentation,id_student,gender,region,highest_education,"
    "imd_band,age_band,num_of_prev_attempts,studied_credits,disability,final_result",
    "studentRegistration": "code_module,code_presentation,id_student,date_registration,"
    "date_unregistration",
    "studentAssessment": "id_assessment,id_student,date_submitted,is_banked,score",
    "studentVle": "code_module,code_presentation,id_student,id_site,date,sum_click",
}


def let_serve(engine: Engine, registry: Registry, version: ModelVersion) -> None:
    """Make `version` champion."""
    bring(engine, registry, version, Stage.CHALLENGER, Stage.CHAMPION)


def bring(engine: Engine, registry: Registry, version: ModelVersion, *through: Stage) -> None:
    """Bring `version` through stages."""
    stages = Stages(engine, registry, datetime(2025, 1, 1, tzinfo=UTC))
    for stage in through:
        stages.transition(version, stage, Evidence("arranged by a test"))


def write_csv(path: Path, header: str, rows: Sequence[Row]) -> Path:
    """Write a header and rows; None becomes an empty value."""
    with path.open("w", newline="", encoding="utf-8") as file:
        file.write(header + "\n")
        csv.writer(file, lineterminator="\n").writerows(rows)
    return path


def write_oulad(
    folder: Path,
    students: int = 4,
    modules: Sequence[str] = ("AAA", "BBB"),
    presentations: Sequence[str] = ("2013B", "2013J", "2014B"),
    *,
    activity: bool = True,
    **replaced: Sequence[Row],
) -> Path:
    """Write a tiny OULAD folder and return it.

    Each presentation of a module lasts 240 days and has `students` students of its own (ids
    increase over presentations; number 1 of each module takes every presentation), three TMAs
    (days 30, 100, 170; weights 20, 30, 50) and an exam without results. Student n of a
    presentation scores 40 + 10 n + assessment number; the last one of each presentation submits
    the first TMA only and withdraws on day 120.

    Parameters
    ----------
    replaced
        Rows per file (e.g. `studentAssessment=[…]`) to write instead.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[str, list[Row]] = {name: [] for name in OULAD_HEADERS}
    number = 0
    for module in modules:
        for presentation in presentations:
            number += 1
            _add_presentation(files, module, presentation, number, students)
    for name, header in OULAD_HEADERS.items():
        if name != "studentVle" or activity:
            write_csv(folder / f"{name}.csv", header, replaced.get(name, files[name]))
    return folder


def _add_presentation(
    files: dict[str, list[Row]], module: str, presentation: str, number: int, students: int
) -> None:
    section = (module, presentation)
    files["courses"].append((*section, 240))
    tmas = [(number * 10 + n, day, weight) for n, (day, weight) in enumerate(_TMAS)]
    files["assessments"] += [(*section, id_, "TMA", day, weight) for id_, day, weight in tmas]
    files["assessments"].append((*section, number * 10 + 9, "Exam", "?", 100))
    for n in range(students):
        student = ord(module[0]) * 1000 + (0 if n == 0 else number * 100 + n)
        leaves = n == students - 1 and n > 0
        result = "Withdrawn" if leaves else ("Fail", "Pass", "Distinction")[min(n, 2)]
        person = ("FM"[n % 2], "Wales", "HE Qualification", "20-30%", "0-35")
        files["studentInfo"].append((*section, student, *person, 0, 60, "N", result))
        files["studentRegistration"].append((*section, student, -20 - n, 120 if leaves else "?"))
        for place, (id_, day, _) in enumerate(tmas[: 1 if leaves else 3]):
            score = min(100, 40 + 10 * n + place)
            files["studentAssessment"].append((id_, student, day - n % 3, 0, score))
        for day in (-5, 10, 60):
            files["studentVle"].append((*section, student, 1, day, 2))
            files["studentVle"].append((*section, student, 2, day, n))


_TMAS = ((30, 20), (100, 30), (170, 50))
