"""Situations that schools report of their OneRoster deliveries, and the right grades and labels."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from sqlalchemy import Engine, text

from grade_ml.core.errors import SourceError
from grade_ml.gradebook.institution import Institution
from grade_ml_tests.gradebook.roster import (
    AFTER,
    DURING,
    at_risk,
    class_,
    delta,
    gone,
    grades,
    item,
    load_path,
    read,
    result,
    session,
    source,
    stint,
    write,
)

pytestmark = pytest.mark.slow

ALGEBRA, BIOLOGY = source()["lineItems"][:2], source()["lineItems"][2:]


def _reasons(engine: Engine) -> list[tuple[str, int, str]]:
    with engine.connect() as connection:
        query = 'select file, "row", reason from gradebook.quarantine order by file, "row"'
        return [tuple(row) for row in connection.execute(text(query))]  # type: ignore[misc]


def _enrollment(engine: Engine, section: str, student: str) -> dict[str, Any]:
    rows = read(engine).enrollments.set_index(["section_id", "student_id"])
    return {
        name: None if pd.isna(value) else str(value).removesuffix(" 00:00:00")
        for name, value in rows.loc[(section, student)].items()
    }


STINTS = {
    "left and back": [("2025-08-18", "2025-09-10"), ("2025-09-22", "2025-12-19")],
    "three stints": [
        ("2025-08-18", "2025-08-30"),
        ("2025-09-05", "2025-09-10"),
        ("2025-09-22", ""),
    ],
    "one inside the other": [("2025-08-18", "2025-12-19"), ("2025-09-01", "2025-09-10")],
    "the first never closed": [("2025-08-18", ""), ("2025-09-22", "2025-12-19")],
}


@pytest.mark.parametrize("stints", STINTS.values(), ids=STINTS)
def test_stints_of_a_student_are_one_enrollment(
    engine: Engine, tmp_path: Path, stints: list[tuple[str, str]]
) -> None:
    for n, order in enumerate(itertools.permutations(stints)):
        rows = [stint(f"s{i}", "alg", "u1", *dates) for i, dates in enumerate(order)]
        others = source()["enrollments"][1:]
        report = load_path(engine, write(tmp_path / str(n), source(enrollments=[*rows, *others])))

        assert report.quarantined == 0
        assert report.changed == (n == 0)
    enrollment = _enrollment(engine, "alg", "u1")
    assert enrollment["enrolled_on"] == "2025-08-18"
    assert enrollment["withdrawn_on"] is None
    assert grades(engine)[("alg", "u1")] == pytest.approx(94 / 110 * 100)
    assert at_risk(engine)[("alg", "u1")] is False


def test_the_last_stint_may_end_early(engine: Engine, tmp_path: Path) -> None:
    rows = [
        stint("a", "alg", "u1", "2025-08-18", "2025-09-10"),
        stint("b", "alg", "u1", "2025-09-22", "2025-10-30"),
        {**stint("c", "alg", "u1", "2025-08-18", "2025-12-19"), "role": "aide"},
    ]
    load_path(engine, write(tmp_path / "bulk", source(enrollments=rows)))

    assert _enrollment(engine, "alg", "u1")["withdrawn_on"] == "2025-10-30"
    assert at_risk(engine)[("alg", "u1")] is True


def test_a_deleted_stint_removes_only_what_no_other_row_states(
    engine: Engine, tmp_path: Path
) -> None:
    early = stint("a", "alg", "u1", "2025-08-18", "2025-09-10")
    late = stint("b", "alg", "u1", "2025-09-22")
    load_path(engine, write(tmp_path / "1", source(enrollments=[early, late])))
    load_path(engine, delta(tmp_path / "2", {"enrollments": [gone(early)]}))
    assert _enrollment(engine, "alg", "u1")["enrolled_on"] == "2025-09-22"

    # The row that counts came under another sourcedId.
    report = load_path(engine, delta(tmp_path / "3", {"enrollments": [gone(early)]}))
    assert not any(report.removed.values())
    assert report.rejected == {"enrollment": 1}
    assert _enrollment(engine, "alg", "u1")["withdrawn_on"] is None

    report = load_path(engine, delta(tmp_path / "4", {"enrollments": [gone(late)]}))
    assert report.removed == {"enrollment": 1}
    assert report.quarantined == 0


def test_extra_credit_counts_in_points(engine: Engine, tmp_path: Path) -> None:
    rows = source()
    rows["lineItems"] += [item("l5", "alg", "hw", 0)]
    rows["results"] = [
        result("r1", "l1", "u1", 12),
        *rows["results"][1:],
        result("r9", "l5", "u1", 5),
    ]
    report = load_path(engine, write(tmp_path / "bulk", rows))

    assert report.quarantined == 0
    assert grades(engine)[("alg", "u1")] == pytest.approx((12 + 85 + 5) / 110 * 100)
    assert grades(engine)[("alg", "u2")] == pytest.approx(78 / 110 * 100)


def test_extra_credit_in_weighed_categories_and_by_metadata(engine: Engine, tmp_path: Path) -> None:
    rows = source(
        categories=[
            {"sourcedId": "hw", "title": "Homework", "weight": 40},
            {"sourcedId": "ts", "title": "Tests", "weight": 60},
        ]
    )
    rows["lineItems"] += [item("l5", "alg", "hw", 0), item("l6", "alg", "ts", 50)]
    rows["lineItems"][-1] = {**rows["lineItems"][-1], "metadata.extraCredit": "TRUE"}
    rows["results"] += [result("r9", "l5", "u2", 1), result("r10", "l6", "u2", 10)]
    load_path(engine, write(tmp_path / "bulk", rows))

    # A point of bonus is one of the 10 of homework, or of the 100 of tests.
    expected = 40 * (8 + 1) / 10 + 60 * (70 + 10) / 100
    assert grades(engine)[("alg", "u2")] == pytest.approx(expected)
    assert grades(engine)[("alg", "u1")] == pytest.approx(40 * 0.9 + 60 * 0.85)


def test_scores_far_above_the_maximum_are_unknown(engine: Engine, tmp_path: Path) -> None:
    rows = source()
    rows["results"][0] = result("r1", "l1", "u1", 20.1)
    rows["results"][2] = result("r3", "l1", "u2", 20)
    report = load_path(engine, write(tmp_path / "bulk", rows))

    assert report.rejected == {"result": 1}
    assert grades(engine)[("alg", "u1")] is None
    assert at_risk(engine)[("alg", "u1")] is None
    assert grades(engine)[("alg", "u2")] == pytest.approx(90 / 110 * 100)


@pytest.mark.parametrize(
    ("changed", "status", "grade"),
    [
        ({"scoreStatus": "exempt", "score": ""}, "exempt", 90.0),
        ({"scoreStatus": "Exempt", "score": 3}, "exempt", 90.0),
        ({"scoreStatus": "not submitted", "score": ""}, "missing", 9 / 1.1),
        ({"scoreStatus": "notSubmitted", "score": 0}, "missing", 9 / 1.1),
        ({"scoreStatus": "not submitted"}, "graded", 94 / 1.1),
        ({"missing": "true", "score": "0"}, "missing", 9 / 1.1),
        ({"missing": "Yes", "score": ""}, "missing", 9 / 1.1),
        ({"missing": "1"}, "graded", 94 / 1.1),
        ({"scoreStatus": "submitted", "score": ""}, "submitted", None),
        ({"scoreStatus": "partially graded"}, "incomplete", None),
        ({"incomplete": "t"}, "incomplete", None),
        ({"inProgress": "TRUE"}, "incomplete", None),
        ({"scoreStatus": ""}, "graded", 94 / 1.1),
        ({"scoreStatus": "FULLY_GRADED"}, "graded", 94 / 1.1),
        ({"scoreStatus": "", "score": ""}, "submitted", None),
    ],
)
def test_what_a_result_can_be(
    engine: Engine, tmp_path: Path, changed: dict[str, str], status: str, grade: float | None
) -> None:
    rows = source()
    rows["results"][1] = {**rows["results"][1], **changed}
    report = load_path(engine, write(tmp_path / "bulk", rows))

    assert report.quarantined == 0
    results = read(engine).results.set_index(["assignment_id", "student_id"])
    assert results["status"][("l2", "u1")] == status
    assert grades(engine)[("alg", "u1")] == (None if grade is None else pytest.approx(grade))


@pytest.mark.parametrize(
    "changed",
    [
        {"scoreStatus": "lost"},
        {"scoreDate": "yesterday"},
        {"scoreDate": "2925-09-09"},
        {"score": "eighty"},
        {"score": "NaN"},
        {"score": "-3"},
        {"score": ""},
        {"textScore": "B+", "score": ""},
        {"late": "perhaps"},
        {"missing": "perhaps"},
    ],
)
def test_a_result_that_cannot_be_read_is_unknown_never_missing(
    engine: Engine, tmp_path: Path, changed: dict[str, str]
) -> None:
    rows = source()
    rows["results"][1] = {**rows["results"][1], **changed}
    path = write(tmp_path / "bulk", rows)
    report = load_path(engine, path)

    assert report.rejected == {"result": 1}
    assert report.problems[0].row == 3
    assert set(report.problems[0].column.split(", ")) & set(changed)
    assert grades(engine)[("alg", "u1")] is None
    assert at_risk(engine)[("alg", "u1")] is None
    assert grades(engine)[("alg", "u2")] == pytest.approx(78 / 1.1)
    again = load_path(engine, path)
    assert not again.changed
    assert again.rejected == {"result": 1}


def test_a_line_with_a_comma_too_many_is_unknown_never_missing(
    engine: Engine, tmp_path: Path
) -> None:
    path = write(tmp_path / "bulk", source())
    results = path / "results.csv"
    results.write_text(results.read_text().replace("85,2025-10-09", "85,2025-10-09,well, done"))
    report = load_path(engine, path)

    assert report.rejected == {"result": 1}
    assert grades(engine)[("alg", "u1")] is None


def test_results_with_one_id_for_all_are_unknown_but_for_the_first(
    engine: Engine, tmp_path: Path
) -> None:
    rows = source()
    rows["results"] = [{**row, "sourcedId": "r"} for row in rows["results"]]
    report = load_path(engine, write(tmp_path / "bulk", rows))

    assert report.rejected == {"result": 7}
    assert set(grades(engine).values()) == {None}


def test_of_several_attempts_the_later_counts_and_the_earlier_stays_in_the_history(
    engine: Engine, tmp_path: Path
) -> None:
    again = result("r3b", "l1", "u2", 9, "2025-09-16")
    expected = pytest.approx(79 / 1.1)
    rows = source()
    rows["results"].insert(0, again)
    load_path(engine, write(tmp_path / "1", rows))
    assert grades(engine)[("alg", "u2")] == expected
    (earlier,) = read(engine).earlier_results.to_dict("records")
    assert (earlier["score"], earlier["until"]) == (80, pd.Timestamp("2025-09-16"))

    load_path(engine, delta(tmp_path / "2", {"results": [gone(again)]}))
    assert grades(engine)[("alg", "u2")] == pytest.approx(78 / 1.1)
    load_path(engine, delta(tmp_path / "3", {"results": [again]}))
    assert grades(engine)[("alg", "u2")] == expected


def test_of_attempts_of_one_day_the_last_modified_counts(engine: Engine, tmp_path: Path) -> None:
    rows = source()
    rows["results"] += [
        result("r3b", "l1", "u2", 10, dateLastModified="2025-09-09T10:00:00.000Z"),
        result("r3c", "l1", "u2", 9, dateLastModified="2025-09-09T09:00:00.000Z"),
    ]
    report = load_path(engine, write(tmp_path / "bulk", rows))

    assert report.quarantined == 0
    assert grades(engine)[("alg", "u2")] == pytest.approx(80 / 1.1)


def test_an_attempt_that_cannot_be_read_makes_the_result_unknown(
    engine: Engine, tmp_path: Path
) -> None:
    rows = source()
    rows["results"] += [
        result("r3b", "l1", "u2", 10, "soon"),
        result("r7b", "l3", "u3", "good", "2025-09-08"),
    ]
    load_path(engine, write(tmp_path / "bulk", rows))

    assert grades(engine)[("alg", "u2")] is None
    # Of the earlier of two attempts nothing depends.
    assert grades(engine)[("bio", "u3")] == pytest.approx(83 / 1.1)


WEIGHTS = {"hw": 30, "ts": 70}


def _weighed(**weights: object) -> list[dict[str, object]]:
    titles = {"hw": "Homework", "ts": "Tests", "bq": "Quizzes", "bp": "Project"}
    return [{"sourcedId": k, "title": v, "weight": weights.get(k, "")} for k, v in titles.items()]


def test_how_a_class_weighs_is_its_own_matter(engine: Engine, tmp_path: Path) -> None:
    biology = [item(f"q{n}", "bio", "bq", 5) for n in range(9)] + [item("p", "bio", "bp", 200)]
    scores = [result(f"x{n}", f"q{n}", "u3", 5) for n in range(9)] + [result("xp", "p", "u3", 50)]
    changed = {"lineItems": [*ALGEBRA, *biology], "results": [*source()["results"][:4], *scores]}
    right = pytest.approx(95 / 245 * 100)
    load_path(engine, write(tmp_path / "alone", source(categories=_weighed(), **changed)))
    assert grades(engine)[("bio", "u3")] == right
    assert grades(engine)[("alg", "u1")] == pytest.approx(94 / 1.1)

    homework = _weighed(hw=30)[:1]
    report = load_path(engine, delta(tmp_path / "delta", {"categories": homework}))
    assert report.courses == ("algebra",)
    assert grades(engine)[("bio", "u3")] == right
    assert grades(engine)[("alg", "u1")] == pytest.approx(90)

    weighed = source(categories=_weighed(**WEIGHTS), **changed)
    report = load_path(engine, write(tmp_path / "beside", weighed))
    assert report.courses == ("algebra",)
    assert grades(engine)[("bio", "u3")] == right
    assert grades(engine)[("alg", "u1")] == pytest.approx(0.3 * 90 + 0.7 * 85)


def test_negative_weights_mean_not_weighted(engine: Engine, tmp_path: Path) -> None:
    rows = source(
        lineItems=[
            *({**row, "metadata.weight": w} for row, w in zip(ALGEBRA, (-1, 2.0), strict=True)),
            *({**row, "metadata.weight": -1} for row in BIOLOGY),
        ],
        categories=[
            {"sourcedId": "hw", "title": "Homework", "weight": -1},
            {"sourcedId": "ts", "title": "Tests", "weight": "-1.0"},
        ],
    )
    report = load_path(engine, write(tmp_path / "bulk", rows))

    assert report.quarantined == 0
    assert any("negative weight" in note for note in report.notes)
    assert grades(engine)[("alg", "u1")] == pytest.approx(85)
    assert grades(engine)[("bio", "u3")] == pytest.approx(83 / 1.1)
    assert len(read(engine).results) == 8


@pytest.mark.parametrize(
    ("lowest", "highest", "grade"),
    [
        (-1, 10, 94 / 1.1),
        ("", 10, 94 / 1.1),
        ("0.0", "10.0", 94 / 1.1),
        ("", "", 94 / 2),
        (-1, -1, 94 / 2),
    ],
)
def test_limits_that_are_not_set_are_the_usual_limits(
    engine: Engine, tmp_path: Path, lowest: object, highest: object, grade: float
) -> None:
    limits = {"resultValueMin": lowest, "resultValueMax": highest}
    rows = source(lineItems=[{**ALGEBRA[0], **limits}, ALGEBRA[1], *BIOLOGY])
    report = load_path(engine, write(tmp_path / "bulk", rows))

    assert report.quarantined == 0
    assert grades(engine)[("alg", "u1")] == pytest.approx(grade)
    assert bool(report.notes) == (grade == 94 / 2)


SCALES = {
    "{90-100:A},{80-89:B}": (95, 84.5),
    "A:95, B:85": (95, 85),
    "{A:90 - 100};{B:80 to 89}": (95, 84.5),
    "{a:100%},{b:80%}": (100, 80),
}


def _letters(**more: str) -> list[dict[str, Any]]:
    return [
        {**row, "score": "", "textScore": "A" if row["studentSourcedId"] == "u1" else "b", **more}
        for row in source()["results"]
    ]


@pytest.mark.parametrize("entries", SCALES)
def test_letters_are_converted_by_their_scale(engine: Engine, tmp_path: Path, entries: str) -> None:
    rows = source(results=_letters(scoreScaleSourcedId="sc"))
    scale = [{"sourcedId": "sc", "title": "Letters", "scoreScaleValue": entries}]
    load_path(engine, write(tmp_path / "without", rows))
    assert set(grades(engine).values()) == {None}
    reasons = {reason for *_, reason in _reasons(engine)}
    assert all("scoreScales.csv" in reason and "[texts]" in reason for reason in reasons)

    report = load_path(engine, delta(tmp_path / "scale", {"scoreScales": scale}))
    assert report.loaded["result"] == 8
    best, second = SCALES[entries]
    assert grades(engine)[("alg", "u1")] == pytest.approx(best)
    assert grades(engine)[("bio", "u3")] == pytest.approx(second)
    assert not load_path(engine, write(tmp_path / "all", {**rows, "scoreScales": scale})).changed


@pytest.mark.parametrize("link", ["class", "lineItem", "result", "column of the line item"])
def test_a_scale_is_recognised_however_it_is_linked(
    engine: Engine, tmp_path: Path, link: str
) -> None:
    rows = source(results=_letters())
    rows["scoreScales"] = [
        {"sourcedId": "sc", "scoreScaleValue": "{A:95},{B:80}", "classSourcedId": "alg"},
        {"sourcedId": "other", "scoreScaleValue": "{A:1},{B:100}", "classSourcedId": "bio"},
    ]
    if link != "class":
        rows["scoreScales"] = [{**row, "classSourcedId": ""} for row in rows["scoreScales"]]
    if link == "lineItem":
        rows["lineItemScoreScales"] = [
            {"sourcedId": f"k{n}", "lineItemSourcedId": n, "scoreScaleSourcedId": "sc"}
            for n in ("l1", "l2")
        ]
    if link == "result":
        rows["resultScoreScales"] = [
            {"sourcedId": f"k{n}", "resultSourcedId": n, "scoreScaleSourcedId": "sc"}
            for n in ("r1", "r2")
        ]
    if link == "column of the line item":
        rows["lineItems"] = [{**row, "scoreScaleSourcedId": "sc"} for row in rows["lineItems"]]
    load_path(engine, write(tmp_path / "bulk", rows))

    assert grades(engine)[("alg", "u1")] == pytest.approx(95)


def test_texts_of_the_institution_count_and_may_change(engine: Engine, tmp_path: Path) -> None:
    rows = source(
        results=[{**row, "textScore": "", "score": row["textScore"]} for row in _letters()]
    )
    path = write(tmp_path / "bulk", rows)
    texts = Institution(texts={" a ": 93, "B": 85})
    assert load_path(engine, path, institution=texts).quarantined == 0
    assert grades(engine)[("alg", "u1")] == pytest.approx(93)

    load_path(engine, path, institution=Institution(texts={"A": 95, "B": 85}))
    assert grades(engine)[("alg", "u1")] == pytest.approx(95)
    assert load_path(engine, path, institution=Institution(texts={"A": 95})).rejected == {
        "result": 4
    }
    assert grades(engine)[("alg", "u2")] is None


def test_who_is_no_longer_named_has_left_on_that_day(engine: Engine, tmp_path: Path) -> None:
    without = source()
    for name, column in (("users", "sourcedId"), ("enrollments", "userSourcedId"),
                         ("results", "studentSourcedId")):  # fmt: skip
        without[name] = [row for row in without[name] if row[column] != "u2"]
    monday, tuesday = write(tmp_path / "monday", source()), write(tmp_path / "tuesday", without)
    load_path(engine, monday)
    report = load_path(engine, tuesday)

    assert report.notes == ("1 enrollment is no longer in the source and ends on 2025-10-14.",)
    enrollment = _enrollment(engine, "alg", "u2")
    assert (enrollment["withdrawn_on"], enrollment["outcome"]) == ("2025-10-14", "withdrawn")
    assert at_risk(engine, DURING) == {("alg", "u2"): True}
    assert at_risk(engine)[("alg", "u1")] is False
    assert len(read(engine).results) == 8
    assert len(read(engine).students) == 3
    again = load_path(engine, tuesday)
    assert not again.changed
    assert again.notes == ()

    load_path(engine, monday)
    assert _enrollment(engine, "alg", "u2")["withdrawn_on"] is None


def test_a_whole_delivery_does_not_affect_the_classes_of_another_system(
    engine: Engine, tmp_path: Path
) -> None:
    north, south = source(), source()
    for name, rows in south.items():
        south[name] = [
            {k: f"s-{v}" if k.endswith("ourcedId") and v else v for k, v in row.items()}
            | ({"termSourcedIds": "s-t1"} if name == "classes" else {})
            for row in rows
        ]
    for system, rows in (("north", north), ("south", south)):
        folder = write(tmp_path / system, rows)
        with (folder / "manifest.csv").open("a") as file:
            file.write(f"source.systemName,{system}\n")
    for system in ("north", "south", "north"):
        assert load_path(engine, tmp_path / system).notes == ()
    assert read(engine).enrollments["withdrawn_on"].isna().all()
    assert len(read(engine).results) == 16


def test_who_leaves_the_files_after_the_end_took_part(engine: Engine, tmp_path: Path) -> None:
    load_path(engine, write(tmp_path / "1", source()))
    before = at_risk(engine)
    shorter = source(enrollments=source()["enrollments"][1:])
    load_path(engine, write(tmp_path / "2", shorter), AFTER)

    assert _enrollment(engine, "alg", "u1")["withdrawn_on"] == str(AFTER)
    assert at_risk(engine) == before


def test_who_leaves_before_beginning_was_never_there(engine: Engine, tmp_path: Path) -> None:
    late = source()
    late["enrollments"].append(stint("e5", "bio", "u2", "2025-11-01"))
    load_path(engine, write(tmp_path / "1", late))
    report = load_path(engine, write(tmp_path / "2", source()))

    assert report.removed["enrollment"] == 1
    assert "not having begun" in report.notes[0]


def test_results_and_line_items_that_are_no_longer_named_are_withdrawn(
    engine: Engine, tmp_path: Path
) -> None:
    load_path(engine, write(tmp_path / "1", source()))
    rows = source(lineItems=source()["lineItems"][1:])
    rows["results"] = [r for r in rows["results"] if r["sourcedId"] not in ("r1", "r3", "r6")]
    report = load_path(engine, write(tmp_path / "2", rows))

    assert report.quarantined == 0
    assert report.removed == {"result": 3, "assignment": 1}
    assert "1 line item is no longer in the source and was withdrawn on 2025-10-14." in report.notes
    assert grades(engine)[("alg", "u1")] == pytest.approx(85)
    assert grades(engine)[("bio", "u1")] == pytest.approx(9 / 1.1)
    (earlier,) = read(engine).earlier_results.to_dict("records")
    assert (earlier["assignment_id"], earlier["score"]) == ("l4", 90)
    assert earlier["until"] == pd.Timestamp(DURING)
    assert not load_path(engine, tmp_path / "2").changed


@pytest.mark.parametrize("name", ["enrollments", "lineItems", "results"])
def test_a_delivery_in_which_too_much_is_missing_is_refused(
    engine: Engine, tmp_path: Path, name: str
) -> None:
    load_path(engine, write(tmp_path / "1", source()))
    before = read(engine)
    cut = write(tmp_path / "2", source(**{name: source()[name][:2]}))
    with pytest.raises(SourceError, match="would vanish") as refused:
        load_path(engine, cut)

    assert "--allow-vanishing" in refused.value.remedy
    assert "GRADE_ML_VANISHING_SHARE" in refused.value.remedy
    pd.testing.assert_frame_equal(read(engine).results, before.results)
    assert load_path(engine, cut, vanishing_share=1.0).changed


def test_classes_that_are_over_and_no_longer_named_keep_everything(
    engine: Engine, tmp_path: Path
) -> None:
    load_path(engine, write(tmp_path / "1", source()))
    before = grades(engine)
    spring = source(
        academicSessions=[session("t2", "2026-01-10", "2026-05-20")],
        classes=[class_("alg2", "algebra", "t2")],
        enrollments=[stint("n1", "alg2", "u1", "2026-01-10", "2026-05-20")],
        lineItems=[item("n", "alg2")],
        results=[],
    )
    report = load_path(engine, write(tmp_path / "2", spring), AFTER)

    assert report.notes == ()
    assert not any(report.removed.values())
    assert grades(engine) == before


def test_rows_that_cannot_be_read_are_named_all_the_same(engine: Engine, tmp_path: Path) -> None:
    load_path(engine, write(tmp_path / "1", source()))
    rows = source()
    rows["enrollments"][0] = {**rows["enrollments"][0], "endDate": "soon"}
    rows["lineItems"][0] = {**rows["lineItems"][0], "dueDate": "soon"}
    report = load_path(engine, write(tmp_path / "2", rows), vanishing_share=0)

    assert report.rejected == {"enrollment": 1, "assignment": 1}
    assert _enrollment(engine, "alg", "u1")["withdrawn_on"] is None
    assert len(read(engine).assignments) == 4

    lines = (tmp_path / "2" / "enrollments.csv").read_text().splitlines()
    (tmp_path / "2" / "enrollments.csv").write_text("\n".join([lines[0], *lines[2:], ",,"]) + "\n")
    report = load_path(engine, tmp_path / "2", vanishing_share=0)
    assert _enrollment(engine, "alg", "u1")["withdrawn_on"] is None


def test_what_waits_for_another_row_is_loaded_when_that_comes(
    engine: Engine, tmp_path: Path
) -> None:
    whole = source()
    order = ["results", "enrollments", "lineItems", "classes", "users", "categories"]
    for name in [*order, "courses", "academicSessions"]:
        load_path(engine, delta(tmp_path / name, {name: whole[name]}))

    assert grades(engine)[("alg", "u1")] == pytest.approx(94 / 1.1)
    assert not load_path(engine, write(tmp_path / "whole", whole)).changed


def test_a_gradebook_of_a_former_version_has_no_mirror_of_people(
    engine: Engine, tmp_path: Path
) -> None:
    load_path(engine, write(tmp_path / "1", source()))
    with engine.begin() as connection:
        names = (
            "gradebook.oneroster_enrollment, gradebook.oneroster_result, gradebook.oneroster_class"
        )
        connection.execute(text(f"truncate {names}"))
        connection.execute(text("update gradebook.section set grading_policy = 'weights'"))
    rows = source()
    report = load_path(
        engine,
        delta(
            tmp_path / "2",
            {
                "enrollments": [gone(rows["enrollments"][1])],
                "results": [gone(rows["results"][3]), result("r2", "l2", "u1", 95, "2025-10-10")],
                "lineItems": [rows["lineItems"][0]],
            },
        ),
    )

    assert report.quarantined == 0
    assert report.removed == {"result": 1, "enrollment": 1}
    assert grades(engine)[("alg", "u1")] == pytest.approx(104 / 1.1)
    assert set(read(engine).sections["grading_policy"]) == {"points"}
    report = load_path(engine, write(tmp_path / "3", rows))
    assert report.quarantined == 0
    assert grades(engine)[("alg", "u2")] == pytest.approx(78 / 1.1)


def test_changes_that_are_older_than_what_is_known_are_left_out(
    engine: Engine, tmp_path: Path
) -> None:
    load_path(engine, write(tmp_path / "1", source()))
    for name, score, moment in (("new", 7, "2025-10-02T00:00:00Z"), ("old", 3, "2025-10-01 12:00")):
        row = result("r1", "l1", "u1", score, dateLastModified=moment)
        report = load_path(engine, delta(tmp_path / name, {"results": [row]}))

    assert not report.changed
    assert "1 rows of results.csv are older" in report.notes[0]
    assert grades(engine)[("alg", "u1")] == pytest.approx(92 / 1.1)


def test_a_session_that_moves_takes_its_classes_along(engine: Engine, tmp_path: Path) -> None:
    early = source(
        enrollments=[stint("e1", "alg", "u1", end="2025-11-28"), *source()["enrollments"][1:]]
    )
    load_path(engine, write(tmp_path / "1", early))
    assert _enrollment(engine, "alg", "u1")["outcome"] == "withdrawn"
    load_path(engine, delta(tmp_path / "2", {"academicSessions": [session(end="2025-12-05")]}))

    assert set(read(engine).sections["ends_on"]) == {pd.Timestamp("2025-12-05")}
    assert _enrollment(engine, "alg", "u1")["outcome"] is None


def test_a_new_maximum_changes_the_scores(engine: Engine, tmp_path: Path) -> None:
    load_path(engine, write(tmp_path / "1", source()))
    load_path(engine, delta(tmp_path / "2", {"lineItems": [item("l1", "alg", "hw", 20)]}))

    assert grades(engine)[("alg", "u1")] == pytest.approx(94 / 1.2)


@pytest.mark.parametrize("id_", ["x" * 256, "tab\there"])
def test_ids_that_the_gradebook_cannot_hold_are_refused_with_the_limit(
    engine: Engine, tmp_path: Path, id_: str
) -> None:
    rows = source()
    rows["users"].append({"sourcedId": id_, "role": "student"})
    rows["enrollments"].append(stint(f"e{id_}", "alg", id_))
    rows["results"].append(result(f"r{id_}", "l1", id_, 5))
    report = load_path(engine, write(tmp_path / "bulk", rows))

    assert report.rejected == {"student": 1, "enrollment": 1, "result": 1}
    assert all("255 characters" in r or "control character" in r for *_, r in _reasons(engine))
    longest = "\u0416" * 255
    rows = source()
    rows["users"].append({"sourcedId": longest, "role": "student"})
    rows["enrollments"].append(stint(longest, "alg", longest))
    assert load_path(engine, write(tmp_path / "longest", rows)).loaded["student"] == 1
