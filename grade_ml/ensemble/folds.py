"""Which rows may predict which: a section's and a student's rows are never on both sides."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pandas as pd

from grade_ml.ensemble.rows import began_on

Mask = npt.NDArray[np.bool_]
Codes = npt.NDArray[np.intp]

#: A forward fold has at least this many terms behind it.
MIN_TERMS = 3


def section_folds(rows: pd.DataFrame, count: int, seed: int) -> Iterator[tuple[Mask, Mask]]:
    """Yield (training rows, held-out rows) so that every row is held out once.

    Whole sections are held out together, in folds of about equal size, sections of one course in
    different folds as far as possible (a later section of a known course is the usual case); a
    student who appears in the held-out sections is left out of the training rows altogether. With
    a single section its students are divided instead.

    Parameters
    ----------
    rows
        Columns section_id, course_id and student_id.
    count
        Number of folds, at most; there are never more folds than sections (or students).
    """
    section, student, course = (
        pd.factorize(rows[name].astype("object"), sort=True)[0]
        for name in ("section_id", "student_id", "course_id")
    )
    unit, group = (section, course) if section.max() > 0 else (student, student)
    fold = _balanced(unit, group, count, seed)[unit]
    for held in range(fold.max() + 1):
        held_out = fold == held
        seen = np.isin(student, student[held_out])
        yield ~held_out & ~seen, held_out


def _balanced(unit: Codes, group: Codes, count: int, seed: int) -> Codes:
    """Return a fold per unit: the largest first, into the emptiest fold free of its group."""
    size = np.bincount(unit)
    of_group = np.zeros(size.size, dtype=np.intp)
    of_group[unit] = group
    filled = np.zeros((min(count, size.size), group.max() + 1))
    fold = np.zeros(size.size, dtype=np.intp)
    shuffled = np.random.default_rng(seed).permutation(size.size)
    for code in shuffled[np.argsort(-size[shuffled], kind="stable")]:
        fold[code] = np.lexsort((filled.sum(axis=1), filled[:, of_group[code]] > 0))[0]
        filled[fold[code], of_group[code]] += size[code]
    return fold


def validation_folds(rows: pd.DataFrame, count: int, seed: int) -> list[tuple[Mask, Mask]]:
    """Return (training rows, held-out rows), forward in time where there are terms enough.

    Each of the last terms, `count` at most, is held out once, and only what began earlier predicts
    it, without the students it shares with that term. Where fewer than two terms have `MIN_TERMS`
    behind them, a forward fold would learn from one or two terms and miss whole courses (on OULAD's
    two terms: three of seven, and an ECE of .066 on the next term against .012); then sections are
    held out as in `section_folds`, or students where sections would leave nothing to learn from.

    Parameters
    ----------
    rows
        Columns section_id, course_id, student_id, cut_on (datetime) and cut_day.
    """
    began = began_on(rows)
    # Sections that start within a month of each other are one term.
    starts = began.drop_duplicates().sort_values()
    of_term = (starts.diff() > pd.Timedelta(days=31)).cumsum()
    term = began.map(dict(zip(starts, of_term, strict=True))).to_numpy()
    last = int(term.max())
    if last < MIN_TERMS + 1:
        folds = list(section_folds(rows, count, seed))
        if all(train.any() for train, _ in folds):
            return folds
        # Every student takes every section, as in a first term: only students can be separated.
        return list(section_folds(rows.assign(section_id="", course_id=""), count, seed))
    student = pd.factorize(rows["student_id"].astype("object"))[0]
    folds = []
    for held_term in range(max(last + 1 - count, MIN_TERMS), last + 1):
        held_out = term == held_term
        folds.append(((term < held_term) & ~np.isin(student, student[held_out]), held_out))
    return folds
