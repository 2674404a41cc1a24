"""The job by which a person decides about an experiment in the UI; the reason is stored."""

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

from grade_ml.orchestration.queue import EXPERIMENTS
from grade_ml.orchestration.resources import Platform
from grade_ml.orchestration.steps import step

_DECISION = Enum(
    "Decision",
    [
        EnumValue(
            "veto",
            description="Forbid its outcome: a challenger is retired, a version that is watched "
            "continues to serve.",
        ),
        EnumValue("promote", description="Make the challenger champion, whatever the results are."),
        EnumValue("stop", description="End it without a decision."),
    ],
)
_CONFIG = {
    "experiment": Field(
        str, description="The id of the experiment, as experiment_results shows it."
    ),
    "decision": Field(_DECISION, description="veto, promote or stop."),
    "reason": Field(str, description="The reason; it is stored and shown in the report."),
    "by": Field(str, description="The person who decides; the name is stored, too."),
}


@op(config_schema=_CONFIG, pool=EXPERIMENTS)
@step
def decide_by_hand(context: OpExecutionContext, platform: ResourceParam[Platform]) -> None:
    """Record the decision of a person, and carry it out."""
    from grade_ml.experiments import lifecycle

    options = context.op_config
    decision = lifecycle.ByHand(options["decision"])
    steps = lifecycle.decide(
        platform.workspace,
        options["experiment"],
        decision,
        by=options["by"],
        reason=options["reason"],
    )
    for taken in steps:
        context.log.info(f"{taken.experiment_id}: {taken.happened or 'nothing yet'}: {taken.says}")


@job(executor_def=in_process_executor)
def decide_experiment() -> None:
    """Veto, promote or stop an experiment by hand; the person and the reason are stored."""
    decide_by_hand()
