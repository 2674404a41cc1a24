r"""Loaded text on its way to people: one function for each channel, so that it stays a text.

Titles, ids and attributes come from other systems and may hold any text. Code that puts one into a
mail, a chat, a page, a picture or a terminal passes it through the function of that channel:
characters that steer what shows them are taken out, the channel's own marks are escaped, and what
is too long for it is cut.

>>> slack("<!channel> a & b")
'&lt;!channel&gt; a &amp; b'
>>> markdown("[x](javascript:y)")
'\\[x\\]\\(javascript\\:y\\)'
>>> line("a\r\nBcc: b")
'a Bcc: b'
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable
from html import escape
from itertools import accumulate
from textwrap import fill
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.text import Text

#: What no text may hold (patterns for Python and for RE2): it steers terminals and turns the
#: direction of what follows. Tabs and line ends are left: spreadsheets write them into titles.
STEERING = "[\\x00-\\x08\\x0b\\x0c\\x0e-\\x1f\\x7f-\\x9f\u202a-\u202e]"
#: Marks and isolates, which texts in Hebrew or Arabic hold rightly; a line does without them.
DIRECTIONS = "[\u061c\u200e\u200f\u2066-\u2069]"
#: What no id may hold: in tables and messages two ids that differ must look different.
UNSEEN = "[\\x00-\\x1f\\x7f-\\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]"

#: Slack accepts no longer text in one section of a message.
SLACK_SECTION = 3000
#: Characters of a line in a mail's subject, a log or a picture.
LONGEST_LINE = 500

_GONE = re.compile(DIRECTIONS)
_SHOWN_AS_UNKNOWN = re.compile(STEERING.replace("[", r"[\ud800-\udfff", 1))
_LINE_ENDS = re.compile(r"\r\n?|[\u2028\u2029]")
_ITEM = re.compile(r"(-|\d+\.) ")
_MENTION = re.compile(r"@(?=(?:channel|here|everyone|all|group)\b)", re.IGNORECASE)
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_PUNCTUATION = re.compile(r"([!-/:-@\[-`{-~])")


def readable(text: object, most: int | None = None) -> str:
    """Return the text without what steers a terminal or a reading direction, cut to `most`."""
    plain = _SHOWN_AS_UNKNOWN.sub("\ufffd", _LINE_ENDS.sub("\n", _GONE.sub("", str(text))))
    return plain if most is None or len(plain) <= most else f"{plain[: most - 1]}…"


def line(text: object, most: int = LONGEST_LINE) -> str:
    """Return the text as one line."""
    return readable(" ".join(readable(text).split()), most)


def note(reason: str) -> str:
    """Return the reason as a note; it may be a whole sentence, or several, with its own full stop.

    >>> note("the mean answers: No model has been trained yet."), note("Optuna is not installed")
    ('Note: the mean answers: No model has been trained yet.', 'Note: Optuna is not installed.')
    """
    return f"Note: {reason.rstrip('.')}."


def wrapped(text: str, width: int) -> str:
    r"""Return the text with paragraphs broken into lines of at most `width` characters.

    Words stay whole. Two blanks in a row separate the columns of a table: only the last column of a
    row is broken, below its beginning.

    >>> print(wrapped("- The grade was not predicted.\ndisk    98  7 GB are free.", 24))
    - The grade was not
      predicted.
    disk    98  7 GB are
                free.
    """
    return "\n".join(_wrapped(paragraph, width) for paragraph in text.split("\n"))


def _wrapped(paragraph: str, width: int) -> str:
    before, columns, last = paragraph.rpartition("  ")
    columns = before + columns
    if len(paragraph) <= width or len(columns) > width / 2:
        return paragraph
    item = _ITEM.match(paragraph)
    return fill(
        last,
        width,
        initial_indent=columns,
        subsequent_indent=" " * (len(columns) or len(item[0] if item else "")),
        break_long_words=False,
        break_on_hyphens=False,
    )


def slack(text: object, most: int = SLACK_SECTION) -> str:
    """Return the text for Slack and what takes its format: no link, no mention, within `most`."""
    calm = _MENTION.sub("@\u2060", readable(text))
    parts = [_ENTITIES.get(character, character) for character in calm]
    ends = list(accumulate(map(len, parts)))
    if not ends or ends[-1] <= most:
        return "".join(parts)
    return "".join(parts[: bisect_right(ends, most - 1)]) + "…"


def markdown(text: object) -> str:
    """Return the text as one line of Markdown that shows it unchanged; HTML in it is text, too."""
    return _PUNCTUATION.sub(r"\\\1", line(text))


def bullets(texts: Iterable[object]) -> str:
    """Return the texts as a list in Markdown, `none` where there are none."""
    return "\n".join(f"- {markdown(text)}" for text in texts) or "none"


def block(text: object) -> str:
    """Return lines as they are, in Markdown; the fence is longer than any in them."""
    plain = readable(text)
    longest = max((len(backticks) for backticks in re.findall(r"`+", plain)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{plain}\n{fence}"


def html(text: object) -> str:
    """Return the text for HTML, inside elements and quoted attributes."""
    return escape(readable(text))


def terminal(text: object) -> Text:
    """Return the text for rich: square brackets in it are no markup."""
    from rich.text import Text

    return Text(readable(text))
