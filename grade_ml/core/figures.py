"""Empty figures and colours that all pictures share; each package draws its own pictures.

A picture that would show nothing (no value, a single dot, the same value everywhere) is not drawn:
a sentence replaces it. `Nothing` is that sentence, and `as_sentence` the rule.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from grade_ml.core.texts import line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Characters of a title that a figure of usual size holds.
_TITLE = 60
BLUE, GREY = "#2f6db3", "#9aa5b1"
#: Colours that readers with colour blindness can distinguish (Okabe & Ito 2008).
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")


@dataclass(frozen=True)
class Nothing:
    """A sentence that replaces a picture that would show no more than the sentence."""

    words: str


Picture: TypeAlias = "Figure | Nothing"


def as_sentence(
    name: str, points: Sequence[tuple[Any, float | None]], unit: str = "", spot: str = "day"
) -> Nothing | None:
    """Return a sentence that replaces a picture of the points, `None` if they need a picture.

    Parameters
    ----------
    name
        Of what is drawn, such as "Score".
    points
        (place on the other axis, value) in order; None is no value.
    unit
        Of the values, as written after a number.
    spot
        What one place is: a day, a term.

    >>> as_sentence("Score", [("2024-01-01", 75.0)], " of 100").words
    'Score: 75 of 100 (2024-01-01). A picture needs a second day.'
    >>> as_sentence("Score", [("2024-01-01", 75.0), ("2024-01-08", 75.0)]).words
    'Score: 75 from 2024-01-01 to 2024-01-08, without change.'
    """
    known = [(where, value) for where, value in points if value is not None]
    if not known:
        return Nothing(f"{name}: nothing is known yet.")
    (first, value), (last, _) = known[0], known[-1]
    shown = f"{name}: {value:,.4g}{unit}"
    if first == last:
        return Nothing(f"{shown} ({_place(first)}). A picture needs a second {spot}.")
    if all(recorded == value for _, recorded in known):
        return Nothing(f"{shown} from {_place(first)} to {_place(last)}, without change.")
    return None


def _place(where: Any) -> str:
    return f"{where:%Y-%m-%d %H:%M}" if isinstance(where, datetime) else str(where)


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

    # Text between two dollar signs in a title is no formula; as a formula it might be invalid.
    mpl.rcParams["text.parse_math"] = False
    # A Figure of its own, not pyplot: no global state, so it works in any thread and process.
    from matplotlib.figure import Figure

    return Figure(figsize=inches, dpi=90, layout=layout)


def dated(axes: Axes) -> None:
    """Write below the axes as much of each date as distinguishes it from the others."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    locator = AutoDateLocator(maxticks=8)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]


def thousands(value: float, _: object = None) -> str:
    """Return a number on an axis.

    >>> thousands(30000.0), thousands(0.5)
    ('30,000', '0.5')
    """
    return f"{value:,.10g}"


def png(figure: Figure) -> str:
    """Return the picture as base64 of a PNG, to be put into a page."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return base64.b64encode(buffer.getvalue()).decode()
