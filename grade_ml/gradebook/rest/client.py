"""Reads the pages of a OneRoster server: token, paging, limits, retries. Rows stay as they are.

The whole of an endpoint is read or nothing: what a page lacks, a later step could not know.
"""

from __future__ import annotations

import itertools
import json
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from threading import Lock
from typing import Any

import httpx

from grade_ml.core import http
from grade_ml.core.clock import Clock
from grade_ml.core.errors import ConfigurationError, ServiceError
from grade_ml.gradebook.rest.settings import PREFIX, OneRosterSettings

Row = dict[str, Any]

ATTEMPTS = 6
#: A Retry-After beyond this ends the sync; the next sync continues.
PATIENCE = timedelta(minutes=10)
#: Seconds without a byte, and for one page altogether.
SILENCE_S, TOTAL_S = 60.0, 300.0
#: A page that is larger is refused; 100,000 results have about 40 MB.
MAX_BYTES = 128 << 20
#: So many pages in a row without a new row are an endless chain.
SAME_PAGES = 3
#: More pages than this, each with new rows, are no gradebook either.
MOST_PAGES = 1_000_000
#: A token is renewed so long before it ends.
EARLY = timedelta(seconds=30)

#: Errors of reading JSON of another shape, or of JSON that is nested too deep.
_NOT_AS_SAID = (ValueError, KeyError, TypeError, RecursionError)
_SERVICES = {
    "1.1": ("/ims/oneroster/v1p1", "/ims/oneroster/v1p1"),
    "1.2": ("/ims/oneroster/rostering/v1p2", "/ims/oneroster/gradebook/v1p2"),
}
GRADEBOOK = ("categories", "lineItems", "results", "scoreScales")


@dataclass(frozen=True)
class _Page:
    rows: list[Row]
    total: int | None
    next: str | None


@dataclass(frozen=True)
class Counts:
    """The server's counts of rows, on the first and on the last page; `None` if it gave none."""

    first: int | None
    last: int | None

    def fit(self, rows: int) -> bool:
        """Return whether so many different rows can be all of them.

        Rows that come while pages are read may be seen or not. If any went, others moved to a page
        that had been read, and were missed.
        """
        if self.first is None or self.last is None:
            return True
        return self.first <= rows <= max(self.first, self.last)


class Client:
    """A client of one server, used by several threads at most.

    Parameters
    ----------
    settings
        Complete, see `OneRosterSettings.require`.
    clock
        What limits and tokens go by.
    """

    def __init__(self, settings: OneRosterSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._http = http.client(timeout=SILENCE_S)
        self._lock = Lock()
        self._token, self._token_ends = "", datetime.min.replace(tzinfo=UTC)
        self._not_before = datetime.min.replace(tzinfo=UTC)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *error: object) -> None:
        self._http.close()

    def read(
        self, endpoint: str, since: datetime | None, take: Callable[[list[Row]], int]
    ) -> Counts | None:
        """Hand every page of an endpoint to `take`; return the counts, None if it is not offered.

        Parameters
        ----------
        since
            Only rows that were changed later; `None` means all.
        take
            Returns how many rows of the page it had not seen before.

        Raises
        ------
        ServiceError
            The server does not answer by the standard, at each of some attempts.
        """
        base = self._url(endpoint)
        params: dict[str, str] = {"sort": "sourcedId", "orderBy": "asc"}
        if since is not None:
            params["filter"] = f"dateLastModified>'{since:%Y-%m-%dT%H:%M:%S.000Z}'"
        limit = self._settings.page_size

        def page(offset: int) -> _Page | None:
            return self._page(
                base, endpoint, {**params, "limit": str(limit), "offset": str(offset)}
            )

        first = page(0)
        if first is None:
            return None
        take(first.rows)
        if first.total is not None and (first.next is None or "offset=" in first.next):
            # Servers may send fewer rows than requested; further pages then begin earlier.
            step = min(limit, len(first.rows)) or limit
            last, same = first, 0
            for last in self._side_by_side(page, range(step, first.total, step)):
                same = 0 if take(last.rows) else same + 1
                if same == SAME_PAGES:
                    # The server does not heed the offset; the count will not fit.
                    break
            return Counts(first.total, last.total)
        return Counts(first.total, self._one_by_one(page, endpoint, first, take))

    def _side_by_side(self, page: Callable[[int], _Page | None], offsets: range) -> Iterator[_Page]:
        """Yield the pages in order, while further pages are being requested."""
        waiting: deque[Future[_Page | None]] = deque()
        left = iter(offsets)
        with ThreadPoolExecutor(self._settings.parallel) as pool:
            try:
                for offset in itertools.islice(left, 2 * self._settings.parallel):
                    waiting.append(pool.submit(page, offset))
                while waiting:
                    received = waiting.popleft().result()
                    if received is None or not received.rows:
                        # The count promised more; the caller sees that it does not fit.
                        return
                    waiting.extend(pool.submit(page, n) for n in itertools.islice(left, 1))
                    yield received
            finally:
                for future in waiting:
                    future.cancel()

    def _one_by_one(
        self,
        page: Callable[[int], _Page | None],
        endpoint: str,
        first: _Page,
        take: Callable[[list[Row]], int],
    ) -> int | None:
        """Follow the links or, without any, read until a page is empty; return the last count."""
        last, linked = first, first.next is not None
        offset, same, pages = len(first.rows), 0, 1
        while last.next if linked else last.rows:
            if linked:
                received = self._page(self._same_server(str(last.next)), endpoint, None)
            else:
                received = page(offset)
            if received is None:
                raise ServiceError(
                    f"The OneRoster server sent some pages of {endpoint} and then refused one.",
                    "Report it to the server's administrator; nothing was loaded.",
                )
            last = received
            offset += len(last.rows)
            new = take(last.rows)
            same, pages = 0 if new or not last.rows else same + 1, pages + 1
            if same == SAME_PAGES or pages > MOST_PAGES:
                raise ServiceError(
                    f"The pages of {endpoint} never end: after {pages}, the last {same} without a "
                    "new row, there is a next page.",
                    "Report it to the server's administrator; nothing was loaded.",
                )
        return last.total

    def _url(self, endpoint: str) -> str:
        service = _SERVICES[self._settings.version][endpoint in GRADEBOOK]
        return f"{str(self._settings.url).rstrip('/')}{service}/{endpoint}"

    def _same_server(self, link: str) -> str:
        """Return the absolute URL of a link, which must not take the token elsewhere."""
        own = httpx.URL(str(self._settings.url))
        target = own.join(link)
        if (own.scheme, own.host, own.port) != (target.scheme, target.host, target.port):
            raise ServiceError(
                f"A page leads to another server: {target.host}.",
                f"Set {PREFIX}URL to the address that the server calls itself by.",
            )
        return str(target)

    def _page(self, url: str, endpoint: str, params: dict[str, str] | None) -> _Page | None:
        """Return a page, or None if the server does not offer the endpoint to us."""

        def attempt() -> _Page | None:
            reply = self._send(url, params)
            return None if reply is None else _read(reply[0], reply[1], endpoint)

        try:
            return http.persistently(attempt, ATTEMPTS, self._clock)
        except http.TryAgainError as error:
            raise ServiceError(
                f"The OneRoster server gave no good page of {endpoint} at {ATTEMPTS} attempts: "
                f"{error}.",
                "Nothing was loaded; the next sync begins there.",
            ) from error
        except httpx.RequestError as error:
            raise ServiceError(
                f"The OneRoster server cannot be reached ({error or type(error).__name__}).",
                f"Check the network and {PREFIX}URL; nothing was loaded.",
            ) from error

    def _send(
        self, url: str, params: dict[str, str] | None, renewed: bool = False
    ) -> tuple[bytes, httpx.Headers] | None:
        token = self._bearer()
        self._wait()
        request = self._http.build_request(
            "GET", url, params=params, headers={"Authorization": f"Bearer {token}"}
        )
        reply = self._sent(request)
        try:
            status = reply.status_code
            if status == httpx.codes.UNAUTHORIZED and not renewed:
                reply.close()
                self._forget(token)
                return self._send(url, params, renewed=True)
            if status in (httpx.codes.NOT_FOUND, httpx.codes.FORBIDDEN):
                return None
            self._require_success(reply)
            return http.body(reply, MAX_BYTES), reply.headers
        except http.AnswerError as error:
            raise ServiceError(
                f"A page of the OneRoster server {error}.",
                f"Set {PREFIX}PAGE_SIZE lower; nothing was loaded.",
            ) from error
        finally:
            reply.close()

    def _sent(self, request: httpx.Request, auth: httpx.Auth | None = None) -> httpx.Response:
        try:
            return http.send(self._http, request, TOTAL_S, auth)
        except http.AnswerError as error:
            raise ServiceError(
                f"The OneRoster server's answer {error}.",
                f"Check {PREFIX}URL and {PREFIX}TOKEN_URL; nothing was loaded.",
            ) from error

    def _require_success(self, reply: httpx.Response) -> None:
        if reply.is_success:
            return
        http.require_patience(reply, self._clock, self._postpone)
        raise ServiceError(
            f"The OneRoster server refuses {reply.url.path} with the status {reply.status_code}.",
            f"Check {PREFIX}URL, the version and the rights of the client; nothing was loaded.",
        )

    def _postpone(self, pause: timedelta) -> None:
        """Let no thread send a request before the pause is over."""
        if pause > PATIENCE:
            raise ServiceError(
                f"The OneRoster server allows the next request only in {pause}.",
                "The next sync tries again; nothing was loaded.",
            )
        with self._lock:
            self._not_before = max(self._not_before, self._clock.now() + pause)

    def _wait(self) -> None:
        with self._lock:
            pause = (self._not_before - self._clock.now()).total_seconds()
        if pause > 0:
            self._clock.sleep(pause)

    def _forget(self, token: str) -> None:
        with self._lock:
            if self._token == token:
                self._token = ""

    def _bearer(self) -> str:
        """Return a token that is valid for a while, a new token if necessary."""
        with self._lock:
            if not self._token or self._clock.now() >= self._token_ends:
                self._token, seconds = self._new_token()
                self._token_ends = self._clock.now() + max(
                    timedelta(seconds=seconds) - EARLY, timedelta()
                )
            return self._token

    def _new_token(self) -> tuple[str, float]:
        settings = self._settings
        assert settings.token_url and settings.client_id and settings.client_secret
        request = self._http.build_request(
            "POST",
            settings.token_url,
            data={"grant_type": "client_credentials", "scope": settings.scopes},
        )
        auth = httpx.BasicAuth(settings.client_id, settings.client_secret.get_secret_value())
        reply = self._sent(request, auth)
        try:
            if reply.status_code == httpx.codes.TOO_MANY_REQUESTS or reply.is_server_error:
                raise http.TryAgainError(
                    f"its token endpoint answers with the status {reply.status_code}"
                )
            if not reply.is_success:
                raise ConfigurationError(
                    f"{settings.token_url} refuses a token with the status {reply.status_code}.",
                    f"Check {PREFIX}CLIENT_ID, {PREFIX}CLIENT_SECRET and {PREFIX}SCOPE.",
                )
            answer = json.loads(http.body(reply, MAX_BYTES))
            return str(answer["access_token"]), float(answer.get("expires_in") or 3600)
        except (*_NOT_AS_SAID, AttributeError, http.AnswerError) as error:
            raise http.TryAgainError("its token endpoint returns no token") from error
        finally:
            reply.close()


def _read(body: bytes, headers: httpx.Headers, endpoint: str) -> _Page:
    try:
        rows = json.loads(body)[endpoint]
    except _NOT_AS_SAID as error:
        raise http.TryAgainError(f"a page is no JSON object with the list {endpoint}") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise http.TryAgainError(f"{endpoint} in a page is no list of objects")
    total = headers.get("X-Total-Count", "")
    links = httpx.Response(200, headers=headers).links
    return _Page(rows, int(total) if total.isdecimal() else None, links.get("next", {}).get("url"))
