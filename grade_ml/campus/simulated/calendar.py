"""When terms run.

Terms start on the first Monday of February and of August and last 34 weeks, so that neighbours
overlap. A term exists from its 42nd day on, when first work has been graded; the term before ends
no earlier than the 48th, so that the newest term runs on every day.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta

#: Days from the first to the last day of a term.
LENGTH = 34 * 7
#: Age in days at which a term appears. Starts are at most 189 days apart, and 189 + 42 < 238.
AGE_AT_LEAST = 42

_SEASONS = ((2, "B", "Spring"), (8, "H", "Autumn"))


@dataclass(frozen=True, order=True)
class Term:
    """A term by its number: two a year, counted from the year 0."""

    number: int

    @property
    def code(self) -> str:
        """Year and letter of the month (B February, H August), as OULAD names presentations."""
        return f"{self.number // 2}{_SEASONS[self.number % 2][1]}"

    @property
    def term_id(self) -> str:
        """Id in the gradebook, which no other source uses."""
        return f"sim-{self.code}"

    @property
    def title(self) -> str:
        """Season and year."""
        return f"{_SEASONS[self.number % 2][2]} {self.number // 2}"

    @property
    def starts_on(self) -> date:
        """The first Monday of February or August."""
        first = date(self.number // 2, _SEASONS[self.number % 2][0], 1)
        return first + timedelta(days=-first.weekday() % 7)

    @property
    def ends_on(self) -> date:
        """The last day."""
        return self.starts_on + timedelta(days=LENGTH)


def newest_term(today: date) -> Term:
    """Return the newest term that is at least 42 days old; it runs on `today`."""
    term = Term(2 * today.year + 1)
    while (today - term.starts_on).days < AGE_AT_LEAST:
        term = Term(term.number - 1)
    return term
