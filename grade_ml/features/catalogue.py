"""The features by name: what each means, in which unit, and between which bounds.

The one list behind the frames, their validation and the column descriptions in the UI. How a
feature is computed is described in `snapshots`.
"""

from __future__ import annotations

from dataclasses import dataclass

#: What is also given in relation to the class on the same day. Points, counts and days mean
#: something else in every course; a place in the class means the same in an unknown course.
COMPARED = {
    "assignments_submitted": "the assignments handed in",
    "assignments_missed": "the assignments missed",
    "missed_share": "the share of the coursework due that was missed",
    "missed_streak": "the assignments missed in a row",
    "weight_missed": "the weight of what was missed",
    "grade_if_nothing_more": "the final grade if nothing more comes",
    "grade_if_rest_as_so_far": "the final grade if the rest earns the mean score",
    "score_weighted_mean": "the mean of the scores by their weight",
    "days_since_submission": "the days since something was handed in",
    "activity_last_28": "the actions in the last 28 days",
}


@dataclass(frozen=True)
class Feature:
    """One numeric column; a value is missing where the thing does not exist yet."""

    name: str
    description: str
    low: float | None = 0
    high: float | None = None


def _points(name: str, description: str) -> Feature:
    return Feature(name, f"{description}; points, 0-100.", 0, 100.001)


def _score(name: str, description: str) -> Feature:
    return Feature(name, f"{description}; per cent, above 100 with extra credit.", 0, 200.001)


def _share(name: str, description: str) -> Feature:
    return Feature(name, f"{description}; 0-1.", 0, 1.000001)


def _free(name: str, description: str) -> Feature:
    return Feature(name, f"{description}.", None)


def _count(name: str, description: str) -> Feature:
    return Feature(name, f"{description}.")


#: What columns hold that begin so, one for each attribute of students and enrollments.
ATTRIBUTES = {
    "attribute_…": "An attribute that is declared usable: models read it.",
    "protected_…": "A protected attribute: no model reads it; errors are evaluated by its groups.",
}

KEYS = {
    "section_id": "The section.",
    "student_id": "The student.",
    "course_id": "The section's course.",
    "cut_day": "Days from the section's start to the cut; what is dated up to then was known.",
    "cut_on": "The cut's date.",
}

FEATURES = (
    _share("progress", "Share of the section's days that have passed"),
    _count("days_passed", "Days since the section began"),
    _count("days_remaining", "Days until the section ends"),
    _free("enrolled_days_ahead", "Days from enrolling to the section's start; missing: unknown"),
    _count("assignments_due", "Assignments that were due"),
    _count("assignments_submitted", "Assignments handed in, due or not"),
    _count("assignments_missed", "Assignments that were due and not handed in"),
    _count("assignments_late", "Assignments handed in after their due date"),
    _count("assignments_ahead", "Assignments handed in that are not due yet"),
    _count("assignments_pending", "Assignments handed in and not graded yet"),
    _share("missed_share", "Share of the coursework due that was not handed in"),
    _count("missed_streak", "Assignments missed in a row up to now"),
    _points("weight_due", "Weight of what was due"),
    _points("weight_missed", "Weight of what was missed"),
    _points("weight_late", "Weight of what was handed in late"),
    _points("weight_remaining", "Weight of what is neither graded nor missed"),
    _points("grade_if_nothing_more", "Final grade if nothing more is handed in or graded"),
    _points("grade_if_all_perfect", "Final grade if all that remains earns full marks"),
    _score("grade_rate_so_far", "Points collected per weight graded or missed"),
    _points("grade_if_rest_as_so_far", "Final grade if all that remains earns the mean score"),
    _score("score_mean", "Mean of the scores"),
    _score("score_weighted_mean", "Mean of the scores by their weight"),
    _score("score_min", "Lowest score"),
    _score("score_max", "Highest score"),
    _score("score_sd", "Standard deviation of the scores"),
    _score("score_first", "Score of the first graded assignment by due date"),
    _score("score_last", "Score of the last graded assignment by due date"),
    _free("score_last_step", "Last score minus the mean of those before it; points"),
    _free("score_trend", "Least-squares slope of the scores; points per assignment"),
    _free("points_trend", "The same with missed work as 0; points per assignment"),
    _score("major_score_mean", "Mean score in the category that weighs most"),
    _score("minor_score_mean", "Mean score in the category that weighs second most"),
    _share("major_missed_share", "Share missed of what was due in the category that weighs most"),
    _share("minor_missed_share", "Share missed of what was due in the second category"),
    _count("unweighted_submitted", "Assignments handed in that do not count towards the grade"),
    _score("unweighted_score_mean", "Mean score of assignments that do not count"),
    _free("lateness_mean", "Mean of the days from due date to submission"),
    _free(
        "lateness_last",
        "The same of the assignment handed in that was due last",
    ),
    _free("lateness_max", "Most days from due date to submission"),
    _count("days_since_submission", "Days since something was handed in"),
    _count("days_since_due", "Days since something was due"),
    _count("days_to_next_due", "Days until something is due"),
    _points("next_due_weight", "Weight of what is due next"),
    _score("class_rate_mean", "Mean of the class's points per weight graded or missed"),
    _score("class_rate_sd", "Standard deviation of the same"),
    _free("rate_above_class", "Own points per weight graded or missed minus the class's mean"),
    _share("rate_percentile", "Share of the class with fewer points per weight, ties halved"),
    _share("class_missed_share", "Share of the coursework due that the class missed"),
    _count("class_size", "Students in the class"),
    _share("class_withdrawn_share", "Share of those who had enrolled and have withdrawn"),
    _count("activity_total", "Actions recorded so far; missing where none are recorded for anyone"),
    _count("activity_days", "Days with any action"),
    _count("activity_last_7", "Actions in the last 7 days"),
    _count("activity_last_28", "Actions in the last 28 days"),
    _count("activity_days_last_28", "Days with any action in the last 28"),
    _count("days_since_activity", "Days since the last action"),
    _count("activity_of_class", "Own actions over the class's mean"),
    _count("activity_last_28_of_class", "The same in the last 28 days"),
    _free("activity_change", "Share of the last 28 days' actions in their second half, minus 0.5"),
    _count("earlier_sections", "Sections taken earlier that have ended"),
    _points("earlier_grade_mean", "Mean coursework grade in them"),
    _share("earlier_at_risk_share", "Share of enrollments that ended in failing or withdrawing"),
    _count("earlier_withdrawals", "Withdrawals from earlier or other sections"),
    _count("earlier_attempts", "Earlier sections of this course"),
    _count("concurrent_sections", "Other sections taken at the same time"),
    _count("course_sections", "Enrollments in earlier sections of the course that have ended"),
    _points("course_grade_mean", "Mean coursework grade in them"),
    _share("course_at_risk_share", "Share of them that ended in failing or withdrawing"),
    *(
        _share(f"{name}_percentile", f"Share of the class below in {description}, ties halved")
        for name, description in COMPARED.items()
    ),
    *(
        _free(f"{name}_above_class", f"Difference to the class's mean in {description}")
        for name, description in COMPARED.items()
    ),
)

NUMERIC_FEATURES = tuple(feature.name for feature in FEATURES)

#: The columns of score sequences by name. Days count from the section's start; missing: never, or
#: not known.
SEQUENCE_COLUMNS = {
    "course_id": "The section's course.",
    "section_id": "The section.",
    "student_id": "The student.",
    "assignment_id": "The assignment.",
    "category": "Its category.",
    "due_day": "The day on which it is due; the section's end where none is given.",
    "weight": "Its share of the final grade; all of a section sum to 100.",
    "score": "Its score, 0-100, of extra credit 100; missing where there is none.",
    "seen_day": "The day from which on it is known to have been handed in.",
    "scored_day": "The day from which on the score is known.",
    "exempt_day": "The day from which on it is known not to count for the student.",
    "carried_over": "Whether the result is one of an earlier section.",
    "enrolled_day": "The day of enrolling; missing: unknown, and earlier than all.",
    "withdrawn_day": "The day of withdrawing; missing: not.",
    "started_on": "The section's first day, days since 1970-01-01.",
    "length": "The section's days.",
    "pass_mark": "The course's pass mark, points of 100.",
}
