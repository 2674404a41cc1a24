"""The group `experiments`: who is in which arm, what each look says, and what follows from it."""

from functools import partial

from dagster import AssetCheckSpec, MaterializeResult, ResourceParam, asset

from grade_ml.orchestration.degradation import complete, is_complete
from grade_ml.orchestration.reporting import experiments as reporting
from grade_ml.orchestration.resources import Platform
from grade_ml.orchestration.retrying import retried

#: One run at a time moves experiments; trainings are not waited for: the stages have a lock.
POOL = "experiments"

#: What says how students fare on whom the actions of an experiment take effect.
_FARES = [
    *("experiment_assignments", "interventions"),
    *("sections", "enrollments", "assignments", "results"),
]

_experiments = partial(
    asset,
    group_name="experiments",
    owners=["team:ml-engineering"],
    code_version="1",
    pool=POOL,
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
            description="The arms of each split have the sizes that were planned: chance makes "
            "such sizes more often than once in a thousand.",
        )
    ],
)
@retried
def experiment_assignments(platform: ResourceParam[Platform]) -> MaterializeResult:  # type: ignore[type-arg]
    """Give each student of a split or bandit an arm, for good: a salted hash of the id decides.

    Where students are not divided (both versions of a model score everybody), there is nothing to
    give. Later ticks add students who came; who has an arm keeps it.
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
            description="Every running experiment could be looked at; one that could not names "
            "the reason, and nothing follows from it.",
        ),
    ],
)
@retried
def experiment_results(platform: ResourceParam[Platform]) -> MaterializeResult:  # type: ignore[type-arg]
    """Look at each running experiment, if new labels have arrived, and say what they decide.

    The decision holds however often one looks: bounds by Lan and DeMets where it is planned how
    many labels there will be, else a confidence sequence.
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
@retried
def bandit_allocations(platform: ResourceParam[Platform]) -> MaterializeResult:  # type: ignore[type-arg]
    """Say which share of the students to come each arm of a bandit gets, by what was seen."""
    from grade_ml.experiments import nightly

    with platform.workspace() as workspace:
        allocated = nightly.allocations(workspace)
    return MaterializeResult(
        metadata={**_day(platform), **reporting.of_shares(allocated)},
        check_results=[is_complete(one.reason for one in allocated if one.reason)],
    )


@_experiments(
    deps=["experiment_results", "bandit_allocations", "pooled_ensemble", *_FARES],
    kinds={"mlflow", "postgres"},
    check_specs=[complete("promotions")],
)
@retried
def promotions(platform: ResourceParam[Platform]) -> MaterializeResult:  # type: ignore[type-arg]
    """Do what was decided: promote, retire or roll back versions, and open what is due.

    A challenger that passed its checks gets an experiment against the champion; after a promotion,
    the former champion is watched beside the new one. Each experiment's page is written, and
    MLflow brought in step.
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
