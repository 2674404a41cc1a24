"""The job of explanations on a small campus."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from grade_ml.orchestration import plots
from grade_ml.orchestration.build import build_defs
from grade_ml.orchestration.catalog import synchronize
from grade_ml.orchestration.ranges import range_tags
from grade_ml.orchestration.running import QUIET
from grade_ml_tests.monitoring import world as campuses
from grade_ml_tests.orchestration.test_plots import png


@pytest.mark.slow
@pytest.mark.security
def test_the_job_explains_every_course(settings, engine, instance):
    campus = campuses.world()
    campuses.fill(settings, engine, campus)
    courses = synchronize(instance, campus.courses)
    now = settings.model_copy(update={"as_of": campuses.TODAY})
    job = build_defs(now).resolve_job_def("update_model_explanations")
    result = job.execute_in_process(
        run_config=QUIET,
        instance=instance,
        tags=range_tags(courses[0], courses[-1]),
        raise_on_error=False,
    )
    assert result.success, [
        event.step_failure_data.error for event in result.get_step_failure_events()
    ]
    checks = {
        evaluation.check_name: evaluation for evaluation in result.get_asset_check_evaluations()
    }
    assert set(checks) >= {"adds_up", "importance_in_band", "groups_fare_alike"}
    assert checks["adds_up"].passed and checks["adds_up"].metadata["rows"].value > 50
    assert "reason" not in checks["groups_fare_alike"].metadata
    for node, pictures in {
        "shap_explanations": ["beeswarm"],
        "feature_importance": ["importance"],
        "decision_paths": [],
    }.items():
        events = result.asset_materializations_for_node(node)
        assert sorted(str(event.partition) for event in events) == sorted(courses)
        for event in events:
            assert all(png(event.metadata[name]) for name in pictures)
            assert "sim-" not in str(event.metadata)
    # Whoever sees the UI reads metadata: nothing in it is about a single student.
    with engine.connect() as connection:
        stored = connection.execute(sa.text("select body from explanations.advice")).scalars().all()
    log = str([str(event) for event in result.all_events])
    words = [text for body in stored for text in _sentences(body)]
    assert len(words) > 100
    assert not [text for text in words if text in log]
    for event in result.asset_materializations_for_node("decision_paths"):
        counts = [row.data["students asked"] for row in event.metadata["questions"].records]
        assert all(number >= plots.FEWEST for number in counts)


def _sentences(body) -> list[str]:
    """Return every text of a stored advice that is long enough to be about a student."""
    if isinstance(body, dict):
        return [text for value in body.values() for text in _sentences(value)]
    if isinstance(body, list):
        return [text for value in body for text in _sentences(value)]
    return [body] if isinstance(body, str) and len(body) > 40 else []
