"""Collects the sources side by side; a failure of one source does not affect the others."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from sqlalchemy import Engine

from grade_ml.core.errors import GradeMLError
from grade_ml.external import store
from grade_ml.external.client import Client
from grade_ml.external.frames import observations
from grade_ml.external.protocol import Observation, Place, Window
from grade_ml.external.source import Source
from grade_ml.external.store import Collection

logger = logging.getLogger(__name__)


def collect(
    engine: Engine, client: Client, sources: Iterable[Source], window: Window, place: Place
) -> dict[str, Collection]:
    """Fetch and store the observations of each source for `window`; return the results by name.

    Each source gets as many days before the window as its `lookback`. What a source delivered
    before it failed is stored, and its problem is in its `Collection`.
    """

    def collected(source: Source) -> Collection:
        return _collect(engine, client, source, window, place)

    sources = list(sources)
    with ThreadPoolExecutor(max_workers=max(len(sources), 1)) as pool:
        return {done.source: done for done in pool.map(collected, sources)}


def _collect(
    engine: Engine, client: Client, source: Source, window: Window, place: Place
) -> Collection:
    about, now = source.about, client.now
    asked_before = client.requests[about.name]
    rows, problem = _fetch(client, source, window.from_earlier(about.lookback), place)
    try:
        frame = observations(about, rows, place, now)
    except GradeMLError as error:
        problem, frame = str(error), observations(about, (), place, now)
    with engine.begin() as connection:
        done = Collection(
            source=about.name,
            window=window,
            collected_at=now,
            rows_new=store.add(connection, frame),
            requests=client.requests[about.name] - asked_before,
            problem=problem,
        )
        store.record(connection, done)
    return done


def _fetch(
    client: Client, source: Source, window: Window, place: Place
) -> tuple[list[Observation], str | None]:
    """Return the observations of the source, and the problem that ended them early, if any."""
    rows: list[Observation] = []
    try:
        for row in source.fetch(client, window, place, client.now):
            rows.append(row)
    except GradeMLError as error:
        return rows, str(error)
    except Exception as error:
        # A defect of one source must not affect the others.
        title = source.about.title
        logger.exception("The source %s is broken", source.about.name)
        return rows, f"{title}: its module failed ({type(error).__name__}: {error})."
    return rows, None
