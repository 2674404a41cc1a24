"""What must not be shown: the secrets that this process has read, hidden in texts for people.

Libraries put the address that they were given into their errors, and an address may hold a
password. The settings register theirs here; `GradeMLError` and the commands mask texts with it.
"""

from __future__ import annotations

import json
import re
from urllib.parse import quote, quote_plus, unquote, unquote_plus

MASK = "***"
#: A shorter password would also match ordinary words; it is hidden only within a URL.
_SHORTEST = 4
_NAME = "pass(?:word|wd|phrase)?|secret|token|credential|api_?key"
_SECRET_NAME = re.compile(_NAME, re.IGNORECASE)
_IN_URL = re.compile(r"(://[^\s/?#:@]*:)[^\s@]*@")
_IN_QUERY = re.compile(rf"([?&]\w*(?:{_NAME})=)[^\s&'\"]+", re.IGNORECASE)
_known: set[str] = set()


def remember(secret: str) -> None:
    """Hide `secret` from now on, however it is written: as it is, in a URL, quoted, as JSON."""
    plain = {secret, unquote(secret), unquote_plus(secret)}
    coded = {coding(text) for text in plain for coding in (quote, _quote_all, quote_plus)}
    written = {form for text in plain | coded for form in (text, repr(text)[1:-1], _json(text))}
    _known.update(form for form in written if len(form) >= _SHORTEST)


def remember_url(url: str) -> None:
    """Hide the password of `url`, before the host or among the parameters, from now on."""
    rest = url.partition("://")[2]
    user, at, _ = rest.partition("@")
    password = user.partition(":")[2]
    if at and password:
        remember(password)
    for name, value in re.findall(r"[?&]([\w.]+)=([^&]*)", rest):
        if _SECRET_NAME.search(name):
            remember(value)


def masked(text: str) -> str:
    """Return `text` without any secret.

    >>> masked("no answer from http://reader:hunter2@ml.example.edu/?token=abcdef&page=2")
    'no answer from http://reader:***@ml.example.edu/?token=***&page=2'
    """
    for secret in sorted(_known, key=len, reverse=True):
        text = text.replace(secret, MASK)
    return _IN_QUERY.sub(rf"\1{MASK}", _IN_URL.sub(rf"\1{MASK}@", text))


def is_ambiguous(url: str) -> bool:
    """Return whether libraries disagree on where the password of `url` ends.

    >>> is_ambiguous("postgresql://user:pass@word@host/db"), is_ambiguous("http://u:a/b@host")
    (True, True)
    >>> is_ambiguous("postgresql://user:pass%40word/1@host/db?sslmode=require")
    False
    """
    scheme, _, rest = url.partition("://")
    user, at, after = rest.partition("@")
    ends = r"[/?#\\]" if scheme.startswith("http") else r":.*\?\w+="
    return bool(at) and ("@" in after or re.search(ends, user) is not None)


def _quote_all(text: str) -> str:
    return quote(text, safe="")


def _json(text: str) -> str:
    return json.dumps(text)[1:-1]
