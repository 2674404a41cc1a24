"""Pictures show titles and labels as they are, whatever characters they hold."""

from __future__ import annotations

import base64

import pytest

from grade_ml.core.figures import canvas, heading, png
from grade_ml_tests.core.test_texts import HOSTILE

pytestmark = pytest.mark.security

FORMULAS = ["$\\frac{1}{$", "$x", "a $\\alpha$ b"]


@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.parametrize(
    "title", ["$\\frac{1}{$", "$x", "a $\\alpha$ b", "x" * 5000, "\n" * 50, *HOSTILE]
)
def test_no_title_or_label_is_read_as_a_formula_or_breaks_the_picture(title: str):
    figure, axes = canvas(title, heading(title), "")
    axes.barh([heading(title)], [1])
    axes.set_xticks([0], [heading(title)])
    assert base64.b64decode(png(figure)).startswith(b"\x89PNG")
    assert axes.get_title("left") == heading(title) and len(heading(title)) <= 60
