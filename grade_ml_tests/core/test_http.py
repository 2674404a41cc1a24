"""Where a server may lead its clients: over real sockets, on addresses of this machine."""

from __future__ import annotations

import gzip
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grade_ml.core import http
from grade_ml_tests.certificates import Authority
from grade_ml_tests.sites import Site, site

pytestmark = pytest.mark.security


@pytest.fixture
def origin() -> Iterator[Site]:
    with site() as server:
        yield server


@pytest.fixture
def other() -> Iterator[Site]:
    with site("127.0.0.2") as server:
        yield server


def fetch(
    url: str,
    method: str = "GET",
    client: httpx.Client | None = None,
    seconds: float = 3,
    **options,
) -> bytes:
    with client or http.client(timeout=5) as asking:
        reply = http.send(asking, asking.build_request(method, url, **options), seconds)
        return http.body(reply, 1 << 20)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize(
    "host",
    ["127.0.0.2", "localhost", "2130706434", "0x7f000002", "0.0.0.0", "[::ffff:127.0.0.2]"],
)
def test_no_answer_leads_to_another_private_address(status: int, host: str):
    with site() as origin, site("0.0.0.0") as other:
        origin.leads["/"] = (status, other.url("/secret", host))
        with pytest.raises(http.AnswerError, match="not a public address"):
            fetch(origin.url())
        assert other.received == []


@pytest.mark.parametrize(
    "target",
    [
        "http://10.0.0.1/",
        "http://192.168.1.1/",
        "http://172.16.0.1/",
        "http://169.254.169.254/latest/meta-data/",
        "http://100.64.0.1/",
        "http://[::1]/",
        "http://[fe80::1]/",
        "http://[fd00::1]/",
        "http://[64:ff9b::7f00:1]/",
        "http://[2002:7f00:1::]/",
        "//127.0.0.2/",
    ],
)
def test_neither_do_the_networks_behind_this_machine(origin: Site, target: str):
    origin.leads["/"] = (302, target)
    with pytest.raises(http.AnswerError, match="not a public address"):
        fetch(origin.url())


def test_another_port_of_a_private_host_is_another_place(origin: Site):
    with site() as other:
        origin.leads["/"] = (302, other.url())
        with pytest.raises(http.AnswerError, match="not a public address"):
            fetch(origin.url())
        assert other.received == []


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://example.org/", "gopher://x/"])
def test_no_answer_leads_to_another_scheme(origin: Site, target: str):
    origin.leads["/"] = (302, target)
    with pytest.raises(http.AnswerError, match="leads from http to "):
        fetch(origin.url())


def test_encryption_is_not_given_up(tmp_path: Path, origin: Site):
    authority = Authority(tmp_path)
    client = http.client(verify=http_context(authority))
    with site(context=authority.context("127.0.0.1")) as safe:
        safe.leads["/"] = (302, origin.url())
        with pytest.raises(http.AnswerError, match="from https to http"):
            fetch(safe.url(), client=client)
    assert origin.received == []


def http_context(authority: Authority) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(authority.file))


def test_within_its_place_an_answer_may_lead_and_what_was_sent_goes_along(origin: Site):
    origin.leads |= {"/": (302, "/a?x=1"), "/a?x=1": (302, origin.url("/b"))}
    assert fetch(origin.url(), headers={"Authorization": "Bearer t"}) == b"{}"
    assert [(path, given["Authorization"]) for path, given, _ in origin.received] == [
        ("/", "Bearer t"),
        ("/a?x=1", "Bearer t"),
        ("/b", "Bearer t"),
    ]
    origin.leads["/post"] = (307, "/kept")
    fetch(origin.url("/post"), "POST", json={"key": "k"})
    assert origin.received[-1][0] == "/kept" and b"k" in origin.received[-1][2]


def test_a_circle_ends(origin: Site):
    origin.leads["/"] = (302, "/")
    with pytest.raises(http.AnswerError, match="leads on more than 5 times"):
        fetch(origin.url())
    assert len(origin.received) == 6


@pytest.fixture
def internet(monkeypatch: pytest.MonkeyPatch, origin: Site) -> Site:
    """`origin` as a proxy: requests over http to any host are answered from there."""
    monkeypatch.setenv("http_proxy", origin.url())
    monkeypatch.setenv("no_proxy", "")
    return origin


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_credentials_do_not_follow_to_another_host(internet: Site, status: int):
    internet.leads["http://a.example/?key=hush"] = (status, "http://b.example/")
    internet.leads["http://b.example/"] = (status, "http://a.example/end")
    secret = {"Authorization": "Bearer hush", "Cookie": "session=hush"}
    fetch("http://a.example/?key=hush", headers=secret)
    (_, first, _), *others = internet.received
    assert "hush" in first["Authorization"]
    assert [path for path, *_ in others] == ["http://b.example/", "http://a.example/end"]
    assert "hush" not in str(others)


@pytest.mark.parametrize("status", [307, 308])
def test_what_was_posted_does_not_follow_to_another_host(internet: Site, status: int):
    internet.leads["http://a.example/"] = (status, "http://b.example/")
    with pytest.raises(http.AnswerError, match=r"leads what was sent to it on to b\.example"):
        fetch("http://a.example/", "POST", json={"key": "hush"})
    assert len(internet.received) == 1


def test_a_proxy_is_not_led_into_private_networks_by_number(internet: Site):
    internet.leads["http://a.example/"] = (302, "http://169.254.169.254/")
    with pytest.raises(http.AnswerError, match="not a public address"):
        fetch("http://a.example/")


def test_the_request_goes_to_the_checked_address(
    origin: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Loopback counts as public here, since no other address answers; names and TLS are real."""
    monkeypatch.setattr(http, "is_public", lambda address: True)
    authority = Authority(tmp_path)
    client = http.client(verify=http_context(authority))
    with site(context=authority.context("localhost")) as other:
        origin.leads["/"] = (302, other.url("/there", "localhost"))
        other.leads["/there"] = (302, "end")
        assert fetch(origin.url(), client=client) == b"{}"
        assert [path for path, *_ in other.received] == ["/there", "/end"]
        assert {given["Host"] for _, given, _ in other.received} == {f"localhost:{other.port}"}
        # By its number it has no certificate: the name was what the client requested.
        origin.leads["/"] = (302, other.url("/there"))
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE"):
            fetch(origin.url(), client=http.client(verify=http_context(authority)))


@given(st.ip_addresses())
def test_an_address_counts_as_public_only_by_its_registry(address):
    if http.is_public(str(address)):
        assert not (address.is_private or address.is_loopback or address.is_link_local)
        assert not (address.is_unspecified or address.is_multicast)


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_keeps_its_kind_however_it_is_wrapped(address):
    public = http.is_public(str(address))
    nat64 = ipaddress.IPv6Address(int(ipaddress.IPv6Address("64:ff9b::")) | int(address))
    assert http.is_public(str(nat64)) is public
    assert not http.is_public(f"::ffff:{address}")
    assert not http.is_public(f"::{address}")


def slowly(first: bytes, again: bytes) -> Iterator[bytes]:
    yield first
    while True:
        time.sleep(0.05)
        yield again


@contextmanager
def raw_server(parts: Iterator[bytes]) -> Iterator[str]:
    """Serve one connection with the given bytes, and yield the URL."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            with connection, suppress(OSError):  # the client hangs up
                connection.recv(65536)
                for part in parts:
                    connection.sendall(part)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        thread.join(10)


OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("first", "again"),
    [
        (OK, b"X-Next: 1\r\n"),
        (OK + b"X-Long: ", b"a"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n1;", b"a"),
        (OK + b"Content-Encoding: gzip\r\n\r\n\x1f\x8b\x08\x08\0\0\0\0\0\0", b"a"),
        (OK + b"\r\n", b"a"),
    ],
    ids=["headers", "one header", "continue", "chunk extension", "name in gzip", "body"],
)
def test_an_answer_without_end_ends_in_time(first: bytes, again: bytes):
    with raw_server(slowly(first, again)) as url, pytest.raises(http.AnswerError, match="complete"):
        fetch(url, seconds=0.5)


def test_what_is_packed_twice_is_not_unpacked():
    bomb = gzip.compress(gzip.compress(bytes(50 << 20)))
    head = OK + b"Content-Encoding: gzip, gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb)
    with raw_server(iter([head + bomb])) as url, pytest.raises(http.AnswerError, match="packed as"):
        fetch(url)
