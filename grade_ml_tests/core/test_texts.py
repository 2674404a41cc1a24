"""Each channel shows any loaded text as a text."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from grade_ml.core import texts
from grade_ml.core.errors import SourceError

pytestmark = pytest.mark.security

HOSTILE = [
    "<!channel>",
    "<http://evil.example|click>",
    "@here",
    "[x](javascript:alert(1))",
    "![x](http://evil.example/pixel.png)",
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "# heading",
    "| a | b |",
    "```",
    "[bold red]x",
    "[/]",
    "[link=http://evil.example]x[/link]",
    "\x1b]8;;http://evil.example\x1b\\x\x1b]8;;\x1b\\",
    "\x1b[2J",
    "\x9b2J",
    "a\r\nBcc: all@example.org",
    "a\u202egnp.exe",
    "a\u2066b",
    "\ud800",
    "\0",
    "$\\frac{1}{0}$",
    "&lt;",
]
#: Such parts, alone and in any order, between any other characters.
anything = st.lists(st.one_of(st.sampled_from(HOSTILE), st.text(max_size=20))).map("".join)

CONTROLS = re.compile(texts.STEERING + "|" + texts.DIRECTIONS + "|[\r\u2028\u2029\ud800-\udfff]")


@given(anything)
def test_no_channel_is_given_what_steers_it(text: str):
    for channel in (
        texts.readable,
        texts.line,
        texts.slack,
        texts.markdown,
        texts.block,
        texts.html,
    ):
        shown = channel(text)
        assert not CONTROLS.search(shown)
        shown.encode()
    assert "\n" not in texts.line(text) and "\n" not in texts.markdown(text)


@given(anything, st.integers(20, 400))
def test_slack_gets_neither_links_nor_mentions_nor_too_much(text: str, most: int):
    shown = texts.slack(text, most)
    assert len(shown) <= most
    assert not re.search(r"[<>]|&(?!(amp|lt|gt);)", shown)
    assert not re.search(r"@(channel|here|everyone)\b", shown)


@given(anything)
def test_markdown_shows_the_text_itself(text: str):
    escaped = texts.markdown(text)
    # Every ASCII punctuation mark is escaped, so none of them means anything (CommonMark 2.4).
    assert not re.search(r"(?<!\\)(\\\\)*[!-/:-@\[^-`{-~]", escaped.replace("\\\\", ""))
    assert re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", escaped) == texts.line(text)


@given(anything)
def test_a_block_ends_where_it_should(text: str):
    first, *inside, last = texts.block(text).split("\n")
    assert first == last and not any(first in line for line in inside)


@given(anything)
def test_html_holds_no_element_of_the_text(text: str):
    seen: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attrs):
            seen.append(f"{tag}{sorted(name for name, _ in attrs)}")

    Reader().feed(f'<p title="{texts.html(text)}">{texts.html(text)}</p>')
    assert seen == ["p['title']"]


@given(anything)
def test_a_terminal_shows_brackets_as_brackets(text: str):
    out = StringIO()
    Console(file=out, force_terminal=True, width=10_000, color_system=None).print(
        texts.terminal(text), soft_wrap=True
    )
    shown = out.getvalue()
    assert "\x1b" not in shown
    assert shown.expandtabs().split() == texts.readable(text).expandtabs().split()


@given(anything, anything)
def test_errors_say_what_was_loaded_in_plain_characters(message: str, remedy: str):
    error = SourceError(message, remedy)
    for part in (error.message, error.remedy, str(error)):
        assert not CONTROLS.search(part)
        part.encode()
