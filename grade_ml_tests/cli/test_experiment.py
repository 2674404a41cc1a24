"""`grade-ml experiment`, as a person and as a program call it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from grade_ml.cli import group
from grade_ml.core.errors import ExperimentError, NotFoundError
from grade_ml.experiments import store
from grade_ml.experiments.lifecycle import tick
from grade_ml_tests.conftest import as_environment
from grade_ml_tests.experiments.lab import Lab
from grade_ml_tests.experiments.plans import STARTS_ON
from grade_ml_tests.experiments.test_store import LOOK

SPLIT = [
    *("--kind", "split", "--arms", "standard,none", "--metric", "submitted"),
    *("--course", "c-1", "--hypothesis"),
]


def experiment(lab: Lab, *words: str) -> Result:
    environment = {**as_environment(lab.settings), "GRADE_ML_AS_OF": lab.as_of.isoformat()}
    return CliRunner().invoke(group, ["experiment", *words], env=environment)


def answer(lab: Lab, *words: str) -> Any:
    result = experiment(lab, *words, "--json")
    assert result.exit_code == 0, (result.output, result.exception)
    return json.loads(result.stdout)


def test_an_experiment_on_actions_is_planned_shown_and_stopped(lab: Lab, tmp_path: Path) -> None:
    assert "No experiment yet" in experiment(lab, "list").stdout and answer(lab, "list") == []
    begun = experiment(lab, "create", "advice", *SPLIT, "Advice helps.", "--owner", "dean")
    assert begun.exit_code == 0, begun.exception
    assert "3 students with 6 labels detect a difference of" in begun.stdout
    assert "advice begins on 2026-03-02" in begun.stdout
    assert "6 labels are expected" in begun.stdout and "last day is 2026-04-05" in begun.stdout
    (row,) = answer(lab, "list")
    assert (row["experiment"], row["state"], row["labels"]) == ("advice", "running", 0)
    assert "advice" in experiment(lab, "list").stdout
    with lab.engine.begin() as connection:
        store.keep_look(connection, "advice", LOOK)
    shown = experiment(lab, "show", "advice").stdout
    for words in ("by dean: Advice helps.", "80 labels", "standard", "too early", "What happened"):
        assert words in " ".join(shown.split()), shown
    details = answer(lab, "show", "advice")
    assert details["plan"]["planned_labels"] == 6 and details["looks"][0]["units"] == 40
    assert details["plan"]["arms"][1] == {
        "name": "none",
        "model": None,
        "action": "none",
        "share": 0.5,
    }
    assert [event["kind"] for event in details["events"]] == ["opened"]
    ended = answer(lab, "stop", "advice", "--reason", "the term was cut", "--by", "dean")
    assert [stopped["happened"] for stopped in ended] == ["stopped"]
    (row,) = answer(lab, "list")
    assert (
        row["state"] == "stopped" and "the term was cut" in experiment(lab, "show", "advice").stdout
    )
    again = experiment(lab, "stop", "advice", "--reason", "the term was cut", "--by", "dean")
    assert "nothing changed" in again.stdout
    refused = experiment(lab, "veto", "advice", "--reason", "no", "--by", "dean")
    assert isinstance(refused.exception, ExperimentError)
    unknown = experiment(lab, "show", "nowhere")
    assert isinstance(unknown.exception, NotFoundError)


def test_versions_are_compared_vetoed_and_promoted_by_hand(lab: Lab) -> None:
    champion, challenger = lab.pair()
    arms = f"{champion.version},{challenger.version}"
    words = ["--kind", "shadow", "--metric", "score_error", "--hypothesis", "It errs less."]
    plan = answer(lab, "create", "mine", "--arms", arms, *words, "--labels", "0")["plan"]
    assert plan["planned_labels"] is None and plan["stops_on"] is None
    assert [arm["model"] for arm in plan["arms"]] == [
        ["pooled", champion.version],
        ["pooled", challenger.version],
    ]
    open_ = experiment(lab, "promote", "mine", "--reason", "urgent", "--by", "dean")
    assert open_.stdout.splitlines()[0] == "mine: forced, by dean: urgent", open_.exception
    assert lab.serving() == challenger
    (_, watched) = answer(lab, "list")
    assert (watched["kind"], watched["state"]) == ("watch", "running")
    vetoed = experiment(lab, "veto", watched["experiment"], "--reason", "it stays", "--by", "dean")
    assert "vetoed, by dean: it stays" in vetoed.stdout
    assert tick(lab.opened) == []


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--kind", "watch"], "'watch' is not one of"),
        (["--kind", "shadow", "--arms", "5"], "compares two versions"),
        (["--kind", "shadow", "--arms", "5,x"], "compares two versions"),
        (["--shares", ".5"], "2 arms and 1 shares"),
        (["--shares", "a,b"], "could not convert"),
        (["--starts-on", "soon"], "soon"),
    ],
)
def test_what_is_misspelled_is_a_matter_of_usage(lab: Lab, words: list[str], reason: str) -> None:
    result = experiment(lab, "create", "advice", *SPLIT, "Advice helps.", *words)
    assert result.exit_code == 2 and reason in " ".join(result.output.split())
    assert lab.events() == {}


def test_another_table_of_interventions_is_read_from_any_folder(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from grade_ml.early_warning.interventions import DEFAULT_TABLE

    monkeypatch.chdir(tmp_path)
    (tmp_path / "calls.csv").write_bytes(DEFAULT_TABLE.read_bytes())
    words = [*SPLIT, "Calls help more.", "--arms", "standard,calls.csv", "--shares", ".7,.3"]
    plan = answer(lab, "create", "calls", *words)["plan"]
    assert plan["arms"][1] == {
        "name": "calls",
        "model": None,
        "action": str(tmp_path / "calls.csv"),
        "share": 0.3,
    }
    assert plan["starts_on"] == STARTS_ON.isoformat()
    early = experiment(lab, "create", "early", *SPLIT, "x", "--starts-on", "2026-03-01")
    assert isinstance(early.exception, ExperimentError) and "is past" in early.exception.message


def test_the_time_to_detect_a_difference_that_matters_is_stated(lab: Lab) -> None:
    outlook = answer(lab, "create", "advice", *SPLIT, "Advice helps.", "--effect", ".1")["outlook"]
    assert "times those of all 1 known weeks. Look for a larger effect" in outlook


@pytest.mark.parametrize(
    ("option", "least", "most"),
    [("--alpha", "1e-6", ".49"), ("--power", ".06", ".999"), ("--effect", "1e-6", "1e6")],
)
def test_any_rates_of_a_plan_are_described(lab: Lab, option: str, least: str, most: str) -> None:
    for name, value in (("least", least), ("most", most)):
        begun = experiment(lab, "create", name, *SPLIT, "Advice helps.", option, value)
        assert begun.exit_code == 0, begun.exception
        lab.reset()


def test_labels_and_last_day_go_with_each_other_whichever_is_named(lab: Lab) -> None:
    words = [*SPLIT, "Advice helps."]
    sooner = answer(lab, "create", "sooner", *words, "--stops-on", "2026-03-30")["plan"]
    assert (sooner["planned_labels"], sooner["stops_on"]) == (3, "2026-03-30")
    lab.reset()
    fewer = answer(lab, "create", "fewer", *words, "--labels", "2")["plan"]
    assert (fewer["planned_labels"], fewer["stops_on"]) == (2, "2026-04-05")
