"""The HTTP client of every source: polite, within bounds, never twice for the same answer.

Limits, answers and their validators are stored in PostgreSQL, so they hold across processes. The
sources interpret the payloads: each passes a function that reads its payload, and only a payload
that the function accepts counts as an answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

import httpx
import sqlalchemy as sa
from pydantic import ValidationError
from sqlalchemy import Engine
from sqlalchemy.dialects.postgresql import insert

from grade_ml.core import http, texts
from grade_ml.core.clock import Clock
from grade_ml.external.protocol import About, PayloadError, ProviderError, Request
from grade_ml.external.tables import rate_limit, response

T = TypeVar("T")

ATTEMPTS = 4
#: A limit or a Retry-After beyond this ends the collection; the next collection tries again.
PATIENCE = timedelta(minutes=2)


@dataclass(frozen=True)
class _Answer:
    """A body with what is needed to check whether it is still current."""

    body: bytes
    content_type: str
    etag: str | None
    last_modified: str | None


@dataclass(frozen=True)
class Manners:
    """How a client presents itself and what it puts up with.

    Parameters
    ----------
    contact
        How a provider can reach the operator of the client; part of the User-Agent.
    silence_s, total_s
        A call fails after this long without a byte, and after this long altogether.
    max_bytes
        A body that is larger, unpacked, is refused.
    """

    contact: str = ""
    silence_s: float = 10.0
    total_s: float = 60.0
    max_bytes: int = 20 << 20


class Client:
    """Fetches payloads for the sources of one collection; safe to share between threads.

    Parameters
    ----------
    engine
        The database that holds answers and limits.
    now
        The moment of the collection, by which answers are current or not.
    clock
        What limits go by.
    """

    def __init__(
        self,
        engine: Engine,
        now: datetime,
        clock: Clock,
        manners: Manners = Manners(),
    ) -> None:
        self.now = now
        self._engine = engine
        self._manners = manners
        self._clock = clock
        self._http = http.client(
            timeout=manners.silence_s,
            headers={"User-Agent": f"grade_ml ({manners.contact})"},
        )
        #: Requests sent so far, by source.
        self.requests: Counter[str] = Counter()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *error: object) -> None:
        self._http.close()

    def get(self, about: About, request: Request, read: Callable[[bytes], T]) -> T:
        """Return what `read` makes of the payload, from the provider or from an earlier answer.

        Parameters
        ----------
        read
            Raises `PayloadError` or pydantic's `ValidationError` for what it does not accept. Such
            a payload is stored in `external.response` for inspection and never returned again.

        Raises
        ------
        ProviderError
            There is no acceptable answer.
        """
        known = self._known(request)
        if known is not None:
            answer, validated_at = known
            is_current = timedelta() <= self.now - validated_at < (request.ttl or about.ttl)
            if is_current or (request.closes is not None and validated_at >= request.closes):
                return self._read(about, request, answer, read)
        fresh = self._fetch(about, request, known[0] if known else None)
        if fresh is None:
            assert known is not None
            self._touch(request)
            return self._read(about, request, known[0], read)
        result = self._read(about, request, fresh, read)
        self._keep(about, request, fresh, problem=None)
        return result

    def _read(
        self, about: About, request: Request, answer: _Answer, read: Callable[[bytes], T]
    ) -> T:
        try:
            return read(answer.body)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"]) or "body"
            cause: Exception = error
            problem = first["msg"]
        except PayloadError as error:
            field, problem, cause = error.field, error.problem, error
        self._keep(about, request, answer, problem=f"{field}: {problem}")
        raise ProviderError(
            about.title,
            f"the field {field} of its answer does not match its format: {problem}",
            f"The answer is stored in external.response under the key {request.key}; if the "
            "provider changed its format, adapt the source.",
            field=field,
        ) from cause

    def _fetch(self, about: About, request: Request, known: _Answer | None) -> _Answer | None:
        """Return the provider's answer, or None if the known answer is still current."""

        def attempt() -> _Answer | None:
            self._await_turn(about)
            return self._send(about, request, known)

        try:
            return http.persistently(attempt, ATTEMPTS, self._clock)
        except http.TryAgainError as error:
            raise ProviderError(
                about.title,
                f"{error.problem}, at each of {ATTEMPTS} attempts",
                "The next collection tries again.",
                status=error.status,
            ) from error
        except httpx.RequestError as error:
            raise ProviderError(
                about.title,
                f"{request.url} cannot be reached ({error or type(error).__name__})",
                "Check the network and the address in the settings; the next collection tries "
                "again.",
            ) from error

    def _send(self, about: About, request: Request, known: _Answer | None) -> _Answer | None:
        headers = {"Accept": ", ".join(sorted(request.types))}
        if known is not None and request.body is None:
            if known.etag:
                headers["If-None-Match"] = known.etag
            if known.last_modified:
                headers["If-Modified-Since"] = known.last_modified
        self.requests[about.name] += 1
        with self._stream(about, request, headers) as reply:
            if reply.status_code == httpx.codes.NOT_MODIFIED and known is not None:
                return None
            self._require_success(about, request, reply)
            answer = _Answer(
                self._body(about, request, reply),
                reply.headers.get("Content-Type", "none"),
                reply.headers.get("ETag"),
                reply.headers.get("Last-Modified"),
            )
        media = answer.content_type.partition(";")[0].strip().lower()
        if media not in request.types:
            self._keep(about, request, answer, problem=f"Content-Type: {media}")
            raise ProviderError(
                about.title,
                f"its answer is of the type {media}, not {' or '.join(sorted(request.types))}",
                f"The answer is stored in external.response under the key {request.key}; often it "
                "is a page that states the reason.",
                field="Content-Type",
            )
        return answer

    @contextmanager
    def _stream(
        self, about: About, request: Request, headers: Mapping[str, str]
    ) -> Iterator[httpx.Response]:
        body = None if request.body is None else {**request.body, **request.secrets}
        method = "GET" if body is None else "POST"
        sent = self._http.build_request(
            method, request.url, params=request.params, json=body, headers=headers
        )
        try:
            reply = http.send(self._http, sent, self._manners.total_s)
        except http.AnswerError as error:
            raise _refused(about, request, error) from error
        try:
            yield reply
        finally:
            reply.close()

    def _require_success(self, about: About, request: Request, reply: httpx.Response) -> None:
        if reply.is_success:
            return
        http.require_patience(reply, self._clock, lambda pause: self._postpone(about, pause))
        raise ProviderError(
            about.title,
            f"it refuses {request.url} with the status {reply.status_code}",
            "Check the source's settings: address, place, series, key.",
            status=reply.status_code,
        )

    def _body(self, about: About, request: Request, reply: httpx.Response) -> bytes:
        """Return the unpacked body; neither endless drops nor endless bytes get far."""
        try:
            return http.body(reply, self._manners.max_bytes)
        except http.AnswerError as error:
            raise _refused(about, request, error) from error

    def _await_turn(self, about: About) -> None:
        """Take the next place in the source's queue, which all processes share, and wait for it.

        The limit is a virtual schedule: `next_at` is when a source that is queried without pause
        would be due again, and a request may come `burst` places early.
        """
        now, limit = self._clock.now(), about.limit
        due = sa.func.greatest(rate_limit.c.next_at, now)
        with self._engine.begin() as connection:
            next_at = connection.execute(
                insert(rate_limit)
                .values(source=about.name, next_at=now + limit.every)
                .on_conflict_do_update(
                    index_elements=["source"], set_={"next_at": due + limit.every}
                )
                .returning(rate_limit.c.next_at)
            ).scalar_one()
            pause = next_at - limit.burst * limit.every - now
            if pause > PATIENCE:
                # Raised within the transaction, which so frees the place.
                raise ProviderError(
                    about.title,
                    f"its limit allows the next request only at {now + pause:%Y-%m-%d %H:%M} UTC",
                    "A collection after that tries again.",
                )
        if pause > timedelta():
            self._clock.sleep(pause.total_seconds())

    def _postpone(self, about: About, pause: timedelta) -> None:
        """Let no process query the source before `pause` is over."""
        if not pause:
            return
        limit = about.limit
        until = self._clock.now() + pause + (limit.burst - 1) * limit.every
        with self._engine.begin() as connection:
            connection.execute(
                sa.update(rate_limit)
                .where(rate_limit.c.source == about.name)
                .values(next_at=sa.func.greatest(rate_limit.c.next_at, until))
            )

    def _known(self, request: Request) -> tuple[_Answer, datetime] | None:
        query = sa.select(response).where(response.c.key == request.key, response.c.accepted)
        with self._engine.begin() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            return None
        answer = _Answer(row.body, row.content_type, row.etag, row.last_modified)
        return answer, row.validated_at

    def _keep(
        self, about: About, request: Request, answer: _Answer, *, problem: str | None
    ) -> None:
        row = insert(response).values(
            key=request.key,
            accepted=problem is None,
            source=about.name,
            url=str(httpx.URL(request.url, params=request.params)),
            etag=answer.etag,
            last_modified=answer.last_modified,
            content_type=answer.content_type,
            fetched_at=self.now,
            validated_at=self.now,
            problem=None if problem is None else texts.readable(problem),
            body=answer.body,
        )
        changes = {c.name: row.excluded[c.name] for c in response.c if not c.primary_key}
        with self._engine.begin() as connection:
            connection.execute(
                row.on_conflict_do_update(index_elements=["key", "accepted"], set_=changes)
            )

    def _touch(self, request: Request) -> None:
        with self._engine.begin() as connection:
            connection.execute(
                sa.update(response)
                .where(response.c.key == request.key, response.c.accepted)
                .values(validated_at=self.now)
            )


def _refused(about: About, request: Request, error: http.AnswerError) -> ProviderError:
    return ProviderError(
        about.title,
        f"its answer {error}",
        f"Look at {request.url}; a shorter window has less, and the next collection tries again.",
        field="body",
    )
