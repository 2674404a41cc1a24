"""Groups features by theme, for readers who do not think in columns.

The message catalogues contain the names of themes, the attributions their contributions.
"""

from __future__ import annotations

from enum import StrEnum
from functools import cache

from grade_ml.features.catalogue import COMPARED, NUMERIC_FEATURES


class Theme(StrEnum):
    """The subject of a group of features."""

    STANDING = "standing"
    SCORES = "scores"
    WORK = "work"
    PUNCTUALITY = "punctuality"
    ACTIVITY = "activity"
    HISTORY = "history"
    CLASS = "class"
    COURSE = "course"
    BACKGROUND = "background"
    SURROUNDINGS = "surroundings"


#: The themes in narratives for students: their own doing in this section. The other themes compare
#: students with their peers, or students cannot change them.
OWN_DOING = frozenset({Theme.STANDING, Theme.SCORES, Theme.WORK, Theme.PUNCTUALITY, Theme.ACTIVITY})

#: The themes that students can still improve; the points collected do not change.
IMPROVABLE = OWN_DOING - {Theme.STANDING}

#: Points collected grow with the weeks, so alone they mean early or late rather than good or bad;
#: together with the work that was due and the remaining work they show a student's standing.
_STANDING = (
    "progress days_passed days_remaining assignments_due weight_due weight_remaining days_since_due"
    " days_to_next_due next_due_weight grade_if_nothing_more grade_if_all_perfect grade_rate_so_far"
    " grade_if_rest_as_so_far"
)
_PUNCTUALITY = (
    "assignments_late weight_late lateness_mean lateness_last lateness_max assignments_ahead"
    " days_since_submission"
)
_WORK = (
    "assignments_submitted assignments_missed assignments_pending missed_share missed_streak"
    " weight_missed major_missed_share minor_missed_share unweighted_submitted"
)
_SCORES = "points_trend major_score_mean minor_score_mean unweighted_score_mean"
_CLASS = "rate_above_class rate_percentile activity_of_class activity_last_28_of_class"
_HISTORY = "enrolled_days_ahead concurrent_sections"
_PREFIXES = {
    "score_": Theme.SCORES,
    "activity_": Theme.ACTIVITY,
    "days_since_activity": Theme.ACTIVITY,
    "class_": Theme.CLASS,
    "earlier_": Theme.HISTORY,
    "course_": Theme.COURSE,
    "attribute_": Theme.BACKGROUND,
    "external_": Theme.SURROUNDINGS,
}
_COMPARISONS = {f"{name}_{kind}" for name in COMPARED for kind in ("percentile", "above_class")}
_NAMED = {
    name: theme
    for theme, names in {
        Theme.STANDING: _STANDING.split(),
        Theme.PUNCTUALITY: _PUNCTUALITY.split(),
        Theme.WORK: _WORK.split(),
        Theme.SCORES: _SCORES.split(),
        Theme.CLASS: [*_CLASS.split(), *_COMPARISONS],
        Theme.HISTORY: _HISTORY.split(),
    }.items()
    for name in names
}


@cache
def theme_of(feature: str) -> Theme:
    """Return the theme of a column that a model reads.

    Raises
    ------
    KeyError
        A feature of the catalogue that no theme names: a defect of this module.

    Examples
    --------
    >>> str(theme_of("missed_share")), str(theme_of("missed_share_percentile"))
    ('work', 'class')
    """
    if feature in _NAMED:
        return _NAMED[feature]
    for prefix, theme in _PREFIXES.items():
        if feature.startswith(prefix):
            return theme
    if feature in NUMERIC_FEATURES:
        raise KeyError(feature)
    return Theme.BACKGROUND
