"""Prometheus reads exactly the known values, with any name of a course."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as trials
from prometheus_client.parser import text_string_to_metric_families

from grade_ml.core.errors import ConfigurationError
from grade_ml.core.settings import Settings
from grade_ml.maintenance.exposition import exposition, write
from grade_ml.maintenance.facts import Course, Facts
from grade_ml.maintenance.health import health
from grade_ml_tests import REPOSITORY
from grade_ml_tests.core.test_texts import anything
from grade_ml_tests.maintenance.facts import NOON, NOTHING, WELL
from grade_ml_tests.maintenance.test_health import any_facts

#: By the conventions of Prometheus the last words of a name are its unit, in base units.
_NAME = re.compile(r"grade_ml_[a-z_]+")
_OTHER_UNITS = re.compile(r"_(ms|minutes|hours|days|kb|mb|gb|percent|total|count|sum|bucket)$")


def read(facts: Facts) -> dict[str, dict[tuple[str, ...], float]]:
    """Return values by metric and labels, as Prometheus reads them."""
    text = exposition(facts, health(facts)).decode()
    return {
        family.name: {tuple(sample.labels.values()): sample.value for sample in family.samples}
        for family in text_string_to_metric_families(text)
    }


def test_what_is_known_is_read_in_base_units():
    values = read(WELL)
    assert values["grade_ml_health_score"] == {(): 100}
    assert values["grade_ml_health_timestamp_seconds"] == {(): NOON.timestamp()}
    assert values["grade_ml_health_part_score"]["disk",] == 100
    assert values["grade_ml_job_runs"]["monitor_model_performance", "success"] == 84
    assert values["grade_ml_job_duration_seconds"]["train_advanced_ml_models",] == 900
    assert values["grade_ml_runs_wait_seconds"] == {(): 600}
    assert values["grade_ml_disk_free_bytes"] == {("home",): 90e9}
    assert values["grade_ml_step_peak_memory_bytes"]["pooled_ensemble",] == 2e9
    assert values["grade_ml_database_connections_limit"]["grade_ml",] == 100


def test_each_metric_occurs_once_with_a_help_and_a_name_by_the_conventions():
    text = exposition(WELL, health(WELL)).decode()
    families = list(text_string_to_metric_families(text))
    names = [metric.name for metric in families]
    assert len(names) == len(set(names)) > 20
    for family in families:
        assert _NAME.fullmatch(family.name) and not _OTHER_UNITS.search(family.name), family.name
        assert family.documentation.endswith(".") and family.type == "gauge", family.name


def test_what_is_not_known_has_no_value():
    metrics = read(NOTHING)
    known = {name for name, values in metrics.items() if values}
    assert not known & {
        "grade_ml_records_loaded_timestamp_seconds",
        "grade_ml_model_health_score",
        "grade_ml_disk_free_bytes",
        "grade_ml_memory_size_bytes",
        "grade_ml_assets",
        "grade_ml_job_duration_seconds",
    }
    assert set(metrics["grade_ml_health_part_score"]) == {("queue",)}


def test_the_docs_name_metrics_that_there_are():
    page = (REPOSITORY / "docs" / "health.md").read_text()
    named = set(re.findall(r"\bgrade_ml_[a-z_]+", page.split("## Figures for Prometheus")[1]))
    assert named and named <= set(read(WELL)) | {"grade_ml_tests"}


def test_a_place_that_cannot_be_written_is_named_with_its_setting(tmp_path: Path):
    (tmp_path / "file").write_text("")
    place = tmp_path / "file" / "grade_ml.prom"
    settings = Settings(_env_file=None, home=tmp_path, metrics_file=place)
    with pytest.raises(ConfigurationError, match=str(place.parent)) as caught:
        write(settings, b"")
    assert "GRADE_ML_METRICS_FILE" in caught.value.remedy


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_not_replaced_by_a_file(tmp_path: Path, make: Callable[[Path], None]):
    place = tmp_path / "null"
    make(place)
    settings = Settings(_env_file=None, home=tmp_path, metrics_file=place)
    with pytest.raises(ConfigurationError, match=str(place)):
        write(settings, b"")
    assert not place.is_file()


@given(any_facts)
@trials(max_examples=20)
def test_whatever_is_known_can_be_read(facts: Facts):
    assert read(facts)["grade_ml_health_part_score"]


@pytest.mark.security
@given(anything)
@trials(max_examples=50)
def test_no_course_brings_a_metric_of_its_own(name: str):
    name = name.replace("\ud800", "")  # no text of PostgreSQL holds a half of a character
    metrics = read(replace(WELL, courses={name: Course(41.0)}))
    assert set(metrics) == set(read(WELL))
    assert list(metrics["grade_ml_model_health_score"].values()) == [41]
