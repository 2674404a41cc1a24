"""The job by which a person decides about an experiment in the UI, with a reason that is kept."""

from dagster import (
    Enum,
    EnumValue,
    Field,
    OpExecutionContext,
    ResourceParam,
    in_process_executor,
    job,
    op,
)

from grade_ml.orchestration.assets.experiments import POOL
from grade_ml.orchestration.resources import Platform
from grade_ml.orchestration.retrying import retried

_DECISION = Enum(
    "Decision",
    [
        EnumValue(
            "veto",
            description="Forbid what it may come to: a challenger is retired, a version that is "
            "watched serves on.",
        ),
        EnumValue("promote", description="Make the challenger champion, whatever was seen."),
        EnumValue("stop", description="End it without a decision."),
    ],
)
_CONFIG = {
    "experiment": Field(str, description="Its id, as experiment_results shows it."),
    "decision": Field(_DECISION, description="veto, promote or stop."),
    "reason": Field(str, description="Why; it is kept and stands in the report."),
    "by": Field(str, description="Who decides; it is kept, too."),
}


@op(config_schema=_CONFIG, pool=POOL)
@retried
def decide_by_hand(context: OpExecutionContext, platform: ResourceParam[Platform]) -> None:
    """Keep what a person decided, and do it."""
    from grade_ml.experiments import lifecycle

    asked = context.op_config
    what = lifecycle.ByHand(asked["decision"])
    steps = lifecycle.decide(
        platform.workspace, asked["experiment"], what, by=asked["by"], reason=asked["reason"]
    )
    for step in steps:
        context.log.info(f"{step.experiment_id}: {step.happened or 'nothing yet'}: {step.says}")


@job(executor_def=in_process_executor)
def decide_experiment() -> None:
    """Veto, promote or stop an experiment by hand; who does it and why are kept."""
    decide_by_hand()
