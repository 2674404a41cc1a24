"""Reports as single HTML files that need nothing else, so that they can be mailed.

Each package decides what its pages contain and where they are stored; every text is escaped here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from grade_ml.core import quantities
from grade_ml.core.figures import Nothing, Picture, png
from grade_ml.core.texts import html as escape

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


def image(figure: Picture, title: str) -> str:
    """Return a picture that is part of the page; who cannot see it reads `title`."""
    if isinstance(figure, Nothing):
        return f"<p>{escape(figure.words)}</p>"
    return f'<img alt="{escape(title)}" src="data:image/png;base64,{png(figure)}">'


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a table whose columns are those of any row, in words and with their units.

    A cell that a row lacks is empty.
    """
    if not rows:
        return "<p>Nothing yet.</p>"
    names = list(dict.fromkeys(name for row in rows for name in row))
    head = "".join(f"<th>{escape(quantities.title(name))}</th>" for name in names)
    body = "".join(_row(quantities.text(name, row.get(name)) for name in names) for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _row(cells: Iterable[str]) -> str:
    return f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
