"""The client's bounds and queue, beyond what the contract requires of every source."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine

from grade_ml.external.client import Client, Manners
from grade_ml.external.protocol import About, PayloadError, ProviderError, RateLimit, Request
from grade_ml_tests.external.conftest import NOON, FakeClock
from grade_ml_tests.sites import site

ABOUT = About(
    name="test",
    title="Test",
    terms="",
    series=(),
    lookback=0,
    ttl=timedelta(hours=1),
    settles=timedelta(),
    limit=RateLimit(every=timedelta(seconds=10), burst=3),
    freshness=timedelta(days=1),
)


class Handler(BaseHTTPRequestHandler):
    """Answers `/drip` a byte at a time, without end, `/dated` with Last-Modified, else its path."""

    seen: list[tuple[str, dict[str, str], bytes]]

    def do_GET(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        self.seen.append((self.path, dict(self.headers), self.rfile.read(length)))
        if self.headers.get("If-Modified-Since"):
            self.send_response(304)
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        if self.path == "/dated":
            self.send_header("Last-Modified", "Fri, 01 Nov 2024 00:00:00 GMT")
        if self.path == "/drip":
            self.end_headers()
            stop = threading.Event()
            while not stop.wait(0.05):
                self.wfile.write(b" ")
                self.wfile.flush()
        body = f'"{self.path}"'.encode()
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, format: str, *args: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        pass


@pytest.fixture
def web() -> Iterator[Server]:
    Handler.seen = []
    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def url(web: Server) -> str:
    return f"http://127.0.0.1:{web.server_address[1]}"


def test_a_body_that_drips_is_given_up_in_time(client: Callable, url: str):
    with pytest.raises(ProviderError, match=r"not complete after 0\.3 seconds"):
        client(total_s=0.3).get(ABOUT, Request(f"{url}/drip"), bytes)
    assert len(Handler.seen) == 1


def test_last_modified_is_sent_back(client: Callable, url: str):
    request = Request(f"{url}/dated")
    assert client().get(ABOUT, request, bytes) == b'"/dated"'
    assert client(NOON + timedelta(hours=2)).get(ABOUT, request, bytes) == b'"/dated"'
    assert Handler.seen[1][1]["If-Modified-Since"] == "Fri, 01 Nov 2024 00:00:00 GMT"
    assert client(NOON + timedelta(hours=2, minutes=59)).get(ABOUT, request, bytes) == b'"/dated"'
    assert len(Handler.seen) == 2


def test_all_clients_share_one_queue(engine: Engine, clock: FakeClock, url: str):
    for number in range(7):
        with Client(engine, NOON, clock) as client:
            client.get(ABOUT, Request(f"{url}/{number}"), bytes)
    # Three at once, then one request each ten seconds.
    assert clock.slept == pytest.approx(40, abs=0.1)


def test_a_queue_that_is_too_long_keeps_no_place(client: Callable, clock: FakeClock, url: str):
    slow = About(**{**vars(ABOUT), "limit": RateLimit(every=timedelta(hours=2), burst=1)})
    client().get(slow, Request(f"{url}/a"), bytes)
    for _ in range(3):
        with pytest.raises(ProviderError, match="2024-11-01 14:00"):
            client().get(slow, Request(f"{url}/b"), bytes)
    clock.sleep(7200)
    assert client().get(slow, Request(f"{url}/b"), bytes) == b'"/b"'


def test_secrets_are_sent_and_not_kept(client: Callable, engine: Engine, url: str):
    request = Request(f"{url}/x", body={"a": 1}, secrets={"key": "hush"})
    client().get(ABOUT, request, bytes)
    assert b"hush" in Handler.seen[0][2]
    with engine.connect() as connection:
        kept = connection.execute(sa.text("select response::text from external.response")).scalar()
    assert "hush" not in str(kept)
    assert "hush" not in request.key


def test_the_client_is_named(engine: Engine, clock: FakeClock, url: str):
    with Client(engine, NOON, clock, Manners("registrar@example.edu")) as client:
        client.get(ABOUT, Request(f"{url}/x"), bytes)
    assert "registrar@example.edu" in Handler.seen[0][1]["User-Agent"]


def test_a_bad_answer_leaves_the_last_good_answer(client: Callable, url: str):
    request = Request(f"{url}/x")
    client().get(ABOUT, request, bytes)

    def refuse(body: bytes) -> None:
        raise PayloadError("field", "is odd")

    with pytest.raises(ProviderError, match="field") as caught:
        client(NOON + timedelta(hours=2)).get(ABOUT, request, refuse)
    assert caught.value.field == "field"
    # Within its time the good answer is still returned.
    assert client(NOON + timedelta(minutes=59)).get(ABOUT, request, bytes) == b'"/x"'
    assert len(Handler.seen) == 2


@pytest.mark.security
@pytest.mark.parametrize("body", [None, {"series": ["a"]}], ids=["get", "post"])
def test_a_provider_leads_neither_into_this_network_nor_its_key_elsewhere(client: Callable, body):
    request = {"body": body, "secrets": {"key": "hush"}} if body else {}
    with site() as provider, site("127.0.0.2") as neighbour:
        provider.leads["/x"] = (307, neighbour.url("/admin"))
        with pytest.raises(ProviderError, match=r"127\.0\.0\.2") as raised:
            client().get(ABOUT, Request(provider.url("/x"), **request), bytes)
        assert neighbour.received == [] and "hush" not in str(raised.value)
