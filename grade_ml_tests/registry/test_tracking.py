"""What MLflow shows of an experiment, and that publishing it twice changes nothing."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from grade_ml.core.errors import ServiceError
from grade_ml.core.settings import Settings
from grade_ml.registry.registry import Registry
from grade_ml.registry.tracking import REPORT, Step, Tracked, track
from grade_ml_tests.factories import PSEUDONYMS

NOW = datetime(2026, 1, 2, tzinfo=UTC)
FIRST = Step(NOW, {"difference": -1.5, "high": float("inf"), "bound": float("nan")})
TRACKED = Tracked(
    "pooled-2",
    {"hypothesis": "x" * 9000, "alpha": 0.05},
    [FIRST],
    "running",
    has_ended=False,
    report="<p>one</p>",
)


def runs(registry: Registry) -> list:
    (group,) = registry._client.search_experiments(filter_string="name = 'experiments'")
    return list(registry._client.search_runs([group.experiment_id]))


def files(root: str) -> dict[str, str]:
    return {str(path): path.read_text() for path in Path(root).rglob("*") if path.is_file()}


def test_an_experiment_has_one_run_that_grows_with_its_looks(settings: Settings) -> None:
    assert settings.mlflow_tracking_uri
    root = settings.storage_root
    registry = Registry(settings.mlflow_tracking_uri, root, PSEUDONYMS)
    track(registry, root, TRACKED)
    before = [run.to_dictionary() for run in runs(registry)], files(root)
    track(registry, root, TRACKED)
    assert ([run.to_dictionary() for run in runs(registry)], files(root)) == before
    (run,) = runs(registry)
    assert run.data.params["alpha"] == "0.05" and len(run.data.params["hypothesis"]) == 500
    # What is no number is left out.
    assert run.data.metrics == {"difference": -1.5, "look": 1.0}

    later = replace(
        TRACKED,
        steps=[FIRST, Step(NOW, {"difference": -2.0})],
        state="promoted",
        has_ended=True,
        report="<p>two</p>",
    )
    track(registry, root, later)
    (run,) = runs(registry)
    history = registry._client.get_metric_history(run.info.run_id, "difference")
    assert [(metric.step, metric.value) for metric in history] == [(1, -1.5), (2, -2.0)]
    assert run.info.status == "FINISHED" and run.data.tags["grade_ml.state"] == "promoted"
    (place,) = [name for name in files(root) if name.endswith(REPORT)]
    assert Path(place).read_text() == "<p>two</p>"
    assert run.info.artifact_uri == str(Path(place).parent)

    track(registry, root, replace(TRACKED, key="pooled-3"))
    assert len(runs(registry)) == 2


def test_a_server_that_does_not_answer_is_named(tmp_path: Path) -> None:
    registry = Registry("http://127.0.0.1:1", str(tmp_path), PSEUDONYMS)
    with pytest.raises(ServiceError, match="does not answer"):
        track(registry, str(tmp_path), TRACKED)
    assert not list(tmp_path.iterdir())
