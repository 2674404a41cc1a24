"""Fixtures of the tests of external sources: the simulated campus's providers, and a clock."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta

import pytest
from sqlalchemy import Engine

from grade_ml.campus.providers.server import ProviderServer, serve
from grade_ml.campus.simulated import CampusConfig
from grade_ml.core.clock import Clock
from grade_ml.external.client import Client, Manners
from grade_ml.external.settings import ExternalSettings

TODAY = date(2024, 11, 1)
NOON = datetime(2024, 11, 1, 12, tzinfo=UTC)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what needs the internet unless it is requested."""
    if "live" in config.option.markexpr:
        return
    live = [item for item in items if item.get_closest_marker("live")]
    items[:] = [item for item in items if item not in live]
    config.hook.pytest_deselected(items=live)


class FakeClock(Clock):
    """A clock that moves only by sleeping."""

    def __init__(self) -> None:
        self.slept = 0.0

    def now(self) -> datetime:
        return NOON + timedelta(seconds=self.slept)

    def sleep(self, seconds: float) -> None:
        self.slept += seconds


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(scope="session")
def running() -> Iterator[ProviderServer]:
    with serve(CampusConfig(students=100, courses=3, terms=4), TODAY) as server:
        yield server


@pytest.fixture
def providers(running: ProviderServer) -> Iterator[ProviderServer]:
    """The providers, well-behaved, as known on `TODAY`."""
    running.requests.clear()
    yield running
    running.behave()
    running.today = TODAY
    running.retry_after = 1


@pytest.fixture
def external(providers: ProviderServer) -> ExternalSettings:
    return ExternalSettings(_env_file=None, providers_url=providers.url)


@pytest.fixture
def client(engine: Engine, clock: FakeClock) -> Iterator[Callable[..., Client]]:
    """Makes clients whose collections take place at a moment, without waiting."""
    opened = []

    def make(now: datetime = NOON, **options: float) -> Client:
        client = Client(engine, now, clock, Manners(**{"silence_s": 5, **options}))
        opened.append(client)
        return client

    yield make
    for opened_client in opened:
        opened_client.__exit__(None, None, None)
