"""Whether two samples come from the same distribution: one calibrated answer for any two frames.

The caller chooses the windows (the same week of term) and acts on the answer. `columns` reads the
columns, `statistics` computes the distances, `permutation` their p-values.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pandas as pd

from grade_ml.core.errors import ConfigurationError
from grade_ml.core.threads import limited_threads
from grade_ml.two_sample import statistics
from grade_ml.two_sample.columns import BROKEN, COMPARED, Column, Kind, columns
from grade_ml.two_sample.multivariate import Multivariate, separate
from grade_ml.two_sample.permutation import (
    Bools,
    Floats,
    Ints,
    Tail,
    Units,
    count,
    labellings,
    make_units,
    p_values,
)

#: With 999 the largest tenth shapes the tail within 10%, and a course takes a tenth of a second.
PERMUTATIONS = 999
#: The parts of `alpha` that columns and classifier may use up. Most drifts show in a column;
#: the rest is a margin, for the tails of p-values are approximations.
BY_COLUMN, _TOGETHER = 0.7, 0.1
#: The statistics that decide together; the others are only reported. Cramér-von Mises detects
#: shifts best, Kolmogorov-Smirnov a change in one place.
_DECIDING = ("ks", "cvm", "missing", "chi2")

_QUARTILES = (0.25, 0.5, 0.75)
#: Columns counted at once: about 100 MB.
_COLUMNS = 64

_FIGURES = (
    *statistics.NAMES,
    "missing",
    "effect",
    "p",
    *(f"p_{name}" for name in (*statistics.NAMES, "missing")),
)
_ORDER = [
    *("feature", "kind", "status", "reason", *statistics.NAMES, "missing"),
    *("p", "p_adjusted", "drifted", "effect"),
    *(f"p_{name}" for name in (*statistics.NAMES, "missing")),
]


@dataclass(frozen=True)
class DriftReport:
    """What differs between a reference and a current window.

    Parameters
    ----------
    drifted
        Whether anything does: a column, the columns together, or a column that is missing or has
        another type. If nothing differs this is True in at most a share `alpha` of the reports.
    features
        One row for each column of either frame: feature, kind (`columns.Kind`), status
        (`columns.Status`), reason (as text), ks, cvm, psi, kl, js, wasserstein, chi2, missing (the
        share in the current window minus that in the reference), p (of the column as a whole),
        p_adjusted (over all columns: below `alpha` is drift), drifted, effect (numeric: the chance
        that a current value is larger minus that it is smaller, -1 to 1; categorical: the
        share of rows in another category, 0 to 1), and one p_… for each statistic. What does not
        apply is NaN.
    multivariate
        The classifier's answer; `None` if fewer than two columns could be tested.
    alpha
        The share of false alarms that was allowed.
    reference_units, current_units
        Independent rows, or units of the cluster.
    """

    drifted: bool
    features: pd.DataFrame
    multivariate: Multivariate | None
    alpha: float
    reference_units: int
    current_units: int
    untested: tuple[str, ...] = field(default=())

    @property
    def conclusive(self) -> bool:
        """Whether anything could be tested: no drift in an empty window is no good news."""
        return bool(self.features["p"].notna().any())


def detect_drift(
    reference: pd.DataFrame,
    current: pd.DataFrame,
    *,
    cluster: str | None = None,
    alpha: float = 0.05,
    seed: int = 0,
) -> DriftReport:
    """Compare two frames column by column and as a whole.

    Every p-value comes from permutations of whole units, so it holds for any number of rows, ties,
    and rows that belong together; one per column goes through Benjamini-Hochberg.

    Parameters
    ----------
    reference, current
        Any two frames; a model's output may be among the columns. A column that is the same for
        a whole class (its size) is not a property of independent students: leave it out.
    cluster
        The column, in both, that names the unit rows belong to (a student); it is not tested.
        `None` if rows are independent.
    alpha
        The share of reports that may report drift if there is none; above 0, below 1.
    seed
        The same inputs and seed give the same report.

    Raises
    ------
    ConfigurationError
        `cluster` is no column of both frames, or `alpha` no share.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> draw = np.random.default_rng(1).normal
    >>> report = detect_drift(
    ...     pd.DataFrame({"score": draw(60, 10, 1000), "days": draw(3, 1, 1000)}),
    ...     pd.DataFrame({"score": draw(66, 10, 60), "days": draw(3, 1, 60)}),
    ... )
    >>> report.drifted, list(report.features.query("drifted")["feature"])
    (True, ['score'])
    """
    _check(reference, current, cluster, alpha)
    names = [None if cluster is None else frame[cluster] for frame in (reference, current)]
    units = make_units(names[0], names[1], (len(reference), len(current)), seed)
    all_columns = columns(reference, current, cluster, (units.reference, units.current))
    tested = [column for column in all_columns if column.status in COMPARED]
    is_current = np.arange(len(reference) + len(current)) >= len(reference)
    # On a machine whose cores are busy, threads that wait for each other take four times as long.
    with limited_threads(len(is_current)):
        chosen = labellings(units, PERMUTATIONS, seed)
        measured = figures(tested, units, chosen, is_current)
        multivariate = together(tested, units, alpha, seed) if len(tested) > 1 else None
    features = table(all_columns, measured, alpha, len(reference))
    return DriftReport(
        drifted=bool(features["drifted"].any())
        or (multivariate is not None and multivariate.drifted),
        features=features,
        multivariate=multivariate,
        alpha=alpha,
        reference_units=units.reference,
        current_units=units.current,
        untested=tuple(str(column.name) for column in all_columns if column.status not in COMPARED),
    )


def together(tested: Sequence[Column], units: Units, alpha: float, seed: int) -> Multivariate:
    """Return whether a classifier separates the sides by all columns together."""
    # The fewest permutations of which the most extreme is rare enough.
    auc, p = separate(tested, units, round(1 / (_TOGETHER * alpha)) - 1, seed)
    adjusted = round(min(p / _TOGETHER, 1.0), 9)
    return Multivariate(auc, p, adjusted, adjusted <= alpha)


def _check(
    reference: pd.DataFrame, current: pd.DataFrame, cluster: str | None, alpha: float
) -> None:
    if not 0 < alpha < 1:
        raise ConfigurationError(
            f"alpha is {alpha}, which is no share.", "Use a number between 0 and 1, such as 0.05."
        )
    for side, frame in (("reference", reference), ("current window", current)):
        if cluster is not None and list(frame.columns).count(cluster) != 1:
            raise ConfigurationError(
                f"The {side} does not have exactly one column {cluster!r} that names its units.",
                f"Its columns are: {', '.join(map(str, frame.columns)) or 'none'}. Name one that "
                "both frames have, or None if rows are independent.",
            )


def figures(
    tested: Sequence[Column], units: Units, chosen: Ints, is_current: Bools
) -> dict[Hashable, dict[str, float]]:
    """Return the figures of each column that can be compared, by its name.

    `chosen` are the labellings of `permutation.labellings`; without any but the true one there are
    no p-values.
    """
    by_name: dict[Hashable, dict[str, float]] = {}
    for kind, compare in ((Kind.NUMERIC, _numeric), (Kind.CATEGORICAL, _categorical)):
        alike = [column for column in tested if column.kind is kind]
        for start in range(0, len(alike), _COLUMNS):
            part = alike[start : start + _COLUMNS]
            values = compare(part, units, chosen, is_current)
            for place, column in enumerate(part):
                by_name[column.name] = {name: float(v[place]) for name, v in values.items()}
    return by_name


def _numeric(
    alike: Sequence[Column], units: Units, chosen: Ints, is_current: Bools
) -> dict[str, Floats]:
    values = _stacked(alike).astype(np.float64)
    cells, ends = statistics.cells(values)
    observed = statistics.numeric(*_sides(cells, statistics.CELLS + 1, is_current), ends)
    by_statistic = (
        {name: observed[name][0] for name in ("psi", "kl", "js")}
        | statistics.exact(values, is_current)
        | {"missing": _share_gap(np.isnan(values), is_current)}
    )
    if len(chosen) == 1:
        return by_statistic
    permuted = count(cells, statistics.CELLS + 1, units, chosen)
    return by_statistic | _chances(statistics.numeric(*permuted, ends), units.labellings)


def _stacked(alike: Sequence[Column]) -> npt.NDArray[np.generic]:
    return np.column_stack([column.values for column in alike if column.values is not None])


def _categorical(
    alike: Sequence[Column], units: Units, chosen: Ints, is_current: Bools
) -> dict[str, Floats]:
    values = _stacked(alike).astype(np.int64)
    kinds = np.array([len(column.categories) for column in alike])
    width = int(kinds.max()) + 1
    sides = _sides(values, width, is_current)
    shares = [side[0] / side[0].sum(axis=1, keepdims=True) for side in sides]
    by_statistic = (
        {name: value[0] for name, value in statistics.categorical(*sides).items()}
        | {"effect": np.abs(shares[1] - shares[0]).sum(axis=1) / 2}
        | {"missing": _share_gap(values == kinds, is_current)}
    )
    if len(chosen) == 1:
        return by_statistic
    permuted = count(values, width, units, chosen)
    return by_statistic | _chances(statistics.categorical(*permuted), units.labellings)


def _sides(cells: Ints, width: int, is_current: Bools) -> tuple[Floats, Floats]:
    """Return how many rows of each side lie in each cell: 1 x columns x `width`."""
    place = cells + np.arange(cells.shape[1]) * width
    size = cells.shape[1] * width
    counts = [
        np.bincount(place[side].ravel(), minlength=size).reshape(1, -1, width).astype(np.float32)
        for side in (~is_current, is_current)
    ]
    return counts[0], counts[1]


def _share_gap(mask: Bools, is_current: Bools) -> Floats:
    gap: Floats = mask[is_current].mean(axis=0) - mask[~is_current].mean(axis=0)
    return gap


def _chances(figures: dict[str, Floats], ways: float) -> dict[str, Floats]:
    """Return the p-value of each statistic (true labelling first), and one for the column."""
    p_by_name = {
        f"p_{name}": p_values(value[0], value[1:], ways) for name, value in figures.items()
    }
    deciding = [figures[name] for name in _DECIDING if name in figures]
    surprise = np.max([Tail.of(value[1:]).surprise(value) for value in deciding], axis=0)
    return {**p_by_name, "p": p_values(surprise[0], surprise[1:], ways)}


def table(
    listed: Sequence[Column], measured: dict[Hashable, dict[str, float]], alpha: float, rows: int
) -> pd.DataFrame:
    """Return `DriftReport.features` from `figures`; the reference has the first `rows` rows."""
    from statsmodels.stats.multitest import multipletests

    frame = pd.DataFrame(
        {
            "feature": [column.name for column in listed],
            "kind": [str(column.kind) for column in listed],
            "status": [str(column.status) for column in listed],
            "reason": [column.reason for column in listed],
        }
    )
    figures = pd.DataFrame(
        [measured.get(column.name, {}) for column in listed],
        columns=[*_FIGURES, "p_adjusted"],
        dtype=np.float64,
    )
    frame = pd.concat([frame, figures], axis=1)
    tested = frame["p"].notna().to_numpy()
    if tested.any():
        adjusted = multipletests(frame.loc[tested, "p"], method="fdr_bh")[1]
        frame.loc[tested, "p_adjusted"] = np.minimum(adjusted / BY_COLUMN, 1)
    broken = np.array([column.status in BROKEN for column in listed], dtype=bool)
    frame["drifted"] = (frame["p_adjusted"] <= alpha).to_numpy() | broken
    frame["reason"] = [
        "; ".join(filter(None, (column.reason, _in_words(column, measured[column.name], rows))))
        if drifted and column.name in measured
        else column.reason
        for column, drifted in zip(listed, frame["drifted"], strict=True)
    ]
    return frame[_ORDER]


def _in_words(column: Column, figures: dict[str, float], rows: int) -> str:
    """Return what changed after the first `rows` rows, those of the reference."""
    assert column.values is not None
    sides = [column.values[rows:], column.values[:rows]]
    if column.kind is Kind.CATEGORICAL:
        names = [*column.categories, "no value"]
        now, then = (np.bincount(side, minlength=len(names)) / len(side) for side in sides)
        moved = int(np.argmax(np.abs(now - then)))
        change = f"{names[moved]!r} in {now[moved]:.1%} of the rows instead of {then[moved]:.1%}"
        unseen = float(now[:-1][then[:-1] == 0].sum())
        return f"{change}; {unseen:.1%} in categories not seen before" if unseen else change
    missing = [float(np.isnan(side).mean()) for side in sides]
    if max(missing) == 1 or figures["p_missing"] < min(figures["p_ks"], figures["p_cvm"]):
        return f"no value in {missing[0]:.1%} of the rows instead of {missing[1]:.1%}"
    low, middle, high = (np.array([np.nanquantile(s, q) for s in sides]) for q in _QUARTILES)
    return (
        f"median {middle[0]:.4g} (middle half {low[0]:.4g} to {high[0]:.4g}) "
        f"instead of {middle[1]:.4g} ({low[1]:.4g} to {high[1]:.4g})"
    )
