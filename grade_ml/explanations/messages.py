"""The sentences of narratives and what-ifs: one catalogue per language, to write and to read back.

A catalogue is a file in `catalogues/`: sentences with slots. `{name:.1f}` is a number with one
decimal, `{name:+.1f}` a number with its sign, `{name}` a theme or another text. Other modules
choose the sentences.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache, cached_property
from importlib.resources import files

from grade_ml.core.errors import ConfigurationError

_FOLDER = files("grade_ml.explanations") / "catalogues"
#: A slot of a message: its name, and how a number is written.
_SLOT = re.compile(r"\{(\w+)(?::(\+?\.\df))?\}")
_NUMBER = r"[+-]?\d+(?:[.,]\d+)?"


class Reader(StrEnum):
    """Who reads a narrative."""

    STUDENT = "student"
    ADVISER = "adviser"
    ANALYST = "analyst"


@dataclass(frozen=True)
class Message:
    """One sentence of a catalogue, or a part of a sentence."""

    text: str

    @cached_property
    def slots(self) -> list[tuple[str, str]]:
        """The slots in order: name, and the format of a number or an empty text."""
        return [(slot[1], slot[2] or "") for slot in _SLOT.finditer(self.text)]

    def pattern(self, themes: Mapping[str, str]) -> re.Pattern[str]:
        """Return the pattern of the sentence with any values in its slots."""
        return _pattern(self.text, tuple(sorted(themes.values(), key=len, reverse=True)))


@cache
def _pattern(text: str, themes: tuple[str, ...]) -> re.Pattern[str]:
    def of_slot(name: str, spec: str) -> str:
        if spec:
            return f"({_NUMBER})"
        return f"({'|'.join(map(re.escape, themes))})" if name.startswith("theme") else "(.+?)"

    parts, last = [], 0
    for slot in _SLOT.finditer(text):
        parts += [re.escape(text[last : slot.start()]), of_slot(slot[1], slot[2])]
        last = slot.end()
    return re.compile("".join([*parts, re.escape(text[last:]), "(?= |$)"]))


@dataclass(frozen=True)
class Catalogue:
    """The messages of one language.

    Attributes
    ----------
    decimal
        The decimal separator.
    themes
        What each `Theme` is called.
    messages
        By section of the catalogue, such as the reader, and by kind.
    """

    decimal: str
    themes: Mapping[str, str]
    messages: Mapping[str, Mapping[str, Message]]

    def write(self, section: str, kind: str, slots: Mapping[str, float | str]) -> str:
        """Return the sentence `kind` with its slots filled."""
        text = self.messages[section][kind].text
        return _SLOT.sub(lambda slot: self._filled(slots[slot[1]], slot[2] or ""), text)

    def _filled(self, value: float | str, spec: str) -> str:
        if isinstance(value, str):
            return self.themes.get(value, value)
        # Zero is never written as "-0".
        text = format(float(format(value, spec)) + 0.0, spec)
        return text.replace(".", self.decimal)

    def matches(self, text: str, stored: float | str, spec: str) -> bool:
        """Return whether a text that was read back has the stored value."""
        if isinstance(stored, str):
            return text == self.themes.get(stored, stored)
        return float(text.replace(self.decimal, ".")) == float(format(stored, spec))


@cache
def languages() -> tuple[str, ...]:
    """Return the languages that have a catalogue."""
    return tuple(sorted(path.name.removesuffix(".toml") for path in _FOLDER.iterdir()))


@cache
def catalogue(language: str) -> Catalogue:
    """Return the catalogue of `language`.

    Raises
    ------
    ConfigurationError
        There is no such catalogue.
    """
    if language not in languages():
        raise ConfigurationError(
            f"There is no message catalogue of the language {language!r}.",
            f"Choose one of {', '.join(languages())}, or add a catalogue beside theirs.",
        )
    words = tomllib.loads((_FOLDER / f"{language}.toml").read_text(encoding="utf-8"))
    messages = {
        section: {kind: Message(text) for kind, text in texts.items()}
        for section, texts in words.items()
        if section not in ("decimal", "themes")
    }
    return Catalogue(words["decimal"], words["themes"], messages)
