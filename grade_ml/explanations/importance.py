"""Which features move predictions, how sure that is, and whether it changed more than by chance.

Importance is the mean size of a feature's contributions; its share is of all features together, so
that courses and days compare. Intervals come from resampled students. Whether a share left its
band is judged against training terms in the same phase and against fits on unchanged data. What
contributions are is said in `attribution`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from grade_ml.core.frames import empty, together
from grade_ml.core.threads import limited_threads
from grade_ml.ensemble.evaluation import PHASES, in_phase
from grade_ml.ensemble.members import MEMBERS, Member, Task
from grade_ml.ensemble.pooled import PooledModel, Workload
from grade_ml.ensemble.rows import ENROLLMENT
from grade_ml.explanations.attribution import explain
from grade_ml.explanations.settings import SETTINGS
from grade_ml.serving.models import Servable

Floats = npt.NDArray[np.float64]

_COLUMNS = ["feature", "importance", "low", "high", "share", "share_low", "share_high"]
#: Columns of what importance was in training terms.
REFERENCE = {"task": "object", "feature": "object", "share": "float64", "spread": "float64"}
_SPREAD = {"task": "object", "phase": "object", "feature": "object", "spread": "float64"}
_EXPECTED = {"task": "object", "feature": "object", "share": "float64", "error": "float64"}


def importance(
    contributions: Floats,
    features: Sequence[str],
    students: npt.NDArray[np.generic],
    seed: int,
) -> pd.DataFrame:
    """Return each feature's importance, the most important first.

    Parameters
    ----------
    contributions
        Shape (rows, features); rows of NaN are left out.
    students
        Whose each row is.

    Returns
    -------
    pandas.DataFrame
        feature, importance with its 95% interval (low, high), in the unit of the contributions,
        and share (0-1) with its interval. No rows where nothing is known.
    """
    known = ~np.isnan(contributions).any(axis=1)
    sizes = np.abs(contributions[known])
    if not sizes.size:
        return empty({**dict.fromkeys(_COLUMNS, "float64"), "feature": "object"})
    means, draws = sizes.mean(axis=0), _resampled(sizes, students[known], seed)
    low, high = np.quantile(draws, [0.025, 0.975], axis=0)
    shares = draws / np.maximum(draws.sum(axis=1, keepdims=True), 1e-12)
    share_low, share_high = np.quantile(shares, [0.025, 0.975], axis=0)
    share = means / max(means.sum(), 1e-12)
    columns = (list(features), means, low, high, share, share_low, share_high)
    found = pd.DataFrame(dict(zip(_COLUMNS, columns, strict=True)))
    return found.sort_values(["importance", "feature"], ascending=[False, True], ignore_index=True)


def _resampled(sizes: Floats, students: npt.NDArray[np.generic], seed: int) -> Floats:
    """Return the means of resampled students: shape (resamples, features)."""
    member = np.unique(students, return_inverse=True)[1]
    count = int(member.max()) + 1
    total = np.zeros((count, sizes.shape[1]))
    np.add.at(total, member, sizes)
    rows = np.bincount(member, minlength=count)
    drawn = np.random.default_rng(seed).multinomial(
        count, np.full(count, 1 / count), SETTINGS.resamples
    )
    return np.asarray((drawn @ total) / np.maximum(drawn @ rows, 1)[:, None])


def everywhere(courses: pd.DataFrame) -> pd.DataFrame:
    """Return the importance over all courses from that of each, weighted by its students.

    Parameters
    ----------
    courses
        Columns task, grouping, group_name, feature, students, importance, low and high of each.
    """
    keys = ["task", "grouping", "group_name", "feature"]
    weight = courses["students"]
    # A standard error of each course; those of different courses are independent.
    error = (courses["high"] - courses["low"]) / (2 * 1.96)
    rows = courses[keys].assign(
        weighted=courses["importance"] * weight, squared=(error * weight) ** 2
    )
    totals = courses.drop_duplicates(["course_id", *keys[:3]]).groupby(keys[:3])["students"].sum()
    found = rows.groupby(keys, as_index=False).sum()
    found["students"] = totals.reindex(pd.MultiIndex.from_frame(found[keys[:3]])).to_numpy()
    found["importance"] = found.pop("weighted") / found["students"]
    margin = 1.96 * np.sqrt(found.pop("squared")) / found["students"]
    found["low"] = (found["importance"] - margin).clip(lower=0)
    found["high"] = found["importance"] + margin
    whole = found.groupby(keys[:3])["importance"].transform("sum").clip(lower=1e-12)
    found["share"] = found["importance"] / whole
    return found


def phase_of(progress: float) -> str:
    """Return the third of its section in which `progress` (0-1) lies, by name."""
    return next(name for name, (_, high) in PHASES.items() if progress <= high)


def retrain_spread(
    model: PooledModel, snapshots: pd.DataFrame, outcomes: pd.DataFrame, seed: int
) -> pd.DataFrame:
    """Return how much a feature's share differs between fits on unchanged data.

    The stack's boosted member is fitted again and again, each time on half of the students of its
    training terms, and explains the same rows. A stack of five varies less than one member does, so
    the band is wide rather than narrow.

    Parameters
    ----------
    snapshots, outcomes
        Of training sections, as for `pooled.fit`.

    Returns
    -------
    pandas.DataFrame
        task, phase, feature, spread (standard deviation of the share). No rows where no boosted
        member is installed or there are no training rows.
    """
    rows = _training_sample(model, snapshots, outcomes, seed)
    found = []
    with limited_threads(len(rows) * SETTINGS.work):
        for task, part in model.parts.items():
            kind = _boosted()
            if kind is None or len(rows) < SETTINGS.least_students:
                continue
            load = Workload.of(task, rows, part.encoders)
            names = part.encoders[kind.view(task)].features
            shares: dict[str, list[Floats]] = {phase: [] for phase in PHASES}
            for half in _halves(rows["student_id"], seed):
                member = load.fit(kind, half, model.parameters[task][kind.name], seed)
                for phase, probe in _probes(rows, seed):
                    parts = member.contributions(load.matrices[kind.view(task)][probe])
                    sizes = np.abs(parts[:, :-1]).mean(axis=0)
                    shares[phase].append(sizes / max(sizes.sum(), 1e-12))
            found += [
                pd.DataFrame(
                    {"task": str(task), "phase": phase, "feature": names}
                    | {"spread": np.std(some, axis=0, ddof=1)}
                )
                for phase, some in shares.items()
                if some
            ]
    return together(found, _SPREAD)


def _boosted() -> type[Member] | None:
    boosted = [kind for kind in MEMBERS if kind.name in {"lightgbm", "xgboost", "catboost"}]
    installed = {kind.name: kind for kind in boosted if kind.available()}
    return installed.get("lightgbm") or next(iter(installed.values()), None)


def _training_sample(
    model: PooledModel, snapshots: pd.DataFrame, outcomes: pd.DataFrame, seed: int
) -> pd.DataFrame:
    known = snapshots[snapshots["section_id"].astype(str).isin(model.sections)]
    if len(known) > SETTINGS.retrain_rows:
        known = known.sample(SETTINGS.retrain_rows, random_state=seed)
    truth = outcomes[[*ENROLLMENT, "final_grade", "at_risk"]].astype(dict.fromkeys(ENROLLMENT, str))
    joined = known.astype(dict.fromkeys(ENROLLMENT, str)).merge(truth, on=ENROLLMENT)
    return joined[joined["at_risk"].notna()].reset_index(drop=True)


def _halves(students: pd.Series, seed: int) -> Iterator[npt.NDArray[np.bool_]]:
    codes, names = pd.factorize(students.astype(object))
    random = np.random.default_rng(seed)
    for _ in range(SETTINGS.retrains):
        chosen = random.permutation(len(names))[: max(len(names) // 2, 1)]
        yield np.isin(codes, chosen)


def _probes(rows: pd.DataFrame, seed: int) -> Iterator[tuple[str, npt.NDArray[np.intp]]]:
    random = np.random.default_rng(seed)
    for phase in PHASES:
        places = np.flatnonzero(in_phase(rows["progress"], phase))
        if places.size:
            yield phase, np.sort(random.permutation(places)[: SETTINGS.probe_rows])


def expected(
    model: PooledModel, served: Servable, snapshots: pd.DataFrame, phase: str, seed: int
) -> pd.DataFrame:
    """Return task, feature, share and error: what importance was in a course's training terms.

    Parameters
    ----------
    served
        The model that serves the course.
    snapshots
        Of the course.

    Returns
    -------
    pandas.DataFrame
        `error` is the share's standard error. No rows where the course has too few students in
        training terms.
    """
    known = snapshots["section_id"].astype(str).isin(model.sections)
    rows = snapshots[known & in_phase(snapshots["progress"], phase)]
    if rows["student_id"].nunique() < SETTINGS.least_students:
        return empty(_EXPECTED)
    rows = rows.sample(min(SETTINGS.probe_rows, len(rows)), random_state=seed)
    told = explain(served, rows, seed)
    students = rows["student_id"].astype(object).to_numpy()
    found = []
    for task, parts in ((Task.GRADE, told.grade), (Task.RISK, told.risk)):
        one = importance(parts.contributions, told.features, students, seed)
        error = (one["share_high"] - one["share_low"]) / (2 * 1.96)
        found.append(one.assign(task=str(task), error=error)[list(_EXPECTED)])
    return together(found, _EXPECTED)


def judged(found: pd.DataFrame, reference: pd.DataFrame) -> pd.DataFrame:
    """Return `found` with band_low, band_high and alarm.

    Parameters
    ----------
    found
        As `importance` gives it, for one task.
    reference
        feature, share and spread of training terms, for the same task and phase; without rows there
        is no band (NaN) and no alarm.

    Returns
    -------
    pandas.DataFrame
        A share alarms where its whole interval lies outside the band. Only features that are among
        the most important, now or in training terms, can: the rest is noise upon noise.
    """
    known = reference.set_index("feature")[["share", "spread"]].astype(np.float64)
    share = found["feature"].map(known["share"]).astype(np.float64)
    margin = SETTINGS.band * found["feature"].map(known["spread"]).astype(np.float64)
    low, high = (share - margin).clip(lower=0), share + margin
    usual = known["share"].nlargest(SETTINGS.watched).index
    watched = found["feature"].isin(usual) | (found.index < SETTINGS.watched)
    outside = (found["share_low"] > high) | (found["share_high"] < low)
    return found.assign(band_low=low, band_high=high, alarm=outside & watched)
