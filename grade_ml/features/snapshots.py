"""One row per enrollment and cut: what was known of a student in a section at the end of that day.

Everything in a row happened, was submitted, graded or recorded not later than its cut. The
meaning of each column is in `catalogue`; which of them a model may see is decided by the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
import pandas as pd

from grade_ml.features.attribute_columns import attribute_columns
from grade_ml.features.catalogue import COMPARED, KEYS, NUMERIC_FEATURES
from grade_ml.features.history import OF_STUDENT, History
from grade_ml.features.records import NEVER, Bools, Floats, Ints, Records, SectionRecords
from grade_ml.gradebook.attributes import SOURCES, Declarations
from grade_ml.gradebook.frames import Gradebook

__all__ = ["NUMERIC_FEATURES", "fraction_cuts", "grade_snapshots", "weekly_cuts"]

#: Cells (cuts x students x assignments) in memory at once; each costs about 200 bytes.
_CELLS = 1_000_000
#: Earlier activity is added to that of this many days before the start.
_DAYS_BEFORE = 60

Features = dict[str, Floats]


def grade_snapshots(
    gradebook: Gradebook, cuts: pd.DataFrame, as_of: date, declared: Declarations = SOURCES
) -> pd.DataFrame:
    """Return the features of every enrollment that is open at each cut of its section.

    Open are those who had enrolled and not withdrawn by the cut.

    Parameters
    ----------
    gradebook
        Whole sections of the requested courses, and all that is known of their students.
    cuts
        Columns section_id and cut_day: days from the section's start, not before it. A cut within
        a day sees that day, and nothing of the next.
    as_of
        The day of the computation; no cut may lie after it.
    declared
        Which attributes may be used for what.

    Returns
    -------
    pandas.DataFrame
        The columns of `catalogue.KEYS` (ids as categories), `catalogue.FEATURES` (float32, NaN if
        it does not exist yet) and one `attribute_…` for each usable attribute of students and
        enrollments, one `protected_…` for each protected one (float32 where all values are numbers,
        else categories); by section, cut and student.

    Raises
    ------
    ValueError
        A cut lies after `as_of`, or before its section's start.
    """
    records = Records(gradebook)
    history = History(records)
    blocks = list(_blocks(records, history, cuts, as_of))
    seat = np.concatenate([block.seat for block in blocks] or [np.zeros(0, np.int64)])
    cut_day = np.concatenate([block.cut_day for block in blocks] or [np.zeros(0)])
    values = np.concatenate(
        [block.values for block in blocks] or [np.zeros((0, len(NUMERIC_FEATURES)), np.float32)]
    )
    del blocks
    section = records.enrollment_section[seat]
    start = records.starts_on[section]
    keys = pd.DataFrame(
        {
            "section_id": pd.Categorical.from_codes(section, records.section_ids),
            "student_id": pd.Categorical.from_codes(
                records.enrollment_student[seat], records.students
            ),
            "course_id": pd.Categorical.from_codes(
                records.section_course[section], records.courses
            ),
            "cut_day": cut_day,
            "cut_on": (start + np.floor(cut_day)).astype("datetime64[D]").astype("datetime64[ns]"),
        }
    )
    assert list(keys) == list(KEYS)
    features = pd.DataFrame(values, columns=list(NUMERIC_FEATURES), copy=False)
    described = attribute_columns(gradebook.students, records.enrollments, declared)
    return pd.concat([keys, features, described.take(seat).reset_index(drop=True)], axis=1)


def with_histories(snapshots: pd.DataFrame, histories: Gradebook) -> pd.DataFrame:
    """Return snapshots with what is known of their students from other courses, in order.

    Parameters
    ----------
    snapshots
        Of one section on one day, made from a gradebook without other courses, such as
        `frames.read_class` gives.
    histories
        All that is known of their students, as `frames.read_histories` gives it; a student who is
        not in it took no other course, and keeps what is known from the section's own course.
    """
    records = Records(histories)
    first = snapshots[["section_id", "cut_day"]].iloc[0]
    number = int(records.section_ids.get_indexer([first["section_id"]])[0])
    section = records.section(number)
    day = section.starts_on + np.floor(np.array([first["cut_day"]], np.float64))
    features = History(records).of_students(section, day)
    students = pd.Index(snapshots["student_id"].astype(object))
    place = records.students[section.students].get_indexer(students)
    enrolled = place >= 0
    known = {
        name: np.where(enrolled, features[name][0, place].astype(np.float32), snapshots[name])
        for name in OF_STUDENT
    }
    return snapshots.assign(**known)


def weekly_cuts(sections: pd.DataFrame, as_of: date) -> pd.DataFrame:
    """Return the cuts of `sections` every seventh day from their start on, and that of `as_of`.

    Sections that have not started have none; those that have ended have none after their end.
    """
    length, age = _length(sections), _length(sections, pd.Timestamp(as_of))
    last = np.minimum(length, age)
    weeks = np.maximum(last // 7 + 1, 0)
    running = (age >= 0) & (age <= length) & (age % 7 > 0)
    place = np.repeat(np.arange(len(sections)), weeks)
    number = np.arange(len(place)) - np.repeat(np.cumsum(weeks) - weeks, weeks)
    place = np.concatenate([place, np.flatnonzero(running)])
    return pd.DataFrame(
        {
            "section_id": sections["section_id"].to_numpy(object)[place],
            "cut_day": np.concatenate([7.0 * number, age[running]]).astype(np.float64),
        }
    ).sort_values(["section_id", "cut_day"], ignore_index=True)


def fraction_cuts(sections: pd.DataFrame, fractions: Sequence[float]) -> pd.DataFrame:
    """Return section_id, cut_day and fraction: cuts at shares (0-1) of each section's days."""
    cuts = (
        sections[["section_id"]]
        .assign(length=_length(sections))
        .merge(pd.DataFrame({"fraction": list(fractions)}), how="cross")
    )
    cuts["cut_day"] = cuts["fraction"] * cuts.pop("length")
    return cuts[["section_id", "cut_day", "fraction"]]


def _length(sections: pd.DataFrame, until: pd.Timestamp | None = None) -> Ints:
    ends = sections["ends_on"] if until is None else until
    return np.asarray((ends - sections["starts_on"]).dt.days.to_numpy(np.int64))


@dataclass(frozen=True)
class _Block:
    """Rows of one section: place of the enrollment in `Records`, cut, and features (rows, f)."""

    seat: Ints
    cut_day: Floats
    values: np.ndarray


def _blocks(
    records: Records, history: History, cuts: pd.DataFrame, as_of: date
) -> Iterator[_Block]:
    today = float((as_of - date(1970, 1, 1)).days)
    number = records.section_ids.get_indexer(cuts["section_id"].astype(object))
    cut_day = cuts["cut_day"].to_numpy(np.float64)
    for chosen in np.unique(number[number >= 0]):
        days = np.unique(cut_day[number == chosen])
        section = records.section(int(chosen))
        if days[0] < 0 or section.starts_on + np.floor(days[-1]) > today:
            raise ValueError(
                f"The cuts of section {records.section_ids[chosen]} run from day {days[0]:g} to "
                f"{days[-1]:g}; they must lie between its start and {as_of}."
            )
        first_seat = int(np.searchsorted(records.enrollment_section, chosen))
        per_cut = max(len(section.students) * (len(section.due_on) + 1), 1)
        activity = Activity(section, days)
        for chunk in np.array_split(days, -(-len(days) * per_cut // _CELLS)):
            yield _block(section, chunk, history, activity, first_seat)


def _block(
    section: SectionRecords, cut_day: Floats, history: History, activity: Activity, first_seat: int
) -> _Block:
    days = section.starts_on + np.floor(cut_day)
    left = section.withdrawn_on <= days[:, None]
    enrolled = (section.enrolled_on <= days[:, None]) & ~(left & section.moved)
    present = enrolled & ~left
    features = own_features(section, cut_day, history, activity, days)
    features |= beside_class(features, enrolled, present)
    row, place = np.nonzero(present)
    values = np.empty((len(row), len(NUMERIC_FEATURES)), np.float32)
    for column, name in enumerate(NUMERIC_FEATURES):
        values[:, column] = np.broadcast_to(features[name], present.shape)[row, place]
    return _Block(first_seat + place, cut_day[row], values)


def own_features(
    section: SectionRecords,
    cut_day: Floats,
    history: History,
    activity: Activity,
    history_days: Floats,
) -> Features:
    """Return what is known of each student by himself at each cut, shapes (cuts, n) or (cuts, 1).

    Parameters
    ----------
    cut_day
        Days from the section's start.
    history_days
        Days since 1970-01-01, one per cut: what was known of other sections by then counts.
    """
    days = section.starts_on + np.floor(cut_day)
    work = _Work(section, days, history.exam_counts(section, history_days))
    return {
        **_calendar(section, cut_day),
        **work.submissions(),
        **work.points(),
        **work.scores(),
        **work.by_category(),
        **work.lateness(),
        **work.due_dates(),
        **activity.features(days),
        **history.features(section, history_days),
    }


def _calendar(section: SectionRecords, cut_day: Floats) -> Features:
    length = section.ends_on - section.starts_on
    passed = cut_day[:, None]
    ahead = section.starts_on - section.enrolled_on
    return {
        "progress": np.minimum(passed / length, 1.0) if length else np.ones_like(passed),
        "days_passed": passed,
        "days_remaining": np.maximum(length - passed, 0),
        "enrolled_days_ahead": np.where(np.isfinite(ahead), ahead, np.nan),
    }


class _Work:
    """What had been due, handed in and graded at k cuts; masks have the shape (k, n, m).

    Assignments are in order of due date, so what is due is always the first few. What is exempt
    for a student, or extra credit, is never due.
    """

    def __init__(self, section: SectionRecords, days: Floats, exam_counts: Bools) -> None:
        self._section = section
        self._now = days[:, None, None]
        self._days = days[:, None]
        exempt = self._exempt()
        self._set = ~section.shares.extra & ~exempt
        self._coursework = ~section.exam & self._set
        self._weight = _own_weights(section, exam_counts, exempt)
        self._required = np.where(section.shares.extra, 0.0, self._weight)
        self._due = (section.due_on <= self._now) & self._set
        self._seen = section.seen_on <= self._now
        self._graded = section.scored_on <= self._now
        self._score = np.where(self._graded, section.score, np.nan)
        submitted = np.where(
            np.isfinite(section.submitted_on), section.submitted_on, section.seen_on
        )
        self._handed_in_on = np.where(self._seen, submitted, np.nan)
        self._show_earlier_results()
        self._missed = self._due & ~self._seen
        self._lag = self._handed_in_on - section.due_on
        self._late = self._lag > 0
        if section.late is not None:
            known = self._seen & ~np.isnan(section.late)
            self._late = np.where(known, section.late == 1, self._late)

    def _exempt(self) -> Bools:
        """Return what does not count: (k, n, m), or (m,) where no one is exempt."""
        section = self._section
        if section.exempt_on is None:
            return np.zeros(len(section.due_on), bool)
        exempt = section.exempt_on <= self._now
        row, cells, _ = self._shown(section.earlier.exempt_on)
        exempt[row, *cells] = True
        return exempt

    def _show_earlier_results(self) -> None:
        """Put results in their place that later results replaced after the cut."""
        earlier = self._section.earlier
        if not len(earlier.until):
            return
        row, cells, chosen = self._shown(earlier.seen_on)
        came_on = np.fmin(earlier.submitted_on, earlier.seen_on)[chosen]
        new = ~self._seen[row, *cells]
        self._handed_in_on[row[new], *(part[new] for part in cells)] = came_on[new]
        self._seen[row, *cells] = True
        row, cells, chosen = self._shown(earlier.scored_on)
        self._graded[row, *cells] = True
        self._score[row, *cells] = earlier.score[chosen]

    def _shown(self, known_on: Floats) -> tuple[Ints, tuple[Ints, Ints], Ints]:
        """Return the cuts at which earlier results count, their cells, and which they are."""
        earlier = self._section.earlier
        row, chosen = np.nonzero((known_on <= self._days) & (self._days < earlier.until))
        return row, (earlier.cell[0][chosen], earlier.cell[1][chosen]), chosen

    def _count(self, mask: Bools) -> Floats:
        return np.asarray((mask & self._coursework).sum(-1, dtype=np.float64))

    def _weigh(self, mask: Bools) -> Floats:
        return np.asarray((mask * self._required).sum(-1))

    def submissions(self) -> Features:
        due, missed = self._count(self._due), self._count(self._missed)
        order = np.arange(1, len(self._coursework) + 1)
        due_coursework = self._due & self._coursework
        latest = (due_coursework & self._seen) * order
        after_latest = order > latest.max(-1, initial=0)[..., None]
        return {
            "assignments_due": due,
            "assignments_submitted": self._count(self._seen),
            "assignments_missed": missed,
            "assignments_late": self._count(self._late),
            "assignments_ahead": self._count(self._seen & ~self._due),
            "assignments_pending": self._count(self._seen & ~self._graded),
            "missed_share": _ratio(missed, due),
            "missed_streak": self._count(self._missed & after_latest),
        }

    def points(self) -> Features:
        settled = self._weigh(self._graded | self._missed)
        collected = np.nansum(self._score * self._weight, -1) / 100
        earned = collected
        if self._section.shares.extra.any():
            earned = np.nansum(self._score * self._required, -1) / 100
        total = self._weigh(np.ones_like(self._graded))
        remaining = np.maximum(total - settled, 0)
        weighed = self._weigh(self._graded)
        mean = 100 * _ratio(earned, weighed)
        unknown = total == 0
        features = {
            "weight_due": self._weigh(self._due),
            "weight_missed": self._weigh(self._missed),
            "weight_late": self._weigh(self._late),
            "weight_remaining": remaining,
            "grade_if_nothing_more": np.minimum(collected, 100),
            "grade_if_all_perfect": np.minimum(collected + remaining, 100),
            "grade_rate_so_far": 100 * _ratio(earned, settled),
            "grade_if_rest_as_so_far": np.minimum(collected + mean * remaining / 100, 100),
            "score_weighted_mean": mean,
        }
        return {name: np.where(unknown, np.nan, values) for name, values in features.items()}

    def scores(self) -> Features:
        graded, score = self._graded, self._score
        if not self._set.all():
            graded = graded & self._set
            score = np.where(graded, score, np.nan)
        number = graded.sum(-1)
        mean = _mean(score)
        spread = _mean((score - mean[..., None]) ** 2)
        first, last = _first(score, graded), _last(score, graded)
        with np.errstate(invalid="ignore", divide="ignore"):
            before = (mean * number - last) / (number - 1)
        return {
            "score_mean": mean,
            "score_min": _finite(np.where(graded, score, np.inf).min(-1, initial=np.inf)),
            "score_max": _finite(np.where(graded, score, -np.inf).max(-1, initial=-np.inf)),
            "score_sd": np.where(number > 1, np.sqrt(spread), np.nan),
            "score_first": first,
            "score_last": last,
            "score_last_step": np.where(number > 1, last - before, np.nan),
            "score_trend": _slope(score, graded),
            "points_trend": _slope(np.where(self._missed, 0.0, score), graded | self._missed),
        }

    def by_category(self) -> Features:
        features: Features = {}
        for rank, category in enumerate(_heaviest_categories(self._section)):
            own = (self._section.category == category) & self._coursework
            name = ("major", "minor")[rank]
            features[f"{name}_score_mean"] = _mean(np.where(own, self._score, np.nan))
            features[f"{name}_missed_share"] = _ratio(
                self._count(self._missed & own), self._count(self._due & own)
            )
        weightless = self._coursework & (self._section.shares.weight == 0)
        features["unweighted_submitted"] = self._count(self._seen & weightless)
        features["unweighted_score_mean"] = _mean(np.where(weightless, self._score, np.nan))
        return features

    def lateness(self) -> Features:
        seen = self._seen
        latest = np.where(seen, self._lag, -np.inf).max(-1, initial=-np.inf)
        return {
            "lateness_mean": _mean(self._lag),
            "lateness_last": _last(self._lag, seen),
            "lateness_max": _finite(latest),
        }

    def due_dates(self) -> Features:
        due_on = self._section.due_on
        handed_in = np.where(self._seen, self._handed_in_on, -np.inf).max(-1, initial=-np.inf)
        passed = np.where(self._due, due_on, -np.inf).max(-1, initial=-np.inf)
        to_come = self._set & (due_on > self._now)
        following = np.where(to_come, due_on, np.inf).min(-1, initial=np.inf)
        is_next = to_come & (due_on == following[..., None])
        return {
            "days_since_submission": _finite(self._days - handed_in),
            "days_since_due": _finite(self._days - passed),
            "days_to_next_due": _finite(following - self._days),
            "next_due_weight": np.where(np.isfinite(following), self._weigh(is_next), np.nan),
        }


def _own_weights(section: SectionRecords, exam_counts: Bools, exempt: Bools) -> Floats:
    """Return the shares of the final grade at k cuts: (k, n, m), or (k, 1, m) without exemptions.

    `exam_counts` states at which of them exams count.
    """
    if exempt.ndim == 1:
        with_exam, without = section.shares_with_exam.weight, section.shares.weight
        return np.where(exam_counts[:, None], with_exam, without)[:, None, :]
    weight = np.empty(exempt.shape)
    for shares, chosen in (
        (section.shares, ~exam_counts),
        (section.shares_with_exam, exam_counts),
    ):
        weight[chosen] = shares.of(exempt[chosen])
    return weight


def _heaviest_categories(section: SectionRecords) -> list[int | None]:
    """Return the two categories of coursework with most weight, None where there are fewer."""
    own = section.category[section.required]
    shares, due_on = section.shares.weight[section.required], section.due_on[section.required]
    categories = np.unique(own)
    weight = [shares[own == category].sum() for category in categories]
    number = [(own == category).sum() for category in categories]
    first_due = [due_on[own == category].min() for category in categories]
    order = np.lexsort((first_due, np.negative(number), np.negative(weight)))
    ranked: list[int | None] = [int(categories[place]) for place in order[:2]]
    return ranked + [None] * (2 - len(ranked))


def beside_class(
    features: Mapping[str, Floats], enrolled: Bools, present: Bools, seat: int | None = None
) -> Features:
    """Return the position in the class; each class is those present at the same cut.

    Parameters
    ----------
    features
        As `own_features` gives it.
    enrolled, present
        Who had enrolled, and who of them had not withdrawn; shape (cuts, n).
    seat
        The student (0 to n - 1) whose place is returned; None for all. The shapes are
        (cuts, n) either way for what differs between students, but for `seat` (cuts, 1).
    """
    chosen = slice(None) if seat is None else slice(seat, seat + 1)
    size = present.sum(1, keepdims=True).astype(np.float64)
    rate = np.where(present, features["grade_rate_so_far"], np.nan)
    mean = _mean(rate)[:, None]
    spread = np.sqrt(_mean((rate - mean) ** 2))[:, None]
    due, missed = (
        np.where(present, features[name], 0.0).sum(1, keepdims=True)
        for name in ("assignments_due", "assignments_missed")
    )
    joined = enrolled.sum(1, keepdims=True).astype(np.float64)
    return {
        "class_rate_mean": mean,
        "class_rate_sd": spread,
        "rate_above_class": rate[:, chosen] - mean,
        "rate_percentile": _percentiles(rate, chosen),
        "class_missed_share": _ratio(missed, due),
        "class_size": size,
        "class_withdrawn_share": _ratio(joined - size, joined),
        "activity_of_class": _of_mean(features["activity_total"], present, chosen),
        "activity_last_28_of_class": _of_mean(features["activity_last_28"], present, chosen),
        **_comparisons(features, present, chosen),
    }


def _comparisons(features: Mapping[str, Floats], present: Bools, chosen: slice) -> Features:
    compared: Features = {}
    for name in COMPARED:
        known = np.where(present, features[name], np.nan)
        compared[f"{name}_percentile"] = _percentiles(known, chosen)
        compared[f"{name}_above_class"] = known[:, chosen] - _mean(known)[:, None]
    return compared


def _percentiles(known: Floats, chosen: slice) -> Floats:
    """Return the share of each row's known values below the `chosen` ones, ties counting half."""
    if chosen != slice(None):
        own = known[:, chosen]
        below = (known < own).sum(1) + (known <= own).sum(1)
        share = _ratio(below.astype(np.float64), 2.0 * (~np.isnan(known)).sum(1))
        return np.where(np.isnan(own), np.nan, share[:, None])
    return np.asarray(np.apply_along_axis(_percentiles_of_all, 1, known))


def _percentiles_of_all(values: Floats) -> Floats:
    ordered = np.sort(values[~np.isnan(values)])
    below = np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")
    return np.where(np.isnan(values), np.nan, below / max(2 * len(ordered), 1))


class Activity:
    """Activity of one section, added up day by day; columns are days from `_first` on.

    Parameters
    ----------
    begun_on
        The first day of which the source has any activity, if not the first day in `section`.
    """

    def __init__(
        self, section: SectionRecords, cut_day: Floats, begun_on: float | None = None
    ) -> None:
        student, day, count = section.activity
        self._first = int(section.starts_on) - _DAYS_BEFORE
        width = int(np.floor(cut_day[-1])) + _DAYS_BEFORE + 1
        column = np.maximum(day - self._first, 0)
        within = column < width
        first = day.min() if len(day) else NEVER
        self._begun_on = first if begun_on is None else begun_on
        has_begun = self._begun_on < self._first + width
        daily = np.zeros((len(section.students), width if has_begun else 0))
        np.add.at(daily, (student[within], column[within]), count[within])
        self._actions = _with_zero(daily.cumsum(1))
        self._days = _with_zero((daily > 0).cumsum(1, dtype=np.float64))
        latest = np.where(daily > 0, np.arange(daily.shape[1], dtype=np.float64), -np.inf)
        self._latest = np.maximum.accumulate(latest, axis=1)

    def features(self, days: Floats) -> Features:
        """Return the features of all enrollments on `days`, each (days, n), or NaN before any."""
        names = (
            "activity_total",
            "activity_days",
            "activity_last_7",
            "activity_last_28",
            "activity_days_last_28",
            "days_since_activity",
            "activity_change",
        )
        known = (days >= self._begun_on)[:, None]
        if not known.any():
            return dict.fromkeys(names, np.full((1, 1), np.nan))
        column = (days - self._first).astype(np.int64)
        total, last_28 = self._actions.T[column + 1], self._within(self._actions, column, 28)
        last_14 = self._within(self._actions, column, 14)
        values = (
            total,
            self._days.T[column + 1],
            self._within(self._actions, column, 7),
            last_28,
            self._within(self._days, column, 28),
            _finite(column[:, None].astype(np.float64) - self._latest.T[column]),
            _ratio(last_14, last_28) - 0.5,
        )
        return {
            name: np.where(known, value, np.nan) for name, value in zip(names, values, strict=True)
        }

    @staticmethod
    def _within(sums: Floats, column: Ints, days: int) -> Floats:
        return np.asarray(sums.T[column + 1] - sums.T[np.maximum(column + 1 - days, 0)])


def _with_zero(sums: Floats) -> Floats:
    return np.pad(sums, ((0, 0), (1, 0)))


def _of_mean(values: Floats, present: Bools, chosen: slice) -> Floats:
    own = np.broadcast_to(values, present.shape)
    mean = _mean(np.where(present, own, np.nan))[:, None]
    return _ratio(own[:, chosen], np.broadcast_to(mean, own[:, chosen].shape))


def _ratio(part: Floats, whole: Floats) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(whole > 0, part / whole, np.nan))


def _mean(values: Floats) -> Floats:
    """Return the mean over the last axis of what is known, NaN where nothing is."""
    known = ~np.isnan(values)
    return _ratio(np.where(known, values, 0.0).sum(-1), known.sum(-1).astype(np.float64))


def _finite(values: Floats) -> Floats:
    return np.where(np.isfinite(values), values, np.nan)


def _first(values: Floats, known: Bools) -> Floats:
    """Return along the last axis the first known value, NaN without any."""
    if not values.shape[-1]:
        return np.full(values.shape[:-1], np.nan)
    place = known.argmax(-1)[..., None]
    first = np.take_along_axis(values, place, -1)[..., 0]
    return np.where(known.any(-1), first, np.nan)


def _last(values: Floats, known: Bools) -> Floats:
    return _first(values[..., ::-1], known[..., ::-1])


def _slope(values: Floats, known: Bools) -> Floats:
    """Return the least-squares slope over the rank among the known values; NaN below two."""
    number = known.sum(-1).astype(np.float64)
    rank = known.cumsum(-1) - 1.0
    centred = np.where(known, rank - (number - 1)[..., None] / 2, 0.0)
    covariance = (centred * np.where(known, values, 0.0)).sum(-1)
    return _ratio(covariance, (centred**2).sum(-1))
