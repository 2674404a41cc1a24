from __future__ import annotations

import base64
from datetime import date

import pytest
from dagster import MarkdownMetadataValue, TableRecord

from grade_ml.orchestration import plots

PREFIX = "(data:image/png;base64,"


def png(value: MarkdownMetadataValue) -> bytes:
    picture = value.value[value.value.index(PREFIX) + len(PREFIX) : -1]
    return base64.b64decode(picture, validate=True)


@pytest.mark.parametrize(
    "picture",
    [
        plots.bars("b", [(f"term {n}", n) for n in range(40)], "n"),
        plots.bars("b", [], "n"),
        plots.line("l", [(date(2024, 1, 1), 3), (date(2024, 1, 8), 5)], "n"),
        plots.line("l", [], "n"),
        plots.timelines("t", {f"s{n}": [(date(2024, 1, n + 1), None, False)] for n in range(6)}),
        plots.timelines("t", {"s": [(date(2024, 1, n), n, n < 9) for n in range(1, 31)]}),
        plots.timelines("t", {}),
        plots.calibration("c", [0.1, 0.9], [0.2, 0.8]),
        plots.agreement("a", [50.0, 60.0], [55.0, 70.0]),
        plots.agreement("a", [], []),
        plots.histories("h", {"grade": {"a": [(0, 100.0), (3, 98.0)], "b": []}, "risk": {}}),
        plots.histories("h", {}),
        plots.shares("s", {"grade": {"a": {"x": 0.7, "y": 0.3}, "b": {}}, "risk": {"b": {}}}),
        plots.shares("s", {}),
    ],
)
def test_a_picture_is_a_small_png_with_a_title(picture: MarkdownMetadataValue):
    assert picture.value.startswith("![")
    assert png(picture).startswith(b"\x89PNG\r\n")
    assert len(picture.value) < 60_000


def test_a_scale_fits_its_bars():
    low, high = (plots.bars("b", [("x", height), ("y", 1)], "n") for height in (2, 2000))
    assert low.value != high.value


def test_a_gap_is_shown():
    days = [date(2024, 1, n) for n in range(1, 31)]
    whole = plots.timelines("t", {"s": [(day, 1.0, True) for day in days]})
    gap = plots.timelines("t", {"s": [(day, None if day.day == 9 else 1.0, True) for day in days]})
    assert whole.value != gap.value


def test_a_table_has_the_columns_of_any_of_its_rows():
    rows = [TableRecord({"course": "a"}), TableRecord({"course": "b", "score": 3.0})]
    (first, second) = plots.table(rows).records
    assert first.data == {"course": "a", "score": None}
    assert second.data == {"course": "b", "score": 3.0}
    assert plots.table([]).text == "none"
