import json

import numpy as np
import pandas as pd

from grade_ml.ensemble.encoding import Encoder, attributes

FRAME = pd.DataFrame(
    {
        "level": np.array([1.0, np.nan, 3.0], dtype="float32"),
        "course_id": pd.Categorical(["B", "A", "B"]),
        "protected_gender": pd.Categorical(["F", "M", "F"]),
        "attribute_Region": pd.Categorical(["north", None, "south"]),
        "attribute_studied_credits": np.array([60, 30, 60], dtype="float32"),
    }
)


def test_protected_attributes_are_left_out() -> None:
    frame = FRAME.assign(student_id=["a", "b", "c"], attribute_Region="north")
    assert attributes(frame) == (["attribute_studied_credits"], ["attribute_Region"])


def test_texts_of_which_each_student_has_another_are_left_out() -> None:
    students = [f"s{i // 3}" for i in range(300)]
    frame = pd.DataFrame(
        {
            "student_id": students,
            "attribute_address": [f"{name} High Street" for name in students],
            "attribute_city": [f"city {i // 3 % 40}" for i in range(300)],
            # A number is no name: a grade is another for each student, and identifies no student.
            "attribute_prior_grade": np.arange(300, dtype="float32"),
            # Known of few, and another for each of them.
            "attribute_nickname": [name if i < 30 else None for i, name in enumerate(students)],
        }
    )
    assert attributes(frame) == (["attribute_prior_grade"], ["attribute_city"])


def test_unknown_and_missing_values_become_nan() -> None:
    encoder = Encoder.fit(FRAME, ["level"], ["course_id", "attribute_Region"])
    assert encoder.features == ("level", "course_id", "attribute_Region")
    np.testing.assert_array_equal(
        encoder.transform(FRAME), [[1, 1, 0], [np.nan, 0, np.nan], [3, 1, 1]]
    )
    new = pd.DataFrame({"level": ["4", "x"], "course_id": ["C", "A"]})
    np.testing.assert_array_equal(
        encoder.transform(new), [[4, np.nan, np.nan], [np.nan, 0, np.nan]]
    )


def test_an_encoder_survives_storage() -> None:
    encoder = Encoder.fit(FRAME, ["level"], ["course_id", "attribute_Region"])
    again = Encoder.from_dict(json.loads(json.dumps(encoder.to_dict(), sort_keys=True)))
    assert again == encoder
    assert again.features == encoder.features


def test_of_ten_thousand_categories_the_frequent_stay() -> None:
    names = [f"v{i}" for i in range(10_000)] + ["common"] * 5
    encoder = Encoder.fit(pd.DataFrame({"a": names}), [], ["a"])
    assert len(encoder.categories["a"]) == 100
    assert "common" in encoder.categories["a"]


def test_a_column_without_any_value_is_kept_as_missing() -> None:
    frame = pd.DataFrame({"a": pd.Categorical([None, None])})
    encoder = Encoder.fit(frame, [], ["a"])
    assert np.isnan(encoder.transform(frame)).all()


def test_no_rows_make_an_empty_matrix() -> None:
    encoder = Encoder.fit(FRAME, ["level"], ["course_id"])
    assert encoder.transform(FRAME[:0]).shape == (0, 2)
