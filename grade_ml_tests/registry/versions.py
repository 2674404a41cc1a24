"""Versions of models without content, and what moves them between stages."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from grade_ml.core import database
from grade_ml.core.settings import Settings
from grade_ml.registry.history import Stage
from grade_ml.registry.registry import ModelVersion, Registry
from grade_ml.registry.transition import Evidence, Stages
from grade_ml_tests.factories import PSEUDONYMS

NOW = datetime(2026, 3, 1, 2, 0, tzinfo=UTC)
WHY = Evidence("it errs less", {"rmse": 11.5, "unknown": float("nan")})


def stages_of(settings: Settings) -> Stages:
    """Return the stages of an installation."""
    registry = Registry(str(settings.mlflow_tracking_uri), settings.storage_root, PSEUDONYMS)
    return Stages(database.connect(str(settings.database_url)), registry, NOW)


def register(
    stages: Stages, name: str, folder: Path, *through: Stage, **parameters: object
) -> ModelVersion:
    """Register a version and bring it through stages."""
    (folder / "model").mkdir(exist_ok=True)
    (folder / "model" / "weights").write_bytes(b"weights")
    version = stages.registry.register(
        name,
        folder / "model",
        metrics={},
        parameters=parameters,
        features=(),
        data_version="data",
        code_version="code",
        trained_at=NOW,
    )
    for stage in through:
        stages.transition(version, stage, WHY)
    return version
