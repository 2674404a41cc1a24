"""Every job and the engine without each optional family alone, and without any.

Without any, all jobs run on an empty installation. Until a family is first imported, what runs
without it is what runs with it; so for each family alone, one installation with all of them is
brought to there once, and copied.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from grade_ml.campus import simulated
from grade_ml.campus.providers.server import ProviderServer, serve
from grade_ml.core import database, optional
from grade_ml.core.settings import Settings
from grade_ml.external.settings import PREFIX
from grade_ml_tests.absent import modules, without
from grade_ml_tests.conftest import TABLES, as_environment, installation, new_database
from grade_ml_tests.orchestration.conftest import fill
from grade_ml_tests.orchestration.pipeline import ENGINE

TODAY = date(2025, 11, 10)
CAMPUS = simulated.CampusConfig(students=60, courses=2, terms=4, seed=4)
ALL = tuple(family.extra for family in optional.FAMILIES)
FORECASTS, ENSEMBLE = "generate_time_series_forecasts", "train_advanced_ml_models"
LAST = ("monitor_model_performance", "manage_ab_tests", "update_model_explanations")
#: By moment of the installation with all of them, the jobs that lead there from the last moment.
UNTIL: Mapping[str, tuple[str, ...]] = {
    "empty": (),
    "trained": ("collect_external_data", "train_traditional_models"),
    "forecast": (FORECASTS,),
    "served": (ENSEMBLE, LAST[0]),
}
JOBS = (*UNTIL["trained"], FORECASTS, ENSEMBLE, *LAST)
#: From which moment on a family matters, and which jobs it matters to.
MATTERS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    **dict.fromkeys(("deep", "prophet", "forecast"), ("trained", (FORECASTS,))),
    "boosting": ("trained", (FORECASTS, ENSEMBLE, LAST[0], LAST[2])),
    "tuning": ("forecast", (ENSEMBLE,)),
    "bandits": ("served", (LAST[1],)),
    "explain": ("served", (LAST[2],)),
}

#: By family the assets that are degraded without it, and a part of their reasons.
REASONS: Mapping[str, Mapping[str, str]] = {
    "boosting": {
        "pooled_ensemble": "catboost is not installed",
        "grade_predictions": "xgboost is not installed",
        "trajectory_model": "lightgbm is not installed",
        "trajectory_forecasts": "lightgbm is not installed",
        "shap_explanations": "xgboost is not installed",
    },
    "deep": dict.fromkeys(
        ("trajectory_model", "trajectory_forecasts"), "tensorflow is not installed"
    ),
    "tuning": {"pooled_ensemble": "optuna is not installed"},
    "explain": {
        "lime_explanations": "lime is not installed",
        "counterfactuals": "dice_ml is not installed",
        "feature_importance": "fairlearn is not installed",
    },
    "prophet": dict.fromkeys(
        ("trajectory_model", "trajectory_forecasts"), "prophet is not installed"
    ),
    "forecast": dict.fromkeys(
        ("trajectory_model", "trajectory_forecasts"), "statsforecast is not installed"
    ),
    # Only a bandit with rewards learns: see `test_allocations`.
    "bandits": {},
}


def test_what_an_extra_installs_alone_is_missing() -> None:
    assert {"lightgbm", "catboost", "numba"} <= modules(ALL)
    assert not {"sklearn", "pandas", "scipy", "numpy", "statsmodels"} & modules(ALL)
    assert "keras" in modules(["deep"]) and "lightgbm" not in modules(["deep"])


def test_the_hook_reaches_children_and_hides_the_library(tmp_path: Path) -> None:
    child = "import importlib.util; print(importlib.util.find_spec('prophet')); import prophet"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-P', '-c', {child!r}])"
    ran = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **without(["prophet"], tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.stdout.strip() == "None" and "ModuleNotFoundError" in ran.stderr


@pytest.fixture(scope="module")
def providers() -> Iterator[ProviderServer]:
    with serve(CAMPUS, TODAY) as server:
        yield server


class Moments:
    """An installation that can be brought back to earlier moments: its databases and its files.

    It keeps its names and its folder, which models and runs hold.
    """

    def __init__(self, settings: Settings, folder: Path, admin: sa.Engine) -> None:
        self.settings, self.folder, self._admin = settings, folder, admin
        urls = (settings.database_url, settings.dagster_postgres_url, settings.mlflow_tracking_uri)
        self._databases = [sa.make_url(str(url)).database for url in urls]

    def keep(self, moment: str) -> None:
        self._copy(("", f"_{moment}"))
        shutil.copytree(self.folder, self.folder.with_name(moment))

    def bring_back(self, moment: str) -> None:
        self._copy((f"_{moment}", ""))
        shutil.rmtree(self.folder)
        shutil.copytree(self.folder.with_name(moment), self.folder)

    def _copy(self, ends: tuple[str, str]) -> None:
        with self._admin.connect() as connection:
            for name in self._databases:
                source, target = (f"{name}{end}" for end in ends)
                connection.execute(sa.text(f'drop database if exists "{target}" with (force)'))
                copy = f'create database "{target}" template "{source}" strategy file_copy'
                connection.execute(sa.text(copy))


@pytest.fixture(scope="module")
def campus(
    server: database.DatabaseUrls, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Moments]:
    """An installation with two courses, whose models are tuned in two seconds."""
    folder = tmp_path_factory.mktemp("optional") / "installation"
    folder.mkdir()
    admin = sa.create_engine(server.dagster, isolation_level="AUTOCOMMIT")
    with (
        new_database(server, "grade_ml_optional", TABLES) as url,
        installation(server, url, folder) as settings,
    ):
        engine = database.connect(url)
        fill(engine, simulated.gradebook(CAMPUS, TODAY))
        engine.dispose()
        campus = Moments(settings, folder, admin)
        campus.keep("empty")
        yield campus
    admin.dispose()


@pytest.fixture(scope="module")
def imported(campus: Moments, providers: ProviderServer) -> dict[str, set[str]]:
    """The libraries that an installation with all of them imported until each moment."""
    libraries: dict[str, set[str]] = {"empty": set()}
    for before, (moment, jobs) in zip(UNTIL, list(UNTIL.items())[1:], strict=False):
        report = nightly_run(campus, providers, before, (), *jobs)
        require_reported(report, ())
        libraries[moment] = libraries[before] | set(report["imported"])
        campus.keep(moment)
    return libraries


def nightly_run(
    campus: Moments,
    providers: ProviderServer,
    moment: str,
    lacking: tuple[str, ...],
    *jobs: str,
    days: int = 0,
) -> dict[str, Any]:
    """Run jobs from a moment on in a process that lacks families, and return what it prints."""
    campus.bring_back(moment)
    ran = subprocess.run(
        [sys.executable, "-m", "grade_ml_tests.orchestration.pipeline", *jobs],
        env={
            **os.environ,
            **as_environment(campus.settings),
            **without(lacking, campus.folder),
            f"{PREFIX}PROVIDERS_URL": providers.url,
            "GRADE_ML_AS_OF": str(TODAY + timedelta(days=days)),
            "GRADE_ML_TUNING_SECONDS": "2",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    report: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    assert not report["failures"]
    return report


def require_reported(report: dict[str, Any], lacking: tuple[str, ...], *silent: str) -> None:
    """Fail unless each missing family is reported where it is missing, and no other is."""
    for family, texts in REASONS.items():
        for asset, reason in texts.items():
            if asset in report["incomplete"] and asset not in silent:
                is_reported = any(reason in line for line in report["incomplete"][asset])
                assert is_reported == (family in lacking), (asset, report["incomplete"][asset])


@pytest.mark.slow
def test_without_any_of_them(campus: Moments, providers: ProviderServer) -> None:
    report = nightly_run(campus, providers, "empty", ALL, *JOBS, ENGINE)
    assert report["imported"] == []
    assert {asset for texts in REASONS.values() for asset in texts} <= report["incomplete"].keys()
    require_reported(report, ALL)
    answers = report["engine"]
    assert answers["prediction"]["level"] in {"course ensemble", "pooled ensemble"}
    for name in ("prediction", "explanation"):
        reasons = answers[name].get("prediction", answers[name])["degraded"]
        assert any("lightgbm is not installed" in reason for reason in reasons)
    assert "dice_ml is not installed" in answers["what_if"]["what_if"]["degraded"][0]
    assert answers["pairs"]["error"] == "NotReadyError"
    for library in ("tensorflow", "prophet", "statsforecast", "lightgbm"):
        assert any(f"{library} is not" in reason for reason in answers["forecast"]["degraded"])


@pytest.mark.slow
@pytest.mark.parametrize("family", ALL)
def test_without_one_of_them(
    campus: Moments, providers: ProviderServer, imported: dict[str, set[str]], family: str
) -> None:
    moment, jobs = MATTERS[family]
    assert not imported[moment] & set(optional.family(family).modules)
    report = nightly_run(campus, providers, moment, (family,), *jobs, ENGINE)
    assert REASONS[family].keys() <= report["incomplete"].keys()
    require_reported(report, (family,))
    answers = report["engine"]
    assert "error" not in answers["prediction"] and answers["forecast"]["assignments"]
    for name in ("explanation", "what_if"):
        assert answers[name]["explanation"]["risk"]["contributions"]


@pytest.mark.slow
def test_a_day_after_models_were_trained_with_boosted_trees(
    campus: Moments, providers: ProviderServer, imported: dict[str, set[str]]
) -> None:
    assert {"xgboost", "lightgbm", "catboost"} <= imported["served"]
    report = nightly_run(
        campus, providers, "served", ("boosting",), FORECASTS, LAST[2], ENGINE, days=1
    )
    # Nothing was trained or predicted since, and what serves may have no use for boosted trees.
    trained = ("pooled_ensemble", "grade_predictions", "trajectory_model", "shap_explanations")
    require_reported(report, ("boosting",), *trained)
    assert "error" not in report["engine"]["prediction"]
