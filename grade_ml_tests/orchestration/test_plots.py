from __future__ import annotations

import base64
from collections.abc import Callable
from datetime import date

import pytest
from dagster import MarkdownMetadataValue, TableRecord

from grade_ml.orchestration import plots

PREFIX = "(data:image/png;base64,"


def png(value: MarkdownMetadataValue) -> bytes:
    picture = value.value[value.value.index(PREFIX) + len(PREFIX) : -1]
    return base64.b64decode(picture, validate=True)


@pytest.mark.parametrize(
    "draw",
    [
        lambda: plots.bars("b", [(f"term {n}", n) for n in range(40)], "n"),
        lambda: plots.bars("b", [], "n"),
        lambda: plots.line("l", [(date(2024, 1, 1), 3), (date(2024, 1, 8), 5)], "n"),
        lambda: plots.line("l", [], "n"),
        lambda: plots.timelines(
            "t", {f"s{n}": [(date(2024, 1, n + 1), None, False)] for n in range(6)}
        ),
        lambda: plots.timelines("t", {"s": [(date(2024, 1, n), n, n < 9) for n in range(1, 31)]}),
        lambda: plots.timelines("t", {}),
        lambda: plots.calibration("c", [0.1, 0.9], [0.2, 0.8]),
        lambda: plots.agreement("a", [50.0, 60.0], [55.0, 70.0]),
        lambda: plots.agreement("a", [], []),
        lambda: plots.histories(
            "h", {"grade": {"a": [(0, 100.0), (3, 98.0)], "b": []}, "risk": {}}
        ),
        lambda: plots.histories("h", {}),
        lambda: plots.shares(
            "s", {"grade": {"a": {"x": 0.7, "y": 0.3}, "b": {}}, "risk": {"b": {}}}
        ),
        lambda: plots.shares("s", {}),
    ],
)
def test_a_picture_is_a_small_png_with_a_title(draw: Callable[[], MarkdownMetadataValue]):
    picture = draw()
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
