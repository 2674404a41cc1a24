"""The trajectory model: all forecasters, their weights and bands, fitted and used together.

Its data come from `loading`; how it is trained, and what else learns from its held-out forecasts,
is in `grade_ml.training.trajectory`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd

from grade_ml.core.errors import ArtifactError, NotReadyError, ServiceError
from grade_ml.core.frames import together
from grade_ml.forecasting.activity import Activity
from grade_ml.forecasting.bands import Bands
from grade_ml.forecasting.combination import PARTS, Combination
from grade_ml.forecasting.contract import (
    FORECASTS,
    RIVALS,
    Counts,
    Estimate,
    Floats,
    Forecaster,
    Forecasts,
    Method,
    Panel,
)
from grade_ml.forecasting.evaluation import figures
from grade_ml.forecasting.forecasters import FORECASTERS
from grade_ml.forecasting.held_out import HeldOut, folds, stacked
from grade_ml.forecasting.panels import day_of, thinned
from grade_ml.forecasting.settings import SETTINGS

NAME = "trajectory"
_FILE = "trajectory.json"
#: Rows in memory at once; each costs about 2 kB.
_AT_ONCE = 150_000

Progress = Callable[[str], None]
Answers = dict[Method, list[Estimate]]


@dataclass(frozen=True)
class Trajectory:
    """A fitted model.

    Attributes
    ----------
    sections
        Those it was fitted on.
    fallbacks
        How often methods could not answer on held-out rows, by method and reason.
    degraded
        Which forecasters are missing, and why.
    """

    forecasters: Mapping[Method, Forecaster]
    combination: Combination
    bands: Bands
    activity: Activity
    sections: tuple[str, ...]
    fallbacks: Mapping[str, int]
    degraded: tuple[str, ...]

    @property
    def absent(self) -> list[str]:
        """Why forecasters that have weight are missing here, as text."""
        missing = self.combination.used() - set(self.forecasters)
        return [FORECASTERS[method].lacks() or f"{method} is missing" for method in sorted(missing)]

    def answers(
        self, panels: Sequence[Panel], counts: Counts, *, everyone: bool = False
    ) -> tuple[Answers, list[str]]:
        """Return the estimates of each method with weight, or of all, and why some are missing."""
        used = set(self.forecasters) if everyone else self.combination.used()
        estimates: Answers = {}
        missing = []
        for method, forecaster in self.forecasters.items():
            if method in used:
                try:
                    estimates[method] = forecaster.forecast(panels, counts)
                except ServiceError as error:
                    missing.append(f"{method}: {error.message}")
        return estimates, missing

    def forecast(self, panels: Sequence[Panel], snapshots: pd.DataFrame, as_of: date) -> Forecasts:
        """Forecast every remaining assignment of the panels' students.

        Parameters
        ----------
        panels
            One for each running section with something to come, as known on `as_of`.
        snapshots
            The weekly snapshots of these sections up to `as_of`, for activity.
        """
        counts, degraded = Counts(), list(self.degraded)
        parts = []
        for group in _groups(panels):
            answers, missing = self.answers(group, counts)
            degraded += missing
            parts.append(self._frame(group, answers, as_of))
        lengths = {panel.section_id: panel.length for panel in panels}
        return Forecasts(
            forecasts=together(parts, {name: kind for name, (kind, *_) in FORECASTS.items()}),
            activity=self.activity.forecast(snapshots, lengths),
            fallbacks=counts.of,
            nothing={},
            degraded=tuple(dict.fromkeys(degraded)),
        )

    def _frame(self, panels: Sequence[Panel], answers: Answers, as_of: date) -> pd.DataFrame:
        frame = pd.concat([_keys(panel) for panel in panels], ignore_index=True)
        course, horizon = frame["course_id"].to_numpy(object), frame["horizon"].to_numpy()
        combined, dominant = self.combine(answers, course, horizon)
        bounds = self.bands.bounds(combined, course, horizon)
        values = dict(zip(("mean", "submit_probability"), combined.T, strict=True))
        values["median"] = self.bands.median(combined)
        values |= dict(zip(("low80", "high80", "low95", "high95"), bounds.T, strict=True))
        frame = frame.assign(**values, method=dominant, as_of=pd.Timestamp(as_of))
        exempt = np.concatenate([panel.exempt[:, panel.remaining].ravel() for panel in panels])
        return frame.loc[~exempt, list(FORECASTS)].astype({"as_of": "datetime64[ns]"})

    def combine(
        self, answers: Answers, course: np.ndarray, horizon: np.ndarray
    ) -> tuple[Floats, np.ndarray]:
        """Return the combined mean and chance (N, 2), and the dominant methods."""
        return self.combination.combine(
            {name: stacked(estimates) for name, estimates in answers.items()}, course, horizon
        )

    def save(self, folder: Path) -> None:
        """Write the model to an existing folder, each forecaster into a folder of its own."""
        for method, forecaster in self.forecasters.items():
            (folder / str(method)).mkdir()
            forecaster.save(folder / str(method))
        described = {
            "methods": [str(method) for method in self.forecasters],
            "combination": self.combination.to_dict(),
            "bands": self.bands.to_dict(),
            "activity": self.activity.to_dict(),
            "sections": self.sections,
            "fallbacks": self.fallbacks,
            "degraded": self.degraded,
        }
        (folder / _FILE).write_text(json.dumps(described))

    @classmethod
    def load(cls, folder: Path) -> Trajectory:
        """Read what `save` wrote; forecasters whose library is missing here are left out.

        Raises
        ------
        ArtifactError
            The folder holds no such model, or one of a version that weighs other things.
        """
        try:
            described = json.loads((folder / _FILE).read_text())
        except (FileNotFoundError, json.JSONDecodeError) as error:
            raise ArtifactError(
                f"There is no trajectory model in {folder.name}: {error}.",
                "Run the job generate_time_series_forecasts; it trains one.",
            ) from error
        if described["combination"].get("parts") != list(PARTS):
            raise ArtifactError(
                f"The trajectory model in {folder.name} weighs other things than this version.",
                "Run the job generate_time_series_forecasts; it trains one.",
            )
        forecasters = {Method(name): FORECASTERS[Method(name)] for name in described["methods"]}
        lacking = [forecaster for forecaster in forecasters.values() if forecaster.lacks()]
        return cls(
            {
                method: forecaster.load(folder / str(method))
                for method, forecaster in forecasters.items()
                if forecaster.instead or forecaster not in lacking
            },
            Combination.from_dict(described["combination"]),
            Bands.from_dict(described["bands"]),
            Activity.from_dict(described["activity"]),
            tuple(described["sections"]),
            described["fallbacks"],
            tuple(
                dict.fromkeys(
                    [*described["degraded"], *(forecaster.lacks() for forecaster in lacking)]
                )
            ),
        )


@dataclass(frozen=True)
class Fitted:
    """A model, and its forecasts of sections that its forecasters had not seen.

    Attributes
    ----------
    forecasts
        Columns `FORECASTS`; as_of is the panel's day.
    panels
        With truth: what they are about.
    figures
        As `evaluation.figures` returns them.
    """

    model: Trajectory
    forecasts: pd.DataFrame
    panels: tuple[Panel, ...]
    figures: Mapping[str, float]


def fit(  # noqa: PLR0913
    panels: Sequence[Panel],
    snapshots: pd.DataFrame,
    *,
    seed: int,
    previous: Trajectory | None = None,
    offered: Collection[Method] = tuple(FORECASTERS),
    on_progress: Progress = lambda message: None,
) -> Fitted:
    """Fit on panels with truth.

    Parameters
    ----------
    panels
        Several days of each ended section.
    snapshots
        The weekly snapshots of the same sections, for activity.
    previous
        An earlier model, from whose weights the network starts.
    offered
        The forecasters to try; one whose library is missing is left out, and `degraded` states so.
    on_progress
        Receives a message for each step.

    Raises
    ------
    NotReadyError
        No score is known to learn from.
    """
    panels = [panel for panel in panels if not np.isnan(panel.truth[:, panel.remaining]).all()]
    if not panels:
        raise NotReadyError(
            "There is no ended section with coursework and scores, so that no forecast can be "
            "learned.",
            "Load a gradebook with at least one ended section.",
        )
    requested = {
        method: forecaster for method, forecaster in FORECASTERS.items() if method in offered
    }
    kinds = {method: kind for method, kind in requested.items() if kind.instead or not kind.lacks()}
    degraded = [kind.lacks() for kind in requested.values() if kind.lacks()]
    counts = Counts()
    rows, answered = [], []
    panels = thinned(panels, SETTINGS.most_rows, seed)
    for number, (known, unseen) in enumerate(folds(panels, SETTINGS.folds)):
        on_progress(f"Forecasters on held-out sections, part {number + 1}")
        held = thinned(unseen, SETTINGS.most_held_out // SETTINGS.folds, seed)
        answers: Answers = {}
        for method, kind in list(kinds.items()):
            try:
                answers[method] = kind.fit(known, seed=seed).forecast(held, counts)
            except ServiceError as error:
                degraded.append(f"{method}: {error.message}")
                del kinds[method]
        rows.append(HeldOut.of(held, answers))
        answered.append((held, answers))
        _keep_better(kinds, rows[-1])
    shared = [name for name in kinds if all(name in part.answers for part in rows)]
    rows = [part.only(shared) for part in rows]
    together = HeldOut.together(rows)
    combination = Combination.learn(together)
    combined, _ = combination.combine(together.answers, together.course, together.horizon)
    on_progress("Forecasters on all sections")
    before = previous.forecasters if previous else {}
    forecasters: dict[Method, Forecaster] = {}
    for method, kind in kinds.items():
        try:
            forecasters[method] = kind.fit(panels, seed=seed, previous=before.get(method))
        except ServiceError as error:
            degraded.append(f"{method}: {error.message}")
    model = Trajectory(
        forecasters=forecasters,
        combination=combination,
        bands=Bands.learn(together, combined),
        activity=Activity.fit(snapshots),
        sections=tuple(sorted({panel.section_id for panel in panels})),
        fallbacks=counts.of,
        degraded=tuple(degraded),
    )
    frames = [
        model._frame(
            [panel], {name: [estimates[k]] for name, estimates in answers.items()}, day_of(panel)
        )
        for held, answers in answered
        for k, panel in enumerate(held)
    ]
    seen = tuple(panel for held, _ in answered for panel in held)
    return Fitted(model, pd.concat(frames), seen, figures(rows))


def _keep_better(kinds: dict[Method, type[Forecaster]], rows: HeldOut) -> None:
    """Drop the rival with the larger error."""
    rivals = [name for name in RIVALS if name in kinds and name in rows.answers]
    if len(rivals) == len(RIVALS):
        loss = [float(((rows.answers[rival][:, 0] - rows.truth) ** 2).mean()) for rival in rivals]
        del kinds[rivals[int(np.argmax(loss))]]


def _groups(panels: Sequence[Panel]) -> Iterator[list[Panel]]:
    """Yield the panels in groups of at most `_AT_ONCE` rows, or of one panel."""
    group: list[Panel] = []
    total = 0
    for panel in panels:
        size = panel.shape[0] * panel.shape[1]
        if group and total + size > _AT_ONCE:
            yield group
            group, total = [], 0
        group.append(panel)
        total += size
    if group:
        yield group


def _keys(panel: Panel) -> pd.DataFrame:
    n, r = panel.shape
    place = panel.remaining
    return pd.DataFrame(
        {
            "course_id": panel.course_id,
            "section_id": panel.section_id,
            "student_id": np.repeat(panel.students, r),
            "assignment_id": np.tile(panel.assignments[place], n),
            "horizon": np.tile(np.arange(1, r + 1), n),
            "due_day": np.tile(panel.due_day[place], n),
            "weight": np.tile(np.clip(panel.weight[place], 0, 100), n),
        }
    )
