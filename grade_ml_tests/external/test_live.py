"""The real providers still answer in the formats that the sources read; needs the internet."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine

from grade_ml.core.clock import Clock
from grade_ml.external.catalog import sources
from grade_ml.external.client import Client
from grade_ml.external.collect import collect
from grade_ml.external.protocol import Window
from grade_ml.external.settings import ExternalSettings

pytestmark = pytest.mark.live
PUBLIC = ("weather", "economic_indicators", "social_sentiment", "job_market", "industry_trends")


@pytest.mark.parametrize("name", PUBLIC)
def test_a_real_provider(engine: Engine, name: str):
    settings = ExternalSettings.from_environment()
    now = datetime.now(UTC)
    window = Window((now - timedelta(days=20)).date(), now.date())
    (source,) = [candidate for candidate in sources(settings, None) if candidate.about.name == name]
    with Client(engine, now, Clock()) as client:
        done = collect(engine, client, [source], window, settings.place)[name]
    assert done.problem is None
    assert done.rows_new > 0
