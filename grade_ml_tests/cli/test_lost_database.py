"""The server dies under a training that the daemon has launched; no person helps."""

from __future__ import annotations

import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from grade_ml_tests.launch import Installation, wait_until

JOB = "train_traditional_models"
#: The newest first.
RUNS = (
    f'{{runsOrError(filter: {{pipelineName: "{JOB}"}})'
    " {... on Runs {results {runId status stepStats {stepKey status}}}}}"
)


@pytest.fixture
def loaded(tmp_path: Path) -> Iterator[Installation]:
    """An installation whose gradebook was filled a moment ago, so that it is about to train."""
    installation = Installation(tmp_path)
    installation.up()
    ran = installation.command("load", "simulated", "--students", "150", "--courses", "3")
    assert ran.returncode == 0, ran.stderr
    yield installation
    installation.stop()


def runs(installation: Installation) -> list[dict[str, Any]]:
    """Return the runs of the job; none while the server is down."""
    try:
        results: list[dict[str, Any]] = installation.graphql(RUNS)["runsOrError"]["results"]
    except (OSError, urllib.error.HTTPError, KeyError, TypeError):
        return []
    return results


def has_begun(installation: Installation, step: str) -> bool:
    return any(stats["stepKey"] == step for run in runs(installation) for stats in run["stepStats"])


@pytest.mark.slow
@pytest.mark.security
def test_a_training_survives_the_server_being_killed_twice(loaded: Installation):
    for step in ("grade_snapshots", "baseline_model"):
        wait_until(lambda step=step: has_begun(loaded, step), step, patience=300)
        server = loaded.postgres()
        assert server
        server.kill()
        server.wait(30)
    wait_until(
        lambda: [run["status"] for run in runs(loaded)][:1] == ["SUCCESS"],
        "the end of training",
        patience=600,
    )
