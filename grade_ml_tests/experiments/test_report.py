"""What a reader is shown of an experiment, and that no word of a plan steers the page."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine

from grade_ml.experiments import overview, pictures, report, store
from grade_ml.experiments.idling import why_idle
from grade_ml.experiments.plan import Decision, Look
from grade_ml.experiments.report import Report
from grade_ml.experiments.store import Event, Experiment, Happened
from grade_ml.registry.registry import Registry
from grade_ml.registry.workspace import Workspace
from grade_ml_tests.experiments.plans import STARTS_ON, of_actions, of_models
from grade_ml_tests.factories import PSEUDONYMS

NOW = datetime(2026, 3, 2, 4, tzinfo=UTC)
HOSTILE = "Errs less <script>alert(1)</script> | **bold**"
OPENED = Event(Happened.OPENED, NOW, "grade-ml", "a challenger passed its checks")


def looks(*differences: float) -> tuple[Look, ...]:
    """Return looks of 100 labels more each, by the last of which the treatment is better."""
    return tuple(
        Look(
            as_of=STARTS_ON + timedelta(days=number),
            data_version=f"d{number}",
            looked_at=NOW + timedelta(days=number),
            units=40 + number,
            labels=100 * (number + 1),
            fraction=(number + 1) / 10,
            difference=difference,
            low=difference - 5,
            high=difference + 5,
            z=difference / 2,
            bound=4 - number,
            decision=Decision.BETTER if number == len(differences) - 1 else Decision.CONTINUE,
            reason=HOSTILE,
            figures={
                "p of the ranks": 0.000012,
                "guardrails": {"calibration": {"state": "ok"}, "bias": {"gap": 0.1, "state": "ok"}},
            },
            segments=({"kind": "course", "name": HOSTILE, "difference": -1.0},),
        )
        for number, difference in enumerate(differences)
    )


def of(*differences: float) -> Report:
    plan = of_models(hypothesis=HOSTILE)
    return Report(Experiment(plan, NOW, (OPENED,)), looks(*differences), {}, {})


def test_the_words_name_state_labels_effect_bound_and_decision() -> None:
    text = " ".join(report.words(of(-1.0, -8.0)))
    for part in (
        *("Shadow of pooled, by grade-ml", "since 2026-03-02", "Look 2", "200 labels"),
        *(
            "41 students",
            "20% of those planned",
            "challenger minus champion: -8 ",
            "less is better",
        ),
        *("|z| is 4.00 and reaches the bound of 3.00", "treatment is better"),
    ):
        assert part in text
    assert "no look yet" in report.words(of())[-1]
    unknown = replace(looks(0.0)[0], difference=math.nan, z=math.nan, fraction=math.nan)
    text = " ".join(report.words(replace(of(), looks=(unknown,))))
    assert "nan" not in text and "|z|" not in text


def test_of_a_bandit_the_shares_are_reported_and_no_look_is_missed() -> None:
    bandit = Report(Experiment(of_actions(0.4, 0.3, 0.3), NOW, (OPENED,)), (), {}, {})
    planned = report.words(bandit)[-1]
    assert "standard 40%, none 30%, table-2.csv 30%" in planned and "label" not in planned
    moved = replace(bandit, shares={"standard": 0.7, "none": 0.2, "table-2.csv": 0.1})
    assert "standard 70%, none 20%, table-2.csv 10%" in report.words(moved)[-1]


@pytest.mark.parametrize(
    "seen", [(), looks(-1.0), looks(*([0.0] * 3)), looks(math.nan), looks(*range(40))]
)
def test_every_course_of_looks_can_be_drawn_and_gives_the_same_page_twice(seen) -> None:
    full_report = replace(of(), looks=seen)
    plan = full_report.experiment.plan
    pages = {report.html(full_report, pictures.effect(plan, seen)) for _ in range(2)}
    (page,) = pages
    known = any(math.isfinite(look.difference) for look in seen)
    assert "<script>alert" not in page and page.count("data:image/png;base64,") == known
    assert known or "no look has a difference yet" in page


def test_the_page_holds_arms_figures_guardrails_segments_and_events() -> None:
    full_report = of(-1.0, -8.0)
    page = report.html(full_report, pictures.effect(full_report.experiment.plan, full_report.looks))
    for part in (
        "pooled version 2",
        "Guardrails",
        "calibration",
        "p of the ranks",
        "passed its checks",
    ):
        assert part in page
    assert "&lt;script&gt;" in page  # of the segment's name
    assert "1.2e-05" in page and "<td>calibration</td><td>ok</td><td></td>" in page


def test_what_runs_is_reported_and_published_though_mlflow_is_down(
    engine: Engine, tmp_path: Path
) -> None:
    registry = Registry("http://127.0.0.1:1", str(tmp_path), PSEUDONYMS)
    shadow, split = of_models(hypothesis=HOSTILE), of_actions()
    name = shadow.experiment_id
    with engine.begin() as connection:
        assert "no champion" in str(why_idle(connection))
        for plan in (shadow, split):
            store.create(connection, plan, NOW, plan.owner, "created")
        for look in looks(-1.0, -8.0):
            store.keep_look(connection, name, look)
        assert why_idle(connection) is None
        second, first = overview.running(connection, STARTS_ON)
        # On its first day the second look has not been taken.
        assert (first.looks, first.labels, first.decision) == (1, 100, "continue")
        assert (second.kind, second.looks, second.fraction) == ("split", 0, None)
        store.record(connection, name, Event(Happened.PROMOTED, NOW, "grade-ml", "it errs less"))
        reports = overview.going_on(connection, STARTS_ON + timedelta(days=1))
        assert {summary.name: summary.state for summary in reports} == {
            name: "promoted",
            split.experiment_id: "running",
        }
        assert [row.experiment for row in overview.running(connection, STARTS_ON)] == [
            split.experiment_id
        ]
        assert not [
            row
            for row in overview.going_on(connection, STARTS_ON + timedelta(days=60))
            if row.name == name
        ]
        workspace = Workspace(connection, registry, str(tmp_path), STARTS_ON, NOW)
        published = report.publish(workspace, reports)
    assert len(published.degraded) == len(published.places) == 2
    assert all("does not answer" in reason for reason in published.degraded)
    pages = {path.name: path.read_text() for path in (tmp_path / "experiments").iterdir()}
    assert set(map(str, pages)) == {Path(place).name for place in published.places.values()}
    assert any("promoted" in page for page in pages.values())
