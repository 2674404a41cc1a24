"""How simulated students behave: every effect size, tuned so that the margins come near OULAD's.

`docs/simulated-campus.md` compares them; `benchmarks/campus.py` makes that table. All effect sizes
are written into the truth. Propensities are on the logit scale; latent traits have mean 0 and SD 1.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class ConditionEffects:
    """Effect of one standard deviation of a condition.

    Parameters
    ----------
    score
        Points, by the value on the day of submission.
    submission
        Logit of submitting, by the value on the day on which the work is due.
    """

    score: float = 0.0
    submission: float = 0.0


@dataclass(frozen=True)
class Laws:
    """Effect sizes; see the comments for units."""

    # Traits: correlation of ability and diligence; prior grade (0-100) by ability and noise.
    trait_correlation: float = 0.3
    prior_grade_mean: float = 66.0
    prior_grade_by_ability: float = 9.0
    prior_grade_noise: float = 7.0
    # Deprivation band (0 most deprived - 9): SD of ability per band, centred.
    ability_by_imd_band: float = 0.05
    # Engagement in one section: from diligence, ability and noise of this section.
    engagement_by_diligence: float = 0.7
    engagement_by_ability: float = 0.3
    engagement_noise: float = 0.5
    # Leaving: Weibull hazard over the time from `leave_from` (share of the term, before the
    # start) to the end; that share withdraws formally, the others just stop.
    leave_hazard: float = 0.61
    leave_by_engagement: float = 0.85
    leave_shape: float = 0.71
    leave_from: float = -0.14
    leave_formally: float = 0.60
    # Submitting, if still there: logit, falling over the term.
    submit_intercept: float = 3.0
    submit_by_engagement: float = 1.1
    submit_over_term: float = -0.75
    # Days after the due date: mean, by engagement, SD. Quizzes are done earlier by `quiz_early`
    # times the square of an exponential draw: most a few days, some by months.
    late_mean: float = 0.0
    late_by_engagement: float = -0.8
    late_noise: float = 4.5
    quiz_early: float = 16.0
    late_at_most: int = 21
    # Scores: logit of score / ceiling; what lies above 100 becomes 100. Quizzes are easier.
    score_ceiling: float = 106.0
    score_intercept: float = 0.82
    score_by_ability: float = 0.54
    score_by_engagement: float = 0.21
    score_quiz: float = 0.46
    score_by_assignment: float = 0.23
    score_noise: float = 0.67
    course_difficulty: float = 0.3
    # Days from submission to grading: the minimum, and the mean of the additional days.
    grading_days_least: int = 3
    grading_days_more: float = 6.0
    # Final result: distinction and pass from these grades on, blurred by SD.
    distinction_from: float = 88.0
    pass_from: float = 47.0
    outcome_noise: float = 6.0
    # Activity: logit of being active in a week; log of a week's count.
    active_intercept: float = 1.55
    active_by_engagement: float = 0.6
    active_noise: float = 1.2
    count_intercept: float = 3.4
    count_by_engagement: float = 0.4
    count_before_due: float = 0.5
    count_noise: float = 0.7
    conditions: dict[str, ConditionEffects] = field(
        default_factory=lambda: {
            "heat": ConditionEffects(score=-2.0),
            "campus_events": ConditionEffects(submission=-0.35),
            "sentiment": ConditionEffects(score=1.5, submission=0.2),
        }
    )


LAWS = Laws()
