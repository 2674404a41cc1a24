"""A mail server and a webhook on this machine that record what they receive, or refuse it."""

from __future__ import annotations

import json
import socketserver
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler
from threading import Event, Thread


class Smtp(socketserver.StreamRequestHandler):
    """Supports as much of SMTP as a client needs, and records what it receives.

    With `server.context` it offers STARTTLS; `server.spam` in a mail has it refused, and
    `server.locked` has every login. A server that `hangs` sends nothing, a server that `drips`
    greets a byte at a time without end.
    """

    def handle(self) -> None:
        if self.server.hangs:
            self.rfile.read()
        while self.server.drips and not self.server.ended.wait(0.02):
            self.wfile.write(b"2")
        self._say("220 here")
        self._talk()

    def _talk(self) -> None:
        body: list[str] | None = None
        for raw in self.rfile:
            line = raw.decode().rstrip("\r\n")
            if body is not None:
                if line == ".":
                    self._take("\n".join(body))
                    body = None
                else:
                    body.append(line)
                continue
            self.server.commands.append(line)
            if line.upper().startswith("EHLO"):
                offers = ["AUTH PLAIN LOGIN", *(["STARTTLS"] if self.server.context else [])]
                self._say(
                    "\r\n".join(["250-here", *(f"250-{offer}" for offer in offers), "250 HELP"])
                )
            elif line.upper() == "STARTTLS":
                self._say("220 go on")
                try:
                    tls = self.server.context.wrap_socket(self.connection, server_side=True)
                except OSError:
                    return
                self.connection = tls
                self.rfile, self.wfile = tls.makefile("rb"), tls.makefile("wb", buffering=0)
                return self._talk()
            elif line.upper().startswith("AUTH"):
                self._say("535 who are you?" if self.server.locked else "235 welcome")
            elif line.upper().startswith("DATA"):
                body = []
                self._say("354 go on")
            elif line.upper().startswith("QUIT"):
                return self._say(self.server.leave)
            elif line.upper().startswith("RCPT") and self.server.unknown in line:
                self._say("550 nobody of that name")
            else:
                self._say("250 yes")
        return None

    def _take(self, mail: str) -> None:
        text = message_from_bytes(mail.encode()).get_payload(decode=True).decode()
        if self.server.spam and self.server.spam in text:
            return self._say("554 looks like spam")
        self.server.received.append(mail)
        return self._say("250 kept")

    def _say(self, text: str) -> None:
        self.wfile.write(f"{text}\r\n".encode())


class Webhook(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        bad = self.server.spam and self.server.spam.encode() in content
        if not bad:
            self.server.received.append(json.loads(content))
        self.send_response(400 if bad else self.server.status)
        if self.server.location:
            self.send_header("Location", self.server.location)
        self.end_headers()

    def log_message(self, *parts) -> None:
        pass


@contextmanager
def serving(server) -> Iterator:
    server.received, server.commands, server.status = [], [], 200
    server.context, server.spam, server.location = None, "", ""
    server.leave, server.unknown = "221 bye", "nobody@"
    server.locked = server.hangs = server.drips = False
    server.ended = Event()
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.ended.set()
        server.shutdown()
        server.server_close()
        thread.join()
