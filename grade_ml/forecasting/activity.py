"""Weekly activity of the weeks to come: the student's level, and how the course's weeks go.

The level is the mean of the last four weeks; the course's weeks are those of its earlier sections.
Bands are the spread of held-out ratios (split conformal). Where a source has no activity, there is
nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from grade_ml.core.frames import empty, together
from grade_ml.forecasting.contract import ACTIVITY, Floats

#: Weeks that make a student's level, and weeks ahead that share a band.
_RECENT, _AHEAD = 4, (1, 2, 4, 8)
#: Actions added to both sides of a ratio, so that 0 against 1 is not everything.
_OFFSET = 5.0
_COLUMN = "activity_last_7"
_KEY = ["section_id", "student_id"]


@dataclass(frozen=True)
class Activity:
    """Mean actions by course ("" for all) and week, and log-ratio quantiles by bucket ahead."""

    weeks: Mapping[str, Floats]
    spread: Floats

    @classmethod
    def fit(cls, snapshots: pd.DataFrame) -> Activity:
        """Learn from the weekly snapshots of ended sections."""
        rows = _weekly(snapshots)
        if rows.empty:
            return cls({}, np.zeros((len(_AHEAD) + 1, 2)))
        of_all = _profile(rows)
        weeks = {"": of_all}
        for course, group in rows.groupby("course_id"):
            own = _profile(group)
            weeks[str(course)] = np.where(np.isnan(own), of_all[: len(own)], own)
        bare = cls(weeks, np.zeros((len(_AHEAD) + 1, 2)))
        return cls(weeks, bare._spread(rows))

    def _spread(self, rows: pd.DataFrame) -> Floats:
        """Return (buckets, 2): the 10% and 90% quantiles of log(actual/expected)."""
        ratios: list[list[Floats]] = [[] for _ in range(len(_AHEAD) + 1)]
        for course, group in rows.groupby("course_id"):
            table = group.pivot_table(index=_KEY, columns="week", values=_COLUMN).sort_index(axis=1)
            values, last = table.to_numpy(np.float64), int(table.columns.max())
            for week in range(_RECENT, last, max(last // 6, 1)):
                level = values[:, week - _RECENT : week].mean(1)
                expected = self._ahead(str(course), week, last, level)
                for k in range(min(expected.shape[1], values.shape[1] - week)):
                    actual = values[:, week + k]
                    ratio = np.log((actual + _OFFSET) / (expected[:, k] + _OFFSET))
                    ratios[_bucket(k + 1)].append(ratio[~np.isnan(ratio)])
        quantiles, before = [], np.zeros(2)
        for parts in ratios:
            together = np.concatenate(parts) if parts else np.zeros(0)
            before = np.quantile(together, [0.1, 0.9]) if len(together) else before
            quantiles.append(before)
        return np.stack(quantiles)

    def _ahead(self, course: str, week: int, last: int, level: Floats) -> Floats:
        """Return (n, weeks) expected in the weeks `week` + 1 to `last`."""
        profile = self.weeks.get(course, self.weeks[""])
        place = np.minimum(np.arange(last), len(profile) - 1)
        known = np.nan_to_num(profile[place], nan=float(np.nanmean(profile)))
        recent = known[max(week - _RECENT, 0) : week].mean() if week else known.mean()
        return np.asarray(level[:, None] * (known[week:] / max(recent, 1e-6)).clip(0, 5))

    def forecast(self, snapshots: pd.DataFrame, lengths: Mapping[str, float]) -> pd.DataFrame:
        """Return the columns `ACTIVITY` of the weeks after each section's newest cut.

        Parameters
        ----------
        snapshots
            Up to the day of the forecast; of running sections.
        lengths
            The days of each section.
        """
        rows = _weekly(snapshots)
        types = {name: kind for name, (kind, *_) in ACTIVITY.items()}
        if rows.empty or not self.weeks:
            return empty(types)
        parts = []
        for section, group in rows.groupby("section_id"):
            week, last = int(group["week"].max()), math.ceil(lengths.get(str(section), 0) / 7)
            if last <= week:
                continue
            recent = group[group["week"] > week - _RECENT]
            present = group.loc[group["week"] == week, "student_id"]
            level = recent.groupby("student_id")[_COLUMN].mean().reindex(present)
            mean = self._ahead(str(group["course_id"].iloc[0]), week, last, level.to_numpy())
            ahead = np.arange(1, mean.shape[1] + 1)
            spread = self.spread[[_bucket(int(k)) for k in ahead]]
            low, high = (
                np.maximum((mean + _OFFSET) * np.exp(spread[:, k]) - _OFFSET, 0) for k in range(2)
            )
            frame = pd.DataFrame(
                {
                    "section_id": str(section),
                    "student_id": np.repeat(level.index.to_numpy(object), len(ahead)),
                    "week": np.tile(week + ahead, len(level)),
                    "mean": mean.ravel(),
                    "low80": np.minimum(low, mean).ravel(),
                    "high80": np.maximum(high, mean).ravel(),
                }
            )
            parts.append(frame)
        return together(parts, types)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        weeks = {name: values.tolist() for name, values in self.weeks.items()}
        return {"weeks": weeks, "spread": self.spread.tolist()}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Activity:
        """Read what `to_dict` returned."""
        weeks = {name: np.array(values, dtype=float) for name, values in stored["weeks"].items()}
        return cls(weeks, np.array(stored["spread"]))


def _bucket(ahead: int) -> int:
    return int(np.searchsorted(_AHEAD, ahead))


def _weekly(snapshots: pd.DataFrame) -> pd.DataFrame:
    """Return ids as texts, week (1 and up) and the actions of that week, where they are known."""
    if _COLUMN not in snapshots:
        return pd.DataFrame()
    whole = (snapshots["cut_day"] % 7 == 0) & (snapshots["cut_day"] > 0)
    rows = snapshots[whole & snapshots[_COLUMN].notna()]
    ids = {name: rows[name].astype(object) for name in ("course_id", *_KEY)}
    week = (rows["cut_day"] // 7).astype("int64")
    return pd.DataFrame({**ids, "week": week, _COLUMN: rows[_COLUMN].astype("float64")})


def _profile(rows: pd.DataFrame) -> Floats:
    """Return the mean of each week from 1 on, NaN where none is known."""
    mean = rows.groupby("week")[_COLUMN].mean()
    return mean.reindex(range(1, int(mean.index.max()) + 1)).to_numpy(np.float64)
