"""Features of days to come: a running section carried on, with what one student could do in it.

Nobody can hand in half an assignment without its weight, its date and its place in the class
changing too. So a possible future is not a changed row of features but more records, from which the
same code as always computes the row. What a student should do is not known here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date

import numpy as np
import pandas as pd

from grade_ml.core.errors import NotFoundError
from grade_ml.features.catalogue import COMPARED, NUMERIC_FEATURES
from grade_ml.features.history import History
from grade_ml.features.records import NEVER, Bools, Floats, Ints, Records, SectionRecords
from grade_ml.features.snapshots import Activity, beside_class, own_features
from grade_ml.gradebook.frames import Gradebook

#: Days over which activity repeats itself, as the features count it.
CYCLE = 28
#: So many of the last assignments due repeat themselves: after missed work comes missed work.
_RECENT = 3
_EPOCH = date(1970, 1, 1)


@dataclass(frozen=True)
class OpenAssignment:
    """An assignment that is still to be handed in.

    Attributes
    ----------
    weight
        Share of the final grade, points.
    score
        What it earns if the student continues as so far, 0-100; NaN if it is not handed in.
    days_late
        The same of the day on which it comes in; below 0: before it is due.
    """

    assignment_id: str
    category: str
    due_on: date
    weight: float
    score: float
    days_late: float


@dataclass(frozen=True)
class Doing:
    """What a student does, in k alternatives.

    Attributes
    ----------
    scores
        Of the first assignments in order, shape (k, assignments); NaN if not handed in.
    on_time
        Whether what comes in is not late; else it is as late as so far. Shape (k,).
    active_days
        Days with any activity in each four weeks, 0-28; NaN for as many as so far. Shape (k,).
    """

    scores: Floats
    on_time: Bools
    active_days: Floats


class Continuation:
    """One section after `as_of`, in which every student continues as so far.

    Each student hands in, or does not, and as late as, the last three assignments that were due, in
    turn; scores are the mean of the student's so far, else of the class, else of the course. The
    activity of the last 28 days repeats itself. No student enrolls or withdraws, and other sections
    stay as they were. What is dated after `as_of` is not seen.

    Parameters
    ----------
    gradebook
        As for `grade_snapshots`.
    as_of
        Within the section's days.

    Raises
    ------
    NotFoundError
        The gradebook does not have the section.
    """

    def __init__(self, gradebook: Gradebook, section_id: str, as_of: date) -> None:
        records = Records(gradebook)
        number = int(records.section_ids.get_indexer([section_id])[0])
        if number < 0:
            raise NotFoundError(f"The gradebook has no section {section_id}.")
        self._records, self._history = records, History(records)
        self._today = float((as_of - _EPOCH).days)
        section = _as_known(records.section(number), self._today)
        self.starts_on, self.ends_on = _date(section.starts_on), _date(section.ends_on)
        exam_counts = bool(self._history.exam_counts(section, np.array([self._today]))[0])
        self._shares = section.shares_with_exam if exam_counts else section.shares
        own = np.flatnonzero(records.assignment_section == number)
        self._assignments = records.assignments.iloc[own].reset_index(drop=True)
        left = section.withdrawn_on <= self._today
        self._enrolled = (section.enrolled_on <= self._today) & ~(left & section.moved)
        self._present = self._enrolled & ~left
        #: Scores of the course that are known, 0-100.
        self.scores = self._known_scores(section.course)
        self._before, self._section = section, self._carried_on(section)
        days = section.activity[1]
        self._activity_from = float(days.min()) if len(days) else NEVER
        self._classes: dict[float, dict[str, Floats]] = {}
        ids = records.students[section.students]
        self._seats = {str(name): place for place, name in enumerate(ids)}

    def open_assignments(self, student_id: str) -> tuple[OpenAssignment, ...]:
        """Return what counts, is not due yet and has not come in, in order of due date.

        Raises
        ------
        NotFoundError
            The student was not enrolled in the section on that day.
        """
        seat = self._seat(student_id)
        section, weight = self._section, self._weight(seat)
        return tuple(
            OpenAssignment(
                str(self._assignments["assignment_id"][place]),
                str(self._assignments["category"][place]),
                _date(section.due_on[place]),
                float(weight[place]),
                float(section.score[seat, place]),
                float(section.submitted_on[seat, place] - section.due_on[place])
                if np.isfinite(section.submitted_on[seat, place])
                else 0.0,
            )
            for place in self._open(seat)
        )

    def active_days(self, student_id: str) -> tuple[float, Floats]:
        """Return the student's days with activity in the last 28, and those of all present.

        They are NaN if no activity is recorded.
        """
        cut = np.array([self._today - self._before.starts_on])
        features = Activity(self._before, cut).features(np.array([self._today]))
        days = np.broadcast_to(features["activity_days_last_28"], (1, len(self._present)))[0]
        return float(days[self._seat(student_id)]), days[self._present]

    def snapshots(self, today: pd.DataFrame, doing: Doing, until: date) -> pd.DataFrame:
        """Return the student's features on the day `until`, one row per alternative.

        What comes in is graded when it comes in, and comes in by that day.

        Parameters
        ----------
        today
            The student's snapshot of `as_of`: one row. Ids, attributes and surroundings stay.
        until
            After `as_of`, not after the section's end.

        Raises
        ------
        NotFoundError
            The student was not enrolled in the section on that day.
        ValueError
            `until` is not in the days to come.
        """
        last = float((until - _EPOCH).days)
        if not self._today < last <= max(self._section.ends_on, self._section.due_on.max()):
            raise ValueError(f"{until} is not among the days of the section that are to come.")
        seat = self._seat(str(today["student_id"].iloc[0]))
        number = len(doing.on_time)
        values = self._features(self._twins(seat, doing, last), last)
        class_of = {name: np.tile(self._class(last)[name], (number, 1)) for name in _COMPARED}
        for name, column in class_of.items():
            column[:, seat] = values[name]
        enrolled, present = (np.tile(who, (number, 1)) for who in (self._enrolled, self._present))
        beside = beside_class(class_of, enrolled, present, seat)
        values |= {
            name: np.broadcast_to(figures, (number, 1))[:, 0] for name, figures in beside.items()
        }
        rows = today.iloc[np.zeros(number, int)].reset_index(drop=True)
        return rows.assign(
            cut_day=last - self._section.starts_on,
            cut_on=pd.Timestamp(until),
            **{name: values[name].astype(np.float32) for name in NUMERIC_FEATURES},
        )

    def _class(self, day: float) -> dict[str, Floats]:
        """Return the features of everyone on a day to come, each computed once."""
        if day not in self._classes:
            self._classes[day] = self._features(self._section, day)
        return self._classes[day]

    def _features(self, section: SectionRecords, day: float) -> dict[str, Floats]:
        """Return the features of each student of `section` on `day`, shapes (n,)."""
        cut = np.array([day - section.starts_on])
        activity = Activity(section, cut, self._activity_from)
        features = own_features(section, cut, self._history, activity, np.array([self._today]))
        shape = (1, len(section.students))
        return {name: np.broadcast_to(values, shape)[0] for name, values in features.items()}

    def _seat(self, student_id: str) -> int:
        seat = self._seats.get(student_id)
        if seat is None or not self._present[seat]:
            raise NotFoundError("The student was not enrolled in the section on that day.")
        return seat

    def _open(self, seat: int) -> Ints:
        section = self._before
        waiting = (section.due_on > self._today) & ~np.isfinite(section.seen_on[seat])
        required = ~section.shares.extra & (self._weight(seat) > 0)
        return np.flatnonzero(waiting & required)

    def _weight(self, seat: int) -> Floats:
        """Return each assignment's share of the student's final grade."""
        exempt = self._before.exempt_on
        if exempt is None:
            return self._shares.weight
        return self._shares.of(exempt[seat] <= self._today)

    def _known_scores(self, course: int) -> Floats:
        records = self._records
        known = records.result_scored_on <= self._today
        of_course = records.section_course[records.result_section] == course
        return np.asarray(records.result_score[known & of_course])

    def _carried_on(self, section: SectionRecords) -> SectionRecords:
        """Return the section with what everyone does as so far in the days to come."""
        today, due_on = self._today, section.due_on
        scores = np.minimum(section.score[:, section.required], 100)
        mean = _mean_by_row(scores, self._fallback(scores[self._present]))
        recent = np.flatnonzero((due_on <= today) & section.required)[-_RECENT:]
        exempt = np.zeros(section.score.shape, bool)
        if section.exempt_on is not None:
            exempt = section.exempt_on <= today
        submitted, scored, score = (
            matrix.copy() for matrix in (section.submitted_on, section.scored_on, section.score)
        )
        seen = section.seen_on.copy()
        for turn, place in enumerate(np.flatnonzero(due_on > today)):
            comes, late = np.ones(len(mean), bool), np.zeros(len(mean))
            if len(recent):
                model = recent[turn % len(recent)]
                comes = np.isfinite(section.seen_on[:, model])
                late = _lag(section, model)
            comes &= ~np.isfinite(seen[:, place]) & ~exempt[:, place]
            comes &= not section.shares.extra[place]
            day = np.maximum(due_on[place] + late, today + 1)
            for dates in (submitted, seen):
                dates[comes, place] = day[comes]
        waiting = np.isfinite(seen) & ~np.isfinite(scored)
        scored[waiting] = np.maximum(seen[waiting], today + 1)
        score[waiting] = np.broadcast_to(mean[:, None], score.shape)[waiting]
        return replace(
            section,
            submitted_on=submitted,
            seen_on=seen,
            scored_on=scored,
            score=score,
            activity=self._repeated(section),
        )

    def _fallback(self, scores: Floats) -> float:
        """Return the mean score of the class, else of the course, else the middle of the scale."""
        for known in (scores, self.scores):
            if not np.isnan(known).all():
                return float(np.nanmean(known))
        return 50.0

    def _repeated(self, section: SectionRecords) -> tuple[Ints, Ints, Floats]:
        student, day, count = section.activity
        recent = day > self._today - CYCLE
        turns = np.arange(1, int(max(section.ends_on - self._today, 0)) // CYCLE + 2)
        shifts = np.repeat(turns * CYCLE, recent.sum())
        return (
            np.concatenate([student, np.tile(student[recent], len(turns))]),
            np.concatenate([day, np.tile(day[recent], len(turns)) + shifts]),
            np.concatenate([count, np.tile(count[recent], len(turns))]),
        )

    def _twins(self, seat: int, doing: Doing, last: float) -> SectionRecords:
        """Return a section of one student per alternative, each a twin of `seat`."""
        section = self._section
        twins = np.full(len(doing.on_time), seat)
        submitted, scored, score = (
            matrix[twins] for matrix in (section.submitted_on, section.scored_on, section.score)
        )
        seen = section.seen_on[twins]
        places = self._open(seat)
        late = np.nan_to_num(submitted[:, places] - section.due_on[places], posinf=0.0)
        late = np.where(doing.on_time[:, None], np.minimum(late, 0.0), late)
        day = np.clip(section.due_on[places] + late, self._today + 1, None)
        day = np.where(section.due_on[places] <= last, np.minimum(day, last), day)
        earned = score[:, places]
        earned[:, : doing.scores.shape[1]] = doing.scores
        comes = ~np.isnan(earned)
        for dates in (submitted, seen, scored):
            dates[:, places] = np.where(comes, day, NEVER)
        score[:, places] = earned
        return replace(
            section,
            students=section.students[twins],
            enrolled_on=section.enrolled_on[twins],
            withdrawn_on=section.withdrawn_on[twins],
            submitted_on=submitted,
            seen_on=seen,
            scored_on=scored,
            score=score,
            moved=section.moved[twins],
            exempt_on=None if section.exempt_on is None else section.exempt_on[twins],
            late=None if section.late is None else section.late[twins],
            activity=self._activity_of(seat, doing.active_days),
        )

    def _activity_of(self, seat: int, active_days: Floats) -> tuple[Ints, Ints, Floats]:
        """Return the activity of each twin of `seat`."""
        student, day, count = self._section.activity
        past = (student == seat) & (day <= self._today)
        usual = count[past] if past.any() else count
        size = usual[usual > 0].mean() if (usual > 0).any() else 1.0
        horizon = int(self._today) + 1 + np.arange(int(self._section.ends_on - self._today) + CYCLE)
        parts = []
        for days in np.unique(active_days):  # NaN once
            chosen = np.flatnonzero(
                (active_days == days) | (np.isnan(days) & np.isnan(active_days))
            )
            if np.isnan(days):
                when, counts = day[student == seat], count[student == seat]
            else:
                turn = (np.arange(len(horizon)) + 1) * days // CYCLE
                active = horizon[np.diff(turn, prepend=0) > 0]
                when = np.concatenate([day[past], active])
                counts = np.concatenate([count[past], np.full(len(active), size)])
            parts.append(
                (
                    np.repeat(chosen, len(when)),
                    np.tile(when, len(chosen)),
                    np.tile(counts, len(chosen)),
                )
            )
        student, day, count = (np.concatenate(column) for column in zip(*parts, strict=True))
        return student, day, count


#: What `beside_class` reads of everyone.
_COMPARED = (
    *COMPARED,
    "grade_rate_so_far",
    "assignments_due",
    "activity_total",
)


def _as_known(section: SectionRecords, today: float) -> SectionRecords:
    """Return the section without what is dated after `today`."""
    unseen, unscored = section.seen_on > today, section.scored_on > today
    submitted, seen = (
        np.where(unseen, NEVER, days) for days in (section.submitted_on, section.seen_on)
    )
    scored = np.where(unscored, NEVER, section.scored_on)
    score = np.where(unscored, np.nan, section.score)
    earlier = section.earlier
    for known_on, targets in (
        (earlier.seen_on, ((submitted, earlier.submitted_on), (seen, earlier.seen_on))),
        (earlier.scored_on, ((scored, earlier.scored_on), (score, earlier.score))),
    ):
        stands = np.flatnonzero((known_on <= today) & (today < earlier.until))
        for matrix, values in targets:
            matrix[earlier.cell[0][stands], earlier.cell[1][stands]] = values[stands]
    student, day, count = section.activity
    known = day <= today
    return replace(
        section,
        enrolled_on=np.where(section.enrolled_on <= today, section.enrolled_on, NEVER),
        withdrawn_on=np.where(section.withdrawn_on <= today, section.withdrawn_on, NEVER),
        submitted_on=submitted,
        seen_on=seen,
        scored_on=scored,
        score=score,
        exempt_on=_exempt_as_known(section, today),
        late=None if section.late is None else np.where(unseen, np.nan, section.late),
        earlier=earlier.take(np.zeros(0, np.int64)),
        activity=(student[known], day[known], count[known]),
    )


def _exempt_as_known(section: SectionRecords, today: float) -> Floats | None:
    if section.exempt_on is None:
        return None
    exempt_on = np.where(section.exempt_on <= today, section.exempt_on, NEVER)
    earlier = section.earlier
    stands = np.flatnonzero((earlier.exempt_on <= today) & (today < earlier.until))
    exempt_on[earlier.cell[0][stands], earlier.cell[1][stands]] = earlier.exempt_on[stands]
    return exempt_on


def _lag(section: SectionRecords, place: int) -> Floats:
    """Return how many days after its due date each student handed it in; 0: not at all."""
    came = np.where(
        np.isfinite(section.submitted_on[:, place]),
        section.submitted_on[:, place],
        section.seen_on[:, place],
    )
    return np.where(np.isfinite(came), came - section.due_on[place], 0.0)


def _mean_by_row(values: Floats, otherwise: float) -> Floats:
    known = ~np.isnan(values)
    number = known.sum(1)
    total = np.where(known, values, 0.0).sum(1)
    return np.where(number > 0, total / np.maximum(number, 1), otherwise)


def _date(day: float) -> date:
    return date.fromordinal(_EPOCH.toordinal() + int(day))
