"""How much the importance of features differs between fits of an ensemble on unchanged data.

It is measured once, where the ensemble is trained, and stored with it; its use is described in
`grade_ml.explanations.importance`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from grade_ml.core.frames import together
from grade_ml.core.threads import limited_threads
from grade_ml.ensemble.evaluation import PHASES, in_phase
from grade_ml.ensemble.members import MEMBERS, Member
from grade_ml.ensemble.pooled import SPREAD, PooledModel, Workload
from grade_ml.ensemble.rows import ENROLLMENT

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class SpreadSettings:
    """The judgements of the spread, each with its reason."""

    #: Fits of one member, each on half of the students. Half samples vary as much as fits on all
    #: students of another year do (Shao & Tu 1995).
    fits: int = 8
    #: Rows that such a fit sees, and rows of one phase on which importance is compared.
    rows: int = 20_000
    probe_rows: int = 500
    #: With fewer rows no importance is computed.
    least_rows: int = 30
    #: Explaining a row costs about as much as predicting so many: it pays for threads sooner.
    work: int = 100


SETTINGS = SpreadSettings()


def spread_between_fits(
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
    spreads = []
    with limited_threads(len(rows) * SETTINGS.work):
        for task, part in model.parts.items():
            kind = _boosted()
            if kind is None or len(rows) < SETTINGS.least_rows:
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
            spreads += [
                pd.DataFrame(
                    {"task": str(task), "phase": phase, "feature": names}
                    | {"spread": np.std(measured, axis=0, ddof=1)}
                )
                for phase, measured in shares.items()
                if measured
            ]
    return together(spreads, SPREAD)


def _boosted() -> type[Member] | None:
    boosted = [kind for kind in MEMBERS if kind.name in {"lightgbm", "xgboost", "catboost"}]
    installed = {kind.name: kind for kind in boosted if kind.available()}
    return installed.get("lightgbm") or next(iter(installed.values()), None)


def _training_sample(
    model: PooledModel, snapshots: pd.DataFrame, outcomes: pd.DataFrame, seed: int
) -> pd.DataFrame:
    known = snapshots[snapshots["section_id"].astype(str).isin(model.sections)]
    if len(known) > SETTINGS.rows:
        known = known.sample(SETTINGS.rows, random_state=seed)
    truth = outcomes[[*ENROLLMENT, "final_grade", "at_risk"]].astype(dict.fromkeys(ENROLLMENT, str))
    joined = known.astype(dict.fromkeys(ENROLLMENT, str)).merge(truth, on=ENROLLMENT)
    return joined[joined["at_risk"].notna()].reset_index(drop=True)


def _halves(students: pd.Series, seed: int) -> Iterator[npt.NDArray[np.bool_]]:
    codes, names = pd.factorize(students.astype(object))
    random = np.random.default_rng(seed)
    for _ in range(SETTINGS.fits):
        chosen = random.permutation(len(names))[: max(len(names) // 2, 1)]
        yield np.isin(codes, chosen)


def _probes(rows: pd.DataFrame, seed: int) -> Iterator[tuple[str, npt.NDArray[np.intp]]]:
    random = np.random.default_rng(seed)
    for phase in PHASES:
        places = np.flatnonzero(in_phase(rows["progress"], phase))
        if places.size:
            yield phase, np.sort(random.permutation(places)[: SETTINGS.probe_rows])
