from __future__ import annotations

import pytest
from dagster import (
    AssetCheckResult,
    AssetCheckSeverity,
    DataVersion,
    MarkdownMetadataValue,
    MaterializeResult,
    MetadataValue,
)

from grade_ml.core import quantities
from grade_ml.orchestration.reporting.entries import entries, result


def test_figures_get_words_a_unit_digits_and_what_their_terms_mean():
    picture = MetadataValue.md("![a](b)")
    shown = entries(
        {
            **{"rmse": 12.345678, "naive_rmse": 30.91343, "coverage80": 0.798567, "brier": 0.1075},
            **{"peak_megabytes": 1167.7539, "model_version": 3, "champion": True, "auc": None},
            **{
                "ece": float("nan"),
                "dagster/row_count": 7,
                "degraded": [],
                "risk_calendar": picture,
            },
            "page of my_experiment": MetadataValue.path("a"),
        }
    )
    meaning = shown.pop("meaning")
    assert shown == {
        **{"RMSE (points)": 12.35, "RMSE of the naive forecast (points)": 30.91},
        **{"coverage of the 80% interval (%)": 79.9, "Brier score": 0.107},
        **{"peak memory (MB)": 1167.8, "model version": 3, "champion": True},
        **{"dagster/row_count": 7, "degraded": [], "risk calendar": picture},
        "page of my_experiment": MetadataValue.path("a"),
    }
    assert isinstance(meaning, MarkdownMetadataValue)
    assert "- **Brier score**: mean squared" in meaning.value
    assert "ECE" not in meaning.value and "AUC" not in meaning.value


def test_what_is_shown_already_stays_as_it_is():
    once = entries({"rmse": 12.345678, "as_of": "2024-01-01", "missing_due_on": 0.041})
    assert once["due on missing (%)"] == 4.1
    assert entries({name: value for name, value in once.items() if name != "meaning"}) == {
        name: value for name, value in once.items() if name != "meaning"
    }


def test_a_step_gives_figures_of_assets_and_checks_alike_and_loses_nothing():
    check = AssetCheckResult(
        passed=False,
        asset_key="a",
        check_name="c",
        metadata={"largest_gap": 1.23456789e-6, "failed": {}},
        severity=AssetCheckSeverity.WARN,
        description="d",
    )
    given = MaterializeResult(
        asset_key="a",
        metadata={"mae": 3.14159},
        check_results=[check],
        data_version=DataVersion("1"),
        tags={"t": "v"},
    )
    step = result(given)
    assert step.metadata["MAE (points)"] == 3.14
    (seen,) = step.check_results
    assert seen.metadata["largest error of a sum"].value == 0.000001
    assert seen.metadata["failed"].value == {}
    assert (seen.passed, seen.check_name, seen.severity, seen.description) == (
        *(False, "c", AssetCheckSeverity.WARN),
        "d",
    )
    assert (step.asset_key, step.data_version, step.tags) == (
        *(given.asset_key, given.data_version),
        given.tags,
    )
    assert result(MaterializeResult()) == MaterializeResult()
    assert result("anything else") == "anything else"


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("rmse", 3.0, "3.00"),
        ("other", 1234567.8, "1,234,568"),
        ("other", 0.00001234567, "1.235e-05"),
        ("age_hours", 1344.0, "56.0"),
        ("outdated_bytes", 1_600_000, "1.6"),
        ("note", "a_b", "a_b"),
        ("rmse", float("inf"), ""),
    ],
)
def test_a_cell_has_the_same_digits(name: str, value: object, text: str):
    assert quantities.text(name, value) == text


def test_a_wide_table_is_turned_and_states_what_its_terms_mean():
    first, second = quantities.turned(
        {"early": {"rmse": 24.772, "n": 227}, "late": {"rmse": 5.14, "n": 187}}
    )
    assert second == {
        **{"figure": "RMSE (points)", "early": 24.77, "late": 5.14},
        "meaning": quantities.quantity("rmse").meaning,
    }
    assert first == {"figure": "predictions compared", "early": 227, "late": 187, "meaning": ""}
