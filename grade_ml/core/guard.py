"""Which requests a web server of this machine answers: its own pages', and scripts'.

A browser sends any request that a page makes, also to 127.0.0.1. What it adds about the page
(Origin, the Sec-Fetch headers) no page can change, and what a name resolves to is the page's
owner's choice (DNS rebinding), so the Host counts too. Only headers are looked at here; who serves
what is decided by the servers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

#: By these names the machine reaches itself; no name server can give them another meaning.
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
HOST_NAME = r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?"
_HOST = re.compile(rf"(?:({HOST_NAME})|\[([0-9a-f:.]+)\])(?::[0-9]{{1,5}})?", re.ASCII)
_READING = ("GET", "HEAD")
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


class Refusal(NamedTuple):
    """Why a request is not answered: a status of HTTP, and a message for its sender."""

    status: int
    reason: str


@dataclass(frozen=True)
class Guard:
    """Decides by the headers of a request whether it is answered.

    Parameters
    ----------
    hosts
        The names under which the server accepts requests, in lower case, without a port.
    content_types
        What a body may be. One that forms cannot send makes browsers ask for leave first when a
        foreign page wants to send it, and that is never given.
    """

    hosts: frozenset[str] = LOOPBACK
    content_types: frozenset[str] = frozenset({"application/json"})

    def refusal(self, method: str, headers: Iterable[tuple[str, str]]) -> Refusal | None:
        """Return why a request is refused, or None; the handshake of a WebSocket is a GET.

        >>> Guard().refusal("GET", [("Host", "localhost:3000")])
        >>> Guard().refusal("GET", [("Host", "rebound.example")]).status
        421
        >>> Guard().refusal("GET", [("Host", "localhost"), ("Origin", "null")]).status
        403
        """
        values_by_name: dict[str, list[str]] = {}
        for name, value in headers:
            values_by_name.setdefault(name.lower(), []).append(value.strip())
        repeated = [name for name in _DECIDING if len(values_by_name.get(name, ())) > 1]
        if repeated:
            return Refusal(400, f"The request has the header {repeated[0]} more than once.")
        values = {name: values_by_name.get(name, [""])[0].lower() for name in _DECIDING}
        return (
            self._foreign_host(values["host"])
            or _foreign_page(method, values, has_origin="origin" in values_by_name)
            or self._foreign_body(method, values["content-type"])
        )

    def _foreign_host(self, host: str) -> Refusal | None:
        matched = _HOST.fullmatch(host)
        if matched and (matched[1] or matched[2]) in self.hosts:
            return None
        return Refusal(421, "The Host of the request is not a name of this server.")

    def _foreign_body(self, method: str, content_type: str) -> Refusal | None:
        if method in _READING or content_type.partition(";")[0].strip() in self.content_types:
            return None
        accepted = " or ".join(sorted(self.content_types))
        return Refusal(415, f"The Content-Type of what is sent must be {accepted}.")


_DECIDING = (
    "host",
    "origin",
    "content-type",
    "sec-fetch-site",
    "sec-fetch-mode",
    "sec-fetch-dest",
)


def _foreign_page(method: str, values: dict[str, str], has_origin: bool) -> Refusal | None:
    if has_origin and not _is_own(values["origin"], values["host"]):
        return Refusal(403, "A page of another origin sent this.")
    if values["sec-fetch-site"] in ("", "same-origin", "none") or _follows_link(method, values):
        return None
    return Refusal(403, "A page of another site sent this request.")


def _is_own(origin: str, host: str) -> bool:
    scheme, _, place = origin.partition("://")
    port = _DEFAULT_PORTS.get(scheme)
    return port is not None and place.removesuffix(port) == host.removesuffix(port)


def _follows_link(method: str, values: dict[str, str]) -> bool:
    """Return whether a whole tab goes there, whose content the page it comes from never sees."""
    whole_tab = values["sec-fetch-mode"] == "navigate" and values["sec-fetch-dest"] == "document"
    return method in _READING and whole_tab
