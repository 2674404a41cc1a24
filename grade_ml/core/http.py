"""What every client of HTTP needs: bounds, pauses, safe redirects.

A server may redirect elsewhere, but never into a private network that only this machine
sees, never to another scheme, and never with credentials.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.request import getproxies, proxy_bypass

from grade_ml.core.clock import Clock

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")

#: How an answer may be packed.
_PACKED = ("gzip", "deflate")
#: A provider that moved leads on once or twice; more is a circle.
MOST_REDIRECTS = 5
#: Addresses that represent IPv4 addresses if a network has only IPv6 (RFC 6052).
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class AnswerError(Exception):
    """An answer that is not taken as it is; the text continues "its answer"."""


class TryAgainError(Exception):
    """An attempt failed, but the next attempt may succeed; carries how to report the failure."""

    def __init__(self, problem: str, status: int = 0) -> None:
        super().__init__(problem)
        self.problem = problem
        self.status = status


class _Deadline(threading.local):
    """Until when the answer that this thread waits for may come; `total_s` is what it was given."""

    at = float("inf")
    total_s = 0.0


_deadline = _Deadline()


def client(**options: Any) -> httpx.Client:
    """Return a client of httpx whose answers end in time, however slowly they come.

    httpx limits the silence between two bytes. Headers without end, packed bytes that unpack to
    nothing, or a byte every few seconds would be read for ever, inside one call.
    """
    import httpcore
    import httpx

    class Stream(httpcore.NetworkStream):
        def __init__(self, stream: httpcore.NetworkStream) -> None:
            self.stream = stream

        def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
            if time.monotonic() > _deadline.at:
                raise AnswerError(f"was not complete after {_deadline.total_s:g} seconds")
            return self.stream.read(max_bytes, timeout)

        def write(self, buffer: bytes, timeout: float | None = None) -> None:
            self.stream.write(buffer, timeout)

        def close(self) -> None:
            self.stream.close()

        def start_tls(self, *arguments: Any, **named: Any) -> httpcore.NetworkStream:
            return Stream(self.stream.start_tls(*arguments, **named))

        def get_extra_info(self, info: str) -> Any:
            return self.stream.get_extra_info(info)

    class Backend(httpcore.SyncBackend):
        def connect_tcp(self, *arguments: Any, **named: Any) -> httpcore.NetworkStream:
            return Stream(super().connect_tcp(*arguments, **named))

    made = httpx.Client(**options)
    transports: list[Any] = [made._transport, *filter(None, made._mounts.values())]
    for transport in transports:
        # httpx hands on no backend of its own; httpcore has the place for it.
        transport._pool._network_backend = Backend()
    return made


def persistently(action: Callable[[], T], attempts: int, clock: Clock) -> T:
    """Return what `action` does, tried again after failures of the network and `TryAgainError`."""
    import httpx
    from tenacity import Retrying, retry_if_exception_type, stop_after_attempt
    from tenacity.wait import wait_random_exponential

    retrying = Retrying(
        retry=retry_if_exception_type((TryAgainError, httpx.TransportError)),
        stop=stop_after_attempt(attempts),
        wait=wait_random_exponential(multiplier=0.5, max=20),
        sleep=clock.sleep,
        reraise=True,
    )
    return retrying(action)


def send(
    client: httpx.Client,
    request: httpx.Request,
    total_s: float,
    auth: httpx.Auth | None = None,
) -> httpx.Response:
    """Send a request and follow where its answer leads; return an answer whose body is unread.

    Parameters
    ----------
    client
        As `client` makes it; does not follow redirects itself.
    total_s
        Within so many seconds the whole answer is read, its body included.
    auth
        For the first host only.

    Raises
    ------
    AnswerError
        It leads to another scheme, into a private network, too far, would take a body along, or
        is not complete in time.
    """
    _deadline.at, _deadline.total_s = time.monotonic() + total_s, total_s
    request.headers["Accept-Encoding"] = ", ".join(_PACKED)
    original = here = request.url
    reply = client.send(request, stream=True, auth=auth)
    for _ in range(MOST_REDIRECTS):
        following = reply.next_request
        if following is None:
            return reply
        reply.close()
        # Not the URL of the last request, in which a checked address may replace the name.
        here, before = here.join(reply.headers["Location"]), here
        reply = client.send(_checked(following, original, before, here), stream=True)
    if reply.next_request is None:
        return reply
    reply.close()
    raise AnswerError(f"leads on more than {MOST_REDIRECTS} times")


def _checked(
    following: httpx.Request, original: httpx.URL, before: httpx.URL, target: httpx.URL
) -> httpx.Request:
    """Return the request to send after a redirect, to the very address that was checked.

    httpx has removed the credentials if the host is another.
    """
    if target.scheme != before.scheme and (before.scheme, target.scheme) != ("http", "https"):
        raise AnswerError(f"leads from {before.scheme} to {target.scheme}")
    following.url = target
    following.headers["Host"] = target.netloc.decode("ascii")
    following.extensions = {**following.extensions, "sni_hostname": target.host}
    if _place(target) == _place(original):
        return following
    if following.method not in ("GET", "HEAD"):
        raise AnswerError(f"leads what was sent to it on to {target.host}")
    addresses = _addresses(target)
    private = sorted(address for address in addresses if not is_public(address))
    if private:
        raise AnswerError(
            f"leads to {target.host}, which is not a public address ({', '.join(private)}); if "
            "that is the right server, set that address itself"
        )
    if addresses and not _by_proxy(target):
        # A name may mean another address the next time it is looked up (DNS rebinding).
        following.url = target.copy_with(host=addresses[0])
    return following


def _place(url: httpx.URL) -> tuple[str, int | None]:
    """Return host and port, `None` for the scheme's own: http and https of a host are one place."""
    return url.host, url.port


def _by_proxy(url: httpx.URL) -> bool:
    """Return whether a proxy of the environment resolves the name and connects."""
    return url.scheme in getproxies() and not proxy_bypass(url.host)


def _addresses(url: httpx.URL) -> list[str]:
    """Return the addresses of a URL's host; none where only a proxy can know them."""
    import httpx

    if _by_proxy(url):
        try:
            return [str(ipaddress.ip_address(url.host))]
        except ValueError:
            return []
    try:
        infos = socket.getaddrinfo(url.host, url.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise httpx.ConnectError(f"{url.host}: {error}") from error
    return list(dict.fromkeys(str(info[4][0]) for info in infos))


def is_public(address: str) -> bool:
    """Return whether an IP address belongs to the public internet, judged by its number.

    >>> is_public("1.1.1.1"), is_public("127.0.0.1"), is_public("fe80::1")
    (True, False, False)
    """
    parsed = ipaddress.ip_address(address)
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed in _NAT64:
            return is_public(str(ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF)))
        # Tunnels carry IPv4 addresses of any kind.
        if parsed.sixtofour or parsed.teredo:
            return False
    return parsed.is_global and not (parsed.is_multicast or parsed.is_reserved)


def body(reply: httpx.Response, max_bytes: int) -> bytes:
    """Return the unpacked body; neither endless drops nor endless bytes get far.

    Raises
    ------
    AnswerError
        It has more than `max_bytes`, was not complete in time, or is packed twice: then 5 kB
        unpack to gigabytes at once.
    """
    packed = reply.headers.get("Content-Encoding", "identity").strip().lower()
    if packed not in ("identity", *_PACKED):
        raise AnswerError(f"is packed as {packed!r:.50}, which was not requested")
    parts, size = [], 0
    for part in reply.iter_bytes():
        parts.append(part)
        size += len(part)
        if size > max_bytes:
            raise AnswerError(f"has more than {max_bytes >> 20} MB")
    return b"".join(parts)


def require_patience(
    reply: httpx.Response, clock: Clock, postpone: Callable[[timedelta], None]
) -> None:
    """Raise `TryAgainError` if a later attempt may succeed; `postpone` gets the requested pause."""
    status = reply.status_code
    if status == 429:
        postpone(retry_after(reply.headers.get("Retry-After"), clock.now()))
        raise TryAgainError("it received too many requests", status)
    if reply.is_server_error:
        raise TryAgainError(f"it answers with the status {status}", status)


def retry_after(value: str | None, now: datetime) -> timedelta:
    """Return the pause that a header Retry-After requests, in seconds or as a date.

    >>> from datetime import UTC
    >>> midnight = datetime(2024, 1, 1, tzinfo=UTC)
    >>> retry_after("30", midnight).total_seconds()
    30.0
    >>> retry_after("Mon, 01 Jan 2024 00:01:00 GMT", midnight).seconds
    60
    """
    try:
        if value is None or value.isdecimal():
            return timedelta(seconds=int(value or 0))
        return max(parsedate_to_datetime(value) - now, timedelta())
    except (ValueError, TypeError, OverflowError):
        return timedelta()
