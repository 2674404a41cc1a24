"""Empty figures and colours that all pictures share; what is drawn is each room's own matter."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Literal

from grade_ml.core.texts import line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Characters of a title that a figure of usual size holds.
_TITLE = 60
BLUE, GREY = "#2f6db3", "#9aa5b1"
#: Told apart by readers who see few colours (Okabe & Ito 2008).
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")


def canvas(title: str, x_label: str, y_label: str) -> tuple[Figure, Axes]:
    """Return a figure of usual size with one panel."""
    figure = blank((6, 3.4))
    axes = figure.add_subplot()
    axes.set_title(heading(title), fontsize=11, loc="left")
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def heading(title: str) -> str:
    """Return a title or label in one line, shortened: an id may be wider than the figure."""
    return line(title, _TITLE)


def blank(
    inches: tuple[float, float], layout: Literal["constrained"] | None = "constrained"
) -> Figure:
    """Return a figure without panels."""
    import matplotlib as mpl

    # What stands between two dollar signs in a title is no formula, and might be a wrong one.
    mpl.rcParams["text.parse_math"] = False
    # A Figure of its own, not pyplot: no global state, so it works in any thread and process.
    from matplotlib.figure import Figure

    return Figure(figsize=inches, dpi=90, layout=layout)


def png(figure: Figure) -> str:
    """Return the picture as base64 of a PNG, to be put into a page."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return base64.b64encode(buffer.getvalue()).decode()
