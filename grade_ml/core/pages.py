"""Reports as single HTML files that need nothing else, so that they can be mailed.

What stands in them, and where they are kept, is each room's own matter; every text is escaped here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from grade_ml.core.figures import png
from grade_ml.core.texts import html as escape

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#222}
table{border-collapse:collapse;font-size:13px}td,th{padding:.2em .7em;text-align:left;
border-bottom:1px solid #ddd}img{max-width:100%}.score{font-size:2.2em}
"""


def page(title: str, body: Iterable[str]) -> str:
    """Return a whole page; `body` is HTML, `title` any text."""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}'
        f"</title><style>{_STYLE}</style></head><body>{''.join(body)}</body></html>"
    )


def image(figure: Figure, title: str) -> str:
    """Return a picture that is part of the page; who cannot see it reads `title`."""
    return f'<img alt="{escape(title)}" src="data:image/png;base64,{png(figure)}">'


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a table whose columns are those of any row; a cell that a row lacks is empty."""
    if not rows:
        return "<p>Nothing yet.</p>"
    names = list(dict.fromkeys(name for one in rows for name in one))
    head = "".join(f"<th>{escape(str(name))}</th>" for name in names)
    body = "".join(_row(one.get(name) for name in names) for one in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _row(values: Iterable[Any]) -> str:
    cells = (
        "" if v is None else f"{v:.3f}".rstrip("0").rstrip(".") if isinstance(v, float) else str(v)
        for v in values
    )
    return f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
