"""Requests and answers of the providers' modules; `server` handles HTTP."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from grade_ml.campus.providers.misbehaviour import Mode

JSON = "application/json"


@dataclass(frozen=True)
class Query:
    """One request.

    Parameters
    ----------
    parts
        The path below the provider's own, split at its slashes.
    parameters
        The query string; a parameter given several times has its values joined by commas.
    body
        The body of a POST.
    headers
        The request's headers, their names in lower case.
    url
        The requested URL, without the query string.
    mode
        How to misbehave, if the provider itself implements it.
    """

    parts: tuple[str, ...]
    parameters: Mapping[str, str]
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    url: str = ""
    mode: Mode | None = None


@dataclass(frozen=True)
class Answer:
    """A body with its type and status, and headers besides the usual ones."""

    body: bytes
    content_type: str = JSON
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()


class RefusedError(Exception):
    """The request cannot be met; has the answer with which the provider refuses it."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.body.decode())
        self.answer = answer


def as_json(value: Any, status: int = 200) -> Answer:
    """Return `value` as an answer in JSON."""
    return Answer(json.dumps(value, ensure_ascii=False).encode(), status=status)


def as_text(text: str, content_type: str, status: int = 200) -> Answer:
    """Return `text` as an answer in UTF-8."""
    return Answer(text.encode(), f"{content_type}; charset=utf-8", status)
