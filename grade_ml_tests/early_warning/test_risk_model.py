"""The artifact of risk: learned once, the same when read again."""

from __future__ import annotations

import pandas as pd

from grade_ml.early_warning.anomalies import Kind
from grade_ml.early_warning.risk_model import RiskModel
from grade_ml_tests.early_warning.made import forecasts, panel


def test_a_model_is_checked_on_the_newest_term_and_survives_saving(tmp_path):
    seen = [
        panel(100, seed=n, section=f"s{n}", started_on=19_000 + 200 * (n // 3)) for n in range(6)
    ]
    frame = pd.concat([forecasts(class_panel) for class_panel in seen])
    model = RiskModel.fit(frame, seen)
    assert model.degraded == ()
    assert [part.group for part in model.evaluation] == ["all", "no trouble yet"]
    assert model.evaluation[0].weeks == 3 * 100 * 3
    assert set(model.reference) == set(Kind)
    model.save(tmp_path)
    assert RiskModel.load(tmp_path) == model
    before = (tmp_path / "risk.json").read_bytes()
    RiskModel.fit(frame, seen).save(tmp_path)
    assert (tmp_path / "risk.json").read_bytes() == before


def test_one_small_term_reports_what_it_lacks():
    class_panel = panel(20)
    model = RiskModel.fit(forecasts(class_panel), [class_panel])
    assert model.evaluation == ()
    assert "too few ended sections to calibrate" in model.degraded[0]
    assert "not checked on a later one" in model.degraded[1]


def test_no_training_term_at_all_gives_a_degraded_model():
    class_panel = panel(20)
    model = RiskModel.fit(forecasts(class_panel).head(0), [])
    assert model.paths.dependence > 0
    assert len(model.degraded) == 2
