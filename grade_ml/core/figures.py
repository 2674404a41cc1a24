"""Empty figures and colours that all pictures share; what is drawn is each room's own matter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

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
    """Return the title, shortened: an id in it may be wider than the figure."""
    return title if len(title) <= _TITLE else f"{title[: _TITLE - 1]}…"


def blank(
    inches: tuple[float, float], layout: Literal["constrained"] | None = "constrained"
) -> Figure:
    """Return a figure without panels."""
    # A Figure of its own, not pyplot: no global state, so it works in any thread and process.
    from matplotlib.figure import Figure

    return Figure(figsize=inches, dpi=90, layout=layout)
