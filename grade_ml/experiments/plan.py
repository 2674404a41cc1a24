"""What an experiment is: its arms, its metric, its error rates, and the decisions of a look.

Values only; `store` stores them, `lifecycle` carries out their consequences.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import date, datetime
from enum import StrEnum
from typing import Any

from grade_ml.core.errors import ExperimentError

_ID = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_ARM = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,59}")
_FORM = "a-z, 0-9 and '-', at most 63 characters, no '-' at either end"
_ARM_FORM = "letters, digits, ' ', '.', '_' and '-', at most 60 characters"
#: Characters of a hypothesis; titles, tables and pages show it.
_LONGEST = 500
#: Shares are decimal fractions that a person writes: .3 + .3 + .4 is not exactly 1.
_ROUNDING = 1e-9
#: A look may spend 1e-10 or nothing: below this alpha hardly any look could claim anything.
_LEAST_ALPHA = 1e-6
#: Nearer to certainty the necessary effect cannot be computed.
_MOST_POWER = 0.999
#: Squared errors reach 10,000 points². Squares of values beyond either are no numbers any more.
_LEAST_EFFECT, _MOST_EFFECT = 1e-6, 1e6
#: As many as 100,000 students get in a hundred years.
_MOST_LABELS = 10**9


class Kind(StrEnum):
    """What the arms do with students, and the question of the experiment."""

    #: Both versions of a model score all students: is the treatment better than the champion?
    SHADOW = "shadow"
    #: The same after a promotion: is the version that serves worse than the one before?
    WATCH = "watch"
    #: Students are divided between actions: does acting help?
    SPLIT = "split"
    #: As a split, but the shares of the arms follow the rewards.
    BANDIT = "bandit"

    @property
    def compares_models(self) -> bool:
        """Whether the arms are versions of a model that score all students, and not actions."""
        return self in (Kind.SHADOW, Kind.WATCH)


class Metric(StrEnum):
    """What is measured of a student; a difference is always treatment minus control."""

    #: Squared error, points², of the score that the last prediction before it implied.
    SCORE_ERROR = "score_error"
    #: Squared error, points², of the final grade, in sections that ended.
    GRADE_ERROR = "grade_error"
    #: Brier score of the risk, 0-1, in sections that ended and for withdrawals.
    RISK_ERROR = "risk_error"
    #: Mean score, 0-100, of assignments due after the first exposure; a missing assignment is 0.
    SCORE = "score"
    #: Share, 0-1, of the assignments due after the first exposure that were handed in.
    SUBMITTED = "submitted"
    #: 1 if the section was passed, else 0.
    PASSED = "passed"

    @property
    def is_error(self) -> bool:
        """Whether it is an error of a model, and not an outcome of a student."""
        return self in (Metric.SCORE_ERROR, Metric.GRADE_ERROR, Metric.RISK_ERROR)

    @property
    def better(self) -> int:
        """The sign of a difference that is good: -1 for errors, +1 for outcomes."""
        return -1 if self.is_error else 1


class Decision(StrEnum):
    """The decision of a look."""

    CONTINUE = "continue"
    BETTER = "better"
    WORSE = "worse"
    NO_DIFFERENCE = "no difference"
    #: The evidence suffices, but a problem blocks it: arms of the wrong size, a guardrail.
    BLOCKED = "blocked"
    #: No label is new; such a look is not stored.
    SKIPPED = "skipped"

    @property
    def is_final(self) -> bool:
        """Whether it ends the experiment; a blocked experiment continues until its last day."""
        return self in (Decision.BETTER, Decision.WORSE, Decision.NO_DIFFERENCE)


class Policy(StrEnum):
    """How the shares of a bandit's arms follow from rewards."""

    #: An arm's share is the probability that it is the best, given the rewards.
    THOMPSON = "thompson"
    #: All students but the least shares of the other arms go to the arm that could be the best
    #: (upper confidence bound).
    UCB = "ucb"


#: The subject of experiments on actions.
INTERVENTIONS = "interventions"
#: The arms of a shadow that opens automatically.
VERSIONS = ("champion", "challenger")
#: The action of an arm in which the table of interventions in force is followed.
STANDARD = "standard"
#: The action of an arm in which nothing is done.
NOTHING = "none"
#: The share of students from whom an experiment may withhold help: more adds nothing to its power,
#: which is largest with two equal arms.
MOST_WITHHELD = 0.5


@dataclass(frozen=True)
class Arm:
    """One of the versions or actions that are compared.

    Attributes
    ----------
    model
        Name and version, if models are compared.
    action
        `STANDARD`, `NOTHING` or the path of another table of interventions, for actions.
    share
        Of the students, 0-1; 1 if every arm scores all students.
    """

    name: str
    model: tuple[str, int] | None = None
    action: str | None = None
    share: float = 1.0


@dataclass(frozen=True)
class Plan:
    """What is decided before the first look; nothing of it changes afterwards.

    Attributes
    ----------
    subject
        What the outcome changes: the name of a model, or `interventions`.
    arms
        The first is the control: the version that serves or the action that is taken now.
    planned_labels
        How many labels the last look is expected to see; `None` if the horizon is open.
    stops_on
        The last day; `None` if none is set.
    courses
        Ids; empty: all.
    group
        Experiments of one group share no student.
    strata
        Columns within whose values the arms are kept at equal size.
    alpha, power
        Two-sided error rate, and the probability to detect `minimum_effect`.
    minimum_effect
        The smallest difference that matters, in units of the metric, without sign; None: not set.
    least_share
        The smallest share of the students that every arm keeps, 0-1.
    policy
        How the shares of a bandit follow rewards; without meaning elsewhere.
    """

    experiment_id: str
    kind: Kind
    subject: str
    hypothesis: str
    arms: tuple[Arm, ...]
    metric: Metric
    starts_on: date
    owner: str
    planned_labels: int | None = None
    stops_on: date | None = None
    courses: tuple[str, ...] = ()
    group: str | None = None
    strata: tuple[str, ...] = ()
    alpha: float = 0.05
    power: float = 0.8
    minimum_effect: float | None = None
    least_share: float = 0.05
    policy: Policy = Policy.THOMPSON

    @property
    def control(self) -> Arm:
        """The version that serves or the action that is taken now."""
        return self.arms[0]

    @property
    def treatments(self) -> tuple[Arm, ...]:
        """The arms that are compared with the control."""
        return self.arms[1:]

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON values; `from_dict` reads it."""
        stops = self.stops_on.isoformat() if self.stops_on else None
        return asdict(self) | {"starts_on": self.starts_on.isoformat(), "stops_on": stops}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Plan:
        """Return the plan that `to_dict` wrote."""
        arms = tuple(
            Arm(**arm | {"model": tuple(arm["model"]) if arm["model"] else None})
            for arm in stored["arms"]
        )
        return cls(
            **dict(stored)
            | {
                "kind": Kind(stored["kind"]),
                "metric": Metric(stored["metric"]),
                "policy": Policy(stored["policy"]),
                "arms": arms,
                "starts_on": date.fromisoformat(stored["starts_on"]),
                "stops_on": date.fromisoformat(stored["stops_on"]) if stored["stops_on"] else None,
                "courses": tuple(stored["courses"]),
                "strata": tuple(stored["strata"]),
            }
        )


def checked(plan: Plan) -> Plan:
    """Return the plan unchanged, if an experiment can use it.

    Raises
    ------
    ExperimentError
        It cannot; the message lists each reason.
    """
    wrong = [*_wrong_words(plan), *_wrong_arms(plan), *_wrong_shares(plan), *_wrong_figures(plan)]
    if wrong:
        raise ExperimentError(
            f"The plan of the experiment {plan.experiment_id} cannot be used: {'; '.join(wrong)}.",
            "Correct it and create the experiment again; "
            "docs/experiments-on-interventions.md explains each value.",
        )
    return plan


def _wrong_words(plan: Plan) -> Iterator[str]:
    if not _ID.fullmatch(plan.experiment_id):
        yield f"its id may consist of {_FORM}"
    for name, text in (("hypothesis", plan.hypothesis), ("owner", plan.owner)):
        if not text.strip():
            yield f"its {name} is empty"
        if len(text) > _LONGEST or "\0" in text:
            yield f"its {name} may have at most {_LONGEST} characters, and no NUL"
    if not plan.subject.strip():
        yield "its subject is empty"
    if plan.kind.compares_models is not plan.metric.is_error:
        fitting = [str(metric) for metric in Metric if metric.is_error is plan.kind.compares_models]
        yield f"a {plan.kind} measures {', '.join(fitting)}, not {plan.metric}"
    for name, values in (("courses", plan.courses), ("strata", plan.strata)):
        if len(set(values)) < len(values) or not all(entry.strip() for entry in values):
            yield f"its {name} hold a value twice, or an empty one"
    if plan.kind.compares_models and (plan.group or plan.strata):
        yield f"a {plan.kind} assigns no students, so it has neither group nor strata"
    if plan.group is not None and not _ID.fullmatch(plan.group):
        yield f"its group may consist of {_FORM}"


def _wrong_arms(plan: Plan) -> Iterator[str]:
    names, least = [arm.name for arm in plan.arms], 2
    if len(names) < least:
        yield "it has fewer than two arms"
        return
    if len(set(names)) < len(names):
        yield "two of its arms have one name"
    for name in names:
        if not _ARM.fullmatch(name):
            yield f"the name of the arm {name!r} may consist of {_ARM_FORM}"
    if plan.kind is not Kind.BANDIT and len(names) > least:
        yield f"a {plan.kind} has two arms, the control and one treatment; a bandit may have more"
    if plan.kind.compares_models:
        models = [arm.model for arm in plan.arms]
        if None in models or any(arm.action is not None for arm in plan.arms):
            yield f"each arm of a {plan.kind} is a version of a model, and no action"
        elif len({name for name, _ in filter(None, models)}) > 1:
            yield f"the arms of a {plan.kind} are versions of one model"
        elif len(set(models)) < len(models):
            yield "its arms are the same version"
        return
    yield from _wrong_withholding(plan)
    actions = [arm.action for arm in plan.arms]
    if not all(actions) or any(arm.model is not None for arm in plan.arms):
        yield f"each arm of a {plan.kind} is an action, and no version of a model"
    elif len(set(actions)) < len(actions):
        yield "two of its arms have one action"


def _wrong_withholding(plan: Plan) -> Iterator[str]:
    """Yield what is wrong with a plan that withholds help, whose limits protect students."""
    withheld = [arm for arm in plan.arms if arm.action == NOTHING]
    if withheld and plan.stops_on is None:
        yield "it withholds help, so it needs a last day"
    if any(arm.share > MOST_WITHHELD + _ROUNDING for arm in withheld):
        yield f"it withholds help from more than {MOST_WITHHELD:g} of the students"


def _wrong_shares(plan: Plan) -> Iterator[str]:
    shares = [arm.share for arm in plan.arms]
    if plan.kind.compares_models:
        if any(share != 1 for share in shares):
            yield f"the share of each arm of a {plan.kind} is 1: both score all students"
        return
    # Written so that NaN does not pass.
    if not all(0 < share < 1 for share in shares):
        yield "the share of each arm lies between 0 and 1"
    elif not math.isclose(sum(shares), 1, abs_tol=_ROUNDING):
        yield f"the shares of its arms add up to {sum(shares):.6g}, not to 1"
    elif min(shares) < plan.least_share - _ROUNDING:
        yield f"an arm's share is below {plan.least_share:g}, the least that each keeps"
    if not 0 <= plan.least_share <= 1 / max(len(shares), 1):
        yield f"{len(shares)} arms cannot each keep {plan.least_share:g} of the students"
    if plan.kind is Kind.BANDIT and plan.least_share == 0:
        yield "each arm of a bandit keeps some students, or nothing can be learned of it any more"


def _wrong_figures(plan: Plan) -> Iterator[str]:
    if plan.planned_labels is not None and plan.planned_labels < 1:
        yield "fewer than one label is planned"
    if plan.planned_labels is not None and plan.planned_labels > _MOST_LABELS:
        yield f"more than {_MOST_LABELS:,} labels are planned"
    if plan.stops_on is not None and plan.stops_on <= plan.starts_on:
        yield "its last day is not after its first"
    # Written so that NaN does not pass.
    most = 0.5
    if not _LEAST_ALPHA <= plan.alpha < most:
        yield f"alpha is {plan.alpha:g} and must lie between {_LEAST_ALPHA:g} and {most}"
    elif not plan.alpha < plan.power <= _MOST_POWER:
        yield f"the power is {plan.power:g} and must lie between alpha and {_MOST_POWER}"
    effect = plan.minimum_effect
    if effect is not None and not _LEAST_EFFECT <= effect <= _MOST_EFFECT:
        limits = f"{_LEAST_EFFECT:g} and {_MOST_EFFECT:g}"
        yield f"the smallest effect is {effect:g} and must lie between {limits}"


@dataclass(frozen=True)
class Look:
    """The evidence and the decision of one look at an experiment.

    Attributes
    ----------
    as_of, looked_at
        The day of which it was computed, and when.
    data_version
        Identifies the labels of the look.
    units, labels
        Students with a value, and the labels behind these values.
    fraction
        Share of the planned labels that have arrived, at most 1; NaN if the horizon is open.
    difference, low, high
        Treatment minus control, in units of the metric, with the interval that stays valid at
        every look; NaN if unknown.
    z, bound
        The statistic and its bound; NaN if there is none.
    figures, segments
        All other figures of the report, as JSON values.
    """

    as_of: date
    data_version: str
    looked_at: datetime
    units: int
    labels: int
    fraction: float
    difference: float
    low: float
    high: float
    z: float
    bound: float
    decision: Decision
    reason: str
    figures: Mapping[str, Any] = field(default_factory=dict)
    segments: tuple[Mapping[str, Any], ...] = ()
