"""The HTTP server: serves the providers on loopback, with ETags, and misbehaves on request.

Formats belong to the providers' modules; this module only handles connections.
"""

from __future__ import annotations

import logging
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from grade_ml.campus.providers.answers import Answer, Query, RefusedError, as_text
from grade_ml.campus.providers.misbehaviour import HUGE_BYTES, OWN, Mode, emptied, renamed
from grade_ml.campus.providers.routes import ROUTES, Provider, Route, route
from grade_ml.campus.providers.world import World
from grade_ml.campus.simulated import CampusConfig
from grade_ml.core.errors import ServiceError
from grade_ml.core.guard import Guard
from grade_ml.core.hashing import checksum

HOST = "127.0.0.1"
LABEL = ("X-Simulated", "grade_ml")
_BLOCK = b" " * (1 << 16)
_GUARD = Guard(content_types=frozenset({"application/json", "application/x-www-form-urlencoded"}))

logger = logging.getLogger(__name__)


class Request(NamedTuple):
    """A received request: its provider, and its path with the query string."""

    provider: Provider
    path: str


@dataclass
class _Plan:
    mode: Mode
    times: int | None


class ProviderServer(ThreadingHTTPServer):
    """All providers of one campus.

    `today` may be set while it runs, and later revisions appear. `requests` has all received
    requests. `retry_after` is the pause, in seconds, that a 429 requires.
    """

    def __init__(
        self, config: CampusConfig, today: date, port: int, college: CampusConfig | None = None
    ) -> None:
        super().__init__((HOST, port), _Handler)
        self.config = config
        self.college = college
        self.today = today
        self.requests: list[Request] = []
        self.retry_after = 1
        self._plans: dict[Provider, _Plan] = {}
        self._lock = Lock()

    @property
    def url(self) -> str:
        """The base URL, without a slash at its end."""
        return f"http://{HOST}:{self.server_address[1]}"

    @property
    def world(self) -> World:
        """The world as of today."""
        return World(self.config, self.today, self.college)

    def misbehave(self, provider: str, mode: str, times: int | None = None) -> None:
        """Make a provider misbehave for its next `times` requests, or for all of them."""
        with self._lock:
            self._plans[Provider(provider)] = _Plan(Mode(mode), times)

    def behave(self) -> None:
        """End all misbehaviour."""
        with self._lock:
            self._plans.clear()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log an unexpected error; a client that hangs up is not an error."""
        if not isinstance(sys.exception(), ConnectionError):
            logger.exception("A request could not be answered")

    def note(self, provider: Provider, path: str) -> Mode | None:
        """Record a request; return how to misbehave, if at all."""
        with self._lock:
            self.requests.append(Request(provider, path))
            plan = self._plans.get(provider)
            if plan is None or plan.times == 0:
                return None
            if plan.times is not None:
                plan.times -= 1
            return plan.mode


class _Handler(BaseHTTPRequestHandler):
    server: ProviderServer
    protocol_version = "HTTP/1.1"
    server_version = "grade_ml-providers"
    sys_version = ""
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self._answer("GET", b"")

    def do_POST(self) -> None:
        self._answer("POST", self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def log_message(self, format: str, *args: object) -> None:
        logger.info(format, *args)

    def _answer(self, method: str, body: bytes) -> None:
        refusal = _GUARD.refusal(method, self.headers.items())
        if refusal:
            self._send(as_text(f"Refused: {refusal.reason}", "text/plain", refusal.status))
            return
        url = urlsplit(self.path)
        matched = route(url.path)
        if matched is None:
            self._send(_index() if url.path == "/" else as_text("Not found", "text/plain", 404))
            return
        mode = self.server.note(matched.provider, self.path)
        if mode is Mode.OFF:
            self._reset()
        elif mode is Mode.TOO_MANY_REQUESTS:
            patience = as_text("Too many requests (simulated)", "text/plain", 429)
            self._send(patience, ("Retry-After", str(self.server.retry_after)))
        elif mode is Mode.SERVER_ERROR:
            self._send(as_text("Internal error (simulated)", "text/plain", 500))
        elif mode is Mode.UNAUTHORIZED:
            self._send(as_text("Unauthorized (simulated)", "text/plain", 401))
        elif mode is Mode.HTML_PAGE:
            page = "<!doctype html><title>Please wait (simulated)</title><p>We will be back soon."
            self._send(as_text(page, "text/html"))
        elif method != matched.method:
            self._send(as_text("Method not allowed", "text/plain", 405))
        else:
            self._send_as(mode, matched, self._ask(matched, body, mode))

    def _ask(self, matched: Route, body: bytes, mode: Mode | None) -> Answer:
        url = urlsplit(self.path)
        parts = url.path[len(matched.prefix) :].split("/")
        parameters = parse_qs(url.query, keep_blank_values=True)
        query = Query(
            parts=tuple(unquote(part) for part in parts if part),
            parameters={name: ",".join(values) for name, values in parameters.items()},
            body=body,
            headers={name.lower(): value for name, value in self.headers.items()},
            url=self.server.url + url.path,
            mode=mode,
        )
        try:
            return matched.answer(self.server.world, query)
        except RefusedError as refused:
            return refused.answer

    def _send_as(self, mode: Mode | None, matched: Route, answer: Answer) -> None:
        body, kind, status = answer.body, answer.content_type, answer.status
        if mode is None or mode in OWN:
            self._send_or_304(answer)
            return
        match mode:
            case Mode.WRONG_CONTENT_TYPE:
                self._send(Answer(body, "text/html; charset=utf-8", status))
            case Mode.TRUNCATED:
                self._send(Answer(body[: len(body) // 2], kind, status))
            case Mode.CHANGED_FIELD:
                self._send(Answer(renamed(body, matched.field), kind, status))
            case Mode.NULLS:
                self._send(Answer(emptied(body, kind, matched.field), kind, status))
            case Mode.TIMEOUT:
                self._stall(answer)
            case Mode.HUGE:
                self._send_huge(answer)

    def _send_or_304(self, answer: Answer) -> None:
        if self.command != "GET" or answer.status != 200:
            self._send(answer)
            return
        tag = f'"{checksum(answer.body)[:32]}"'
        known = self.headers.get("If-None-Match", "")
        if tag in [given.strip().removeprefix("W/") for given in known.split(",")]:
            self._head(304, ("ETag", tag))
        else:
            self._send(answer, ("ETag", tag))

    def _send(self, answer: Answer, *headers: tuple[str, str]) -> None:
        length = ("Content-Length", str(len(answer.body)))
        kind = ("Content-Type", answer.content_type)
        self._head(answer.status, kind, length, *answer.headers, *headers)
        self.wfile.write(answer.body)

    def _head(self, status: int, *headers: tuple[str, str]) -> None:
        self.send_response(status)
        for name, value in (LABEL, *headers):
            self.send_header(name, value)
        self.end_headers()

    def _stall(self, answer: Answer) -> None:
        """Send half of the body, then wait until the client gives up."""
        length = ("Content-Length", str(len(answer.body)))
        self._head(answer.status, ("Content-Type", answer.content_type), length)
        self.wfile.write(answer.body[: len(answer.body) // 2])
        self.close_connection = True
        while self.connection.recv(1):
            pass

    def _send_huge(self, answer: Answer) -> None:
        kind = ("Content-Type", answer.content_type)
        self._head(answer.status, kind, ("Transfer-Encoding", "chunked"))
        self._send_chunk(answer.body)
        for _ in range(HUGE_BYTES // len(_BLOCK)):
            self._send_chunk(_BLOCK)
        self._send_chunk(b"")

    def _send_chunk(self, block: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(block), block))

    def _reset(self) -> None:
        """Close the connection at once, so that the client sees it reset."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()


def _index() -> Answer:
    lines = ["Simulated providers of grade_ml. Nothing here is real.", ""]
    lines += [f"{served.method:<5} {served.prefix}" for served in ROUTES]
    return as_text("\n".join(lines) + "\n", "text/plain")


@contextmanager
def serve(
    config: CampusConfig, today: date, port: int = 0, college: CampusConfig | None = None
) -> Iterator[ProviderServer]:
    """Serve the world of a campus as known on `today`, until the block ends.

    Parameters
    ----------
    port
        Port on 127.0.0.1; 0 chooses a free port, see `ProviderServer.url`.
    college
        The school of the OneRoster server, if not a small school.

    Raises
    ------
    ServiceError
        The port cannot be used.
    """
    try:
        server = ProviderServer(config, today, port, college)
    except OSError as error:
        raise ServiceError(
            f"Port {port} cannot be used: {error.strerror}.",
            "Choose another port, or 0 for a free port.",
        ) from error
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
