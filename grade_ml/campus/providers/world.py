"""The surroundings of a simulated campus: pure functions of its seed and of the day.

The modules of the providers write their formats. Weather, campus events and the mood of posts
follow the campus's own conditions, which act on grades as its truth states; economy, jobs and page
views have no effect on grades.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from datetime import date, timedelta
from enum import IntEnum

import numpy as np

from grade_ml.campus.simulated import CampusConfig, conditions
from grade_ml.campus.simulated.calendar import Term, newest_term

#: The time zone of the campus's calendars.
TIMEZONE = "Europe/London"
#: Events per day: mean, and change by one standard deviation of `campus_events`.
EVENTS_MEAN, EVENTS_BY_CONDITION = 4.0, 1.5
#: Slow series (economy, jobs, interest) are sums of waves of these periods, in years.
SLOW_WAVES = 8
SHORTEST_YEARS, LONGEST_YEARS = 1.5, 12.0


class Stream(IntEnum):
    """The purpose of a generator; the numbers differ from those of the campus (`seeds.Purpose`)."""

    WEATHER = 101
    FORECAST = 102
    SLOW = 103
    REVISION = 104
    POSTS = 105
    TONE = 106
    EVENTS = 107
    VIEWS = 108


@dataclass(frozen=True)
class World:
    """The surroundings of a campus as they are known on a day.

    Parameters
    ----------
    config
        The campus; only its seed, courses and number of terms are used.
    today
        Values that are published later are not visible yet.
    other_school
        The school whose records the OneRoster server serves; without it, a small college.
    """

    config: CampusConfig
    today: date
    other_school: CampusConfig | None = None

    @property
    def college(self) -> CampusConfig:
        """The school whose records the OneRoster server serves."""
        seed = self.config.seed + 1
        return self.other_school or CampusConfig(students=120, courses=3, terms=3, seed=seed)

    def condition(self, name: str, first: date, last: date) -> np.ndarray:
        """Return a condition of the campus (mean 0, SD 1) per day, from `first` to `last`."""
        frame = conditions(self.config.seed, np.datetime64(first, "D"), np.datetime64(last, "D"))
        return frame[name].to_numpy()

    def event_counts(self, first: date, last: date) -> np.ndarray:
        """Return the number of campus events per day, from `first` to `last`."""
        mean = EVENTS_MEAN + EVENTS_BY_CONDITION * self.condition("campus_events", first, last)
        return np.maximum(np.rint(mean), 0).astype("int64")

    def slow(self, name: str, years: np.ndarray) -> np.ndarray:
        """Return a slow series at `years` (fractional), with mean 0 and SD 1, by its name."""
        random = self.generator(Stream.SLOW, number(name))
        shortest, longest = np.log(SHORTEST_YEARS), np.log(LONGEST_YEARS)
        periods = np.exp(random.uniform(shortest, longest, SLOW_WAVES))
        phases = random.uniform(0, 2 * np.pi, SLOW_WAVES)
        waves = np.cos(2 * np.pi * np.asarray(years)[:, None] / periods + phases)
        return np.asarray(np.sqrt(2 / SLOW_WAVES) * waves.sum(axis=1))

    def generator(self, stream: Stream, *place: int) -> np.random.Generator:
        """Return the generator of `stream` at `place` (days as ordinals, numbers of names)."""
        return np.random.default_rng(
            np.random.SeedSequence(self.config.seed, spawn_key=(int(stream), *place))
        )

    @property
    def terms(self) -> list[Term]:
        """The campus's terms, oldest first, and the announced terms, which start within a year."""
        newest = newest_term(self.today).number
        first = newest - self.config.terms + 1
        announced = self.today + timedelta(days=366)
        return [
            term
            for term in (Term(number) for number in range(first, newest + 5))
            if term.starts_on <= announced
        ]


def days_between(first: date, last: date) -> list[date]:
    """Return the days from `first` to `last`, both included; none if `last` is earlier."""
    return [first + timedelta(days=n) for n in range((last - first).days + 1)]


def number(name: str) -> int:
    """Return a number for a name, the same in every process."""
    return zlib.crc32(name.encode())
