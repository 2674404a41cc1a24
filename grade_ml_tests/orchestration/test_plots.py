from __future__ import annotations

import base64
from collections.abc import Callable
from datetime import date

import pytest
from dagster import MarkdownMetadataValue

from grade_ml.orchestration import plots

PREFIX = "(data:image/png;base64,"


def png(value: MarkdownMetadataValue) -> bytes:
    picture = value.value[value.value.index(PREFIX) + len(PREFIX) : -1]
    return base64.b64decode(picture, validate=True)


DAYS = [date(2024, 1, n) for n in range(1, 31)]


@pytest.mark.parametrize(
    "draw",
    [
        lambda: plots.bars("b", [(f"term {n}", n) for n in range(40)], "n"),
        lambda: plots.line("l", [(DAYS[0], 3), (DAYS[7], 5)], "n"),
        lambda: plots.timelines("t", {"s": [(day, day.day, day.day < 9) for day in DAYS]}),
        lambda: plots.calibration("c", [0.1, 0.5, 0.9], [0.2, 0.5, 0.8]),
        lambda: plots.agreement("a", [50.0 + n for n in range(10)], [55.0] * 10),
        lambda: plots.histories(
            "h", {"grade": {"a": [(0, 100.0), (3, 98.0)], "b": []}, "risk": {}}
        ),
        lambda: plots.shares(
            "s", {"grade": {"a": {"x": 0.7, "y": 0.3}, "b": {}}, "risk": {"b": {}}}
        ),
    ],
)
def test_a_picture_is_a_small_png_with_a_title(draw: Callable[[], MarkdownMetadataValue]):
    picture = draw()
    assert picture.value.startswith("![")
    assert png(picture).startswith(b"\x89PNG\r\n")
    assert len(picture.value) < 60_000


@pytest.mark.parametrize(
    ("drawn", "words"),
    [
        (plots.bars("b", [], "n"), "nothing is known yet"),
        (plots.bars("b", [("2024", 7)], "n", "term"), "7 n (2024). A picture needs a second term"),
        (plots.bars("b", [("x", 3), ("y", 3)], "n"), "3 n from x to y, without change"),
        (plots.line("l", [], "n"), "nothing is known yet"),
        (plots.line("l", [(DAYS[0], 3)], "n"), "a second day"),
        (plots.line("l", [(DAYS[0], 3), (DAYS[1], 3)], "n"), "without change"),
        (plots.timelines("t", {}), "nothing is known yet"),
        (plots.timelines("t", {"s": [(day, None, False) for day in DAYS]}), "s: nothing is known"),
        (plots.timelines("t", {"s": [(day, 2.5, False) for day in DAYS]}), "s: 2.5 from"),
        (plots.calibration("c", [0.3, 0.3], [0.2, 0.4]), "needs 3 different risks"),
        (plots.calibration("c", [], []), "there are 0"),
        (plots.agreement("a", [50.0], [55.0]), "needs 10 known grades"),
        (plots.histories("h", {}), "no search tried"),
        (plots.histories("h", {"grade": {"a": [(0, 100.0)]}}), "no search tried"),
        (plots.shares("s", {"grade": {"a": {}}}), "too few trials"),
    ],
)
def test_what_shows_nothing_is_not_drawn(drawn: MarkdownMetadataValue, words: str):
    assert "image" not in drawn.value
    assert words in drawn.value.replace("\\", "")


def test_a_series_without_values_is_named_below_the_others():
    drawn = plots.timelines(
        "t",
        {
            "temperature": [(day, day.day, True) for day in DAYS],
            "mood": [(day, None, False) for day in DAYS],
        },
    )
    picture, _, words = drawn.value.partition("\n\n")
    assert picture.startswith("![t](data:image/png") and "mood" in words
    assert "temperature" not in words


def test_a_scale_fits_its_bars():
    low, high = (plots.bars("b", [("x", height), ("y", 1)], "n") for height in (2, 2000))
    assert low.value != high.value


def test_a_gap_is_shown():
    days = [date(2024, 1, n) for n in range(1, 31)]
    whole = plots.timelines("t", {"s": [(day, day.day, True) for day in days]})
    gap = plots.timelines(
        "t", {"s": [(day, None if day.day == 9 else day.day, True) for day in days]}
    )
    assert whole.value != gap.value


def test_a_table_has_the_columns_of_any_of_its_rows():
    rows = [{"course": "a"}, {"course": "b", "rmse": 3.14159}, {"rmse": float("nan")}]
    (first, second, third) = plots.table(rows).records
    assert first.data == {"course": "a", "RMSE (points)": None}
    assert second.data == {"course": "b", "RMSE (points)": 3.14}
    assert third.data == {"course": None, "RMSE (points)": None}
    assert plots.table([]).text == "none"
