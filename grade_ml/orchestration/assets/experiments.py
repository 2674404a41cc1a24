"""The group `experiments`: the students of each arm, looks, allocations and promotions."""

from functools import partial

from dagster import AssetCheckSpec, MaterializeResult, ResourceParam, asset

from grade_ml.orchestration.degradation import complete, is_complete
from grade_ml.orchestration.queue import EXPERIMENTS
from grade_ml.orchestration.reporting import experiments as reporting
from grade_ml.orchestration.resources import Platform
from grade_ml.orchestration.steps import step

#: The records that show how the actions of an experiment affect students.
_FARES = [
    *("experiment_assignments", "interventions"),
    *("sections", "enrollments", "assignments", "results"),
]

_experiments = partial(
    asset,
    group_name="experiments",
    owners=["team:ml-engineering"],
    code_version="1",
    pool=EXPERIMENTS,
)


@_experiments(
    deps=["students", "sections", "enrollments"],
    kinds={"postgres"},
    metadata={
        "dagster/table_name": "experiments.assignment",
        "feedback": "bandit_allocations of earlier ticks, by which newcomers are divided",
    },
    check_specs=[
        AssetCheckSpec(
            "arms_as_planned",
            asset="experiment_assignments",
            description="The arms of each split have the planned sizes: such deviations happen by "
            "chance more often than once in a thousand.",
        )
    ],
)
@step
def experiment_assignments(platform: ResourceParam[Platform]) -> MaterializeResult:  # type: ignore[type-arg]
    """Assign each student of a split or bandit to an arm, permanently, by a salted hash of the id.

    If students are not divided (both versions of a model score all students), there is nothing to
    assign. Later ticks add new students; a student who has an arm keeps it.
    """
    from grade_ml.experiments import nightly, overview

    with platform.workspace() as workspace:
        assigned = nightly.assignments(workspace)
        wrong = overview.wrong_sizes(workspace.connection)
    return MaterializeResult(
        metadata={**_day(platform), **reporting.of_students(assigned)},
        check_results=[reporting.arms_as_planned(wrong)],
    )


@_experiments(
    deps=["grade_predictions", "students", *_FARES],
    kinds={"scipy", "postgres"},
    metadata={
        "dagster/table_name": "experiments.look",
        "feedback": "bandit_allocations of earlier ticks, whose shares the reports show",
    },
    check_specs=[
        AssetCheckSpec(
            "looked_at",
            asset="experiment_results",
            description="Every running experiment could be evaluated; one that could not has a "
            "reason, and no decision follows from it.",
        ),
    ],
)
@step
def experiment_results(platform: ResourceParam[Platform]) -> MaterializeResult:  # type: ignore[type-arg]
    """Evaluate each running experiment, if new labels have arrived, and state the decision.

    The decision is valid for any number of looks: bounds by Lan and DeMets if the number of labels
    is planned, otherwise a confidence sequence.
    """
    from grade_ml.experiments import nightly, overview

    with platform.workspace() as workspace:
        seen = nightly.results(workspace)
        reports = overview.going_on(workspace.connection, workspace.as_of)
    return MaterializeResult(
        metadata={**_day(platform), **reporting.of_looks(reports, seen)},
        check_results=[reporting.looked_at(seen)],
    )


@_experiments(
    deps=["students", *_FARES],
    kinds={"mabwiser", "postgres"},
    metadata={"dagster/table_name": "experiments.allocation"},
    check_specs=[complete("bandit_allocations")],
)
@step
def bandit_allocations(platform: ResourceParam[Platform]) -> MaterializeResult:  # type: ignore[type-arg]
    """Compute the share of new students that each arm of a bandit gets, from the rewards so far."""
    from grade_ml.experiments import nightly

    with platform.workspace() as workspace:
        allocated = nightly.allocations(workspace)
    return MaterializeResult(
        metadata={**_day(platform), **reporting.of_shares(allocated)},
        check_results=[is_complete(bandit.reason for bandit in allocated if bandit.reason)],
    )


@_experiments(
    deps=["experiment_results", "bandit_allocations", "pooled_ensemble", *_FARES],
    kinds={"mlflow", "postgres"},
    check_specs=[complete("promotions")],
)
@step
def promotions(platform: ResourceParam[Platform]) -> MaterializeResult:  # type: ignore[type-arg]
    """Carry out the decisions: promote, retire or roll back versions, and open due experiments.

    A challenger that passed its checks gets an experiment against the champion; after a promotion,
    the former champion is monitored beside the new one. Each experiment's page is written,
    and MLflow is synchronized.
    """
    from grade_ml.experiments import nightly

    done = nightly.promotions(platform.workspace)
    return MaterializeResult(
        metadata={**_day(platform), **reporting.of_promotions(done)},
        check_results=[is_complete(done.degraded)],
    )


def _day(platform: Platform) -> dict[str, str]:
    return {"as_of": platform.as_of.isoformat()}


EXPERIMENT_ASSETS = [
    experiment_assignments,
    experiment_results,
    bandit_allocations,
    promotions,
]
