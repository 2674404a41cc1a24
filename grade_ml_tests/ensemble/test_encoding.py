import json

import numpy as np
import pandas as pd

from grade_ml.ensemble.encoding import Encoder, attributes

FRAME = pd.DataFrame(
    {
        "level": np.array([1.0, np.nan, 3.0], dtype="float32"),
        "course_id": pd.Categorical(["B", "A", "B"]),
        "attribute_gender": pd.Categorical(["F", "M", "F"]),
        "attribute_Region": pd.Categorical(["north", None, "south"]),
        "attribute_credits": np.array([60, 30, 60], dtype="float32"),
    }
)


def test_protected_attributes_are_left_out_whatever_their_case() -> None:
    assert attributes(FRAME, ["Gender", "region"]) == (["attribute_credits"], [])
    assert attributes(FRAME, []) == (
        ["attribute_credits"],
        ["attribute_Region", "attribute_gender"],
    )


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


def test_ten_thousand_categories_keep_the_frequent_ones() -> None:
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
