"""What each figure is called where people read it: its name, unit, digits and meaning.

Code keeps figures under short names, full precision and shares between 0 and 1. Metadata in the
UI, tables, pages and model cards take name, unit and digits from here, so that a figure reads the
same everywhere.

>>> title("rmse"), shown("rmse", 12.345678), text("coverage80", 0.7986)
('RMSE (points)', 12.35, '79.9')
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

#: From here on, a figure that is not described below is shown as a whole number.
_MANY = 1000
#: A name in code; a name with other characters is a title already, or an id.
_IDENTIFIER = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True)
class Quantity:
    """A kind of figure.

    Attributes
    ----------
    name
        As readers see it.
    unit
        In which it is shown; empty if it has none.
    decimals
        Digits shown after the point; `None` means four digits in all.
    factor
        By which the stored figure is multiplied to become the shown figure.
    meaning
        One sentence, for a name that is a term.
    """

    name: str
    unit: str = ""
    decimals: int | None = None
    factor: float = 1
    meaning: str = ""

    @property
    def title(self) -> str:
        """Name and unit."""
        return f"{self.name} ({self.unit})" if self.unit else self.name


def _points(name: str, meaning: str = "", decimals: int = 2) -> Quantity:
    return Quantity(name, "points", decimals, meaning=meaning)


def _share(name: str, meaning: str = "") -> Quantity:
    return Quantity(name, "%", 1, 100, meaning)


def _probability(name: str, meaning: str = "") -> Quantity:
    return Quantity(name, "", 3, meaning=meaning)


def _megabytes(name: str, bytes_each: float = 1e-6) -> Quantity:
    return Quantity(name, "MB", 1, bytes_each)


_RATIO = "geometric mean over sections; below 1, the ensemble is better"
_QUANTITIES = {
    # Errors of predictions. A point is one of the 100 of a grade or score.
    "n": Quantity("predictions compared"),
    "rmse": _points(
        "RMSE",
        "root mean squared error: the typical distance between the predicted and the true grade or "
        "score; large errors count more",
    ),
    "mae": _points(
        "MAE", "mean absolute error: the mean distance between the predicted and the true grade"
    ),
    "width80": _points("width of the 80% interval"),
    "width95": _points("width of the 95% interval"),
    "coverage80": _share(
        "coverage of the 80% interval", "how often the interval holds the truth; it promises 80%"
    ),
    "coverage95": _share(
        "coverage of the 95% interval", "how often the interval holds the truth; it promises 95%"
    ),
    "auc": _probability(
        "AUC",
        "area under the ROC curve: how often, of two students of whom one failed or withdrew, that "
        "one has the higher risk; 0.5 is chance, 1 is perfect",
    ),
    "ap": _probability(
        "average precision",
        "the share of students who fail or withdraw among those with the highest risks, averaged "
        "over all thresholds; 1 is perfect",
    ),
    "brier": _probability(
        "Brier score",
        "mean squared difference between a risk (0-1) and what happened (0 or 1); 0 is perfect, "
        "0.25 is a coin",
    ),
    "ece": _probability(
        "ECE",
        "expected calibration error: the mean distance between a risk and the share of students "
        "with such a risk of whom it came true; 0 is perfect",
    ),
    "r2": _probability("R²", "share of the predictions' variance that is explained; 1 is all"),
    "surrogate_r2": _probability(
        "R² of the surrogate tree",
        "share of the model's variance that the small tree reproduces; 1 is all",
    ),
    "jaccard5": _share(
        "agreement on the five main features",
        "features that both explanations name among their first five, of all that either names "
        "(Jaccard index)",
    ),
    "signs": _share(
        "agreement on the direction",
        "features on which both explanations say alike whether they raise or lower the grade",
    ),
    "sections_compared": Quantity("unseen sections that both predicted", "", 0),
    "rmse_ratio": Quantity("RMSE by the baseline's", "", 3, meaning=_RATIO),
    "brier_ratio": Quantity("Brier score by the baseline's", "", 3, meaning=_RATIO),
    "rmse_ratio_high": Quantity("RMSE by the baseline's, plus a standard error", "", 3),
    "brier_ratio_high": Quantity("Brier score by the baseline's, plus a standard error", "", 3),
    "estimate_ratio": Quantity(
        "estimated by realised error",
        decimals=2,
        meaning="1: the estimate of the error was right; below 1: it was too low",
    ),
    "certain": _points(
        "error that is certain already",
        "how far predictions of four weeks ago lie outside of what is still possible",
    ),
    "mean_z": Quantity(
        "mean deviation of scores",
        "standard deviations",
        2,
        meaning="how far new scores lie from what the predictions before them implied",
    ),
    "largest_error": _points("largest error of a sum", decimals=6),
    "largest_risk_error": Quantity("largest error of a sum, risk (log odds)", "", 6),
    "largest_gap": Quantity("largest error of a sum", "", 6),
    "most": Quantity("most that is allowed"),
    "pass_mark": _points("pass mark"),
    # Predictions and forecasts.
    "mean_grade": _points("mean predicted grade", decimals=1),
    "mean_risk": _share("mean predicted risk"),
    "mean_mean": _points("mean forecast score", decimals=1),
    "mean_submit_probability": _share("mean chance to hand in"),
    "weight_mean": _share("weight for scores"),
    "weight_submit": _share("weight for handing in"),
    "base_rate": _share(
        "weeks in trouble", "weeks in which the grade lay below the pass mark or work was missed"
    ),
    "flagged": _share("weeks flagged"),
    "precision": _share("precision", "periods of risk in which trouble came"),
    "recall": _share("recall", "weeks in trouble that lay in a period of risk"),
    "lead_weeks": Quantity(
        "lead time", "weeks", 1, meaning="median time from the flag to the first week in trouble"
    ),
    # Experiments.
    "share_of_newcomers": _share("share of newcomers"),
    "fraction": _share("of the labels planned"),
    "expected_share": _share("share expected"),
    "mean_reward": _probability("mean reward"),
    "z": Quantity("z", "", 2, meaning="difference by its standard error"),
    "p": Quantity("p", meaning="chance of a difference as large if there were none"),
    "p_mean": Quantity("p of the means"),
    "p_rank": Quantity("p of the ranks"),
    # Health.
    "score": Quantity("score", "of 100", 1),
    "points": Quantity("points", "of 100", 1),
    # Costs and sizes.
    "training_seconds": Quantity("training time", "s", 1),
    "seconds": Quantity("time", "s", 1),
    "peak_megabytes": _megabytes("peak memory", 1),
    "bytes": _megabytes("size"),
    "outdated_bytes": _megabytes("outdated"),
    "freed_bytes": _megabytes("freed on the disk"),
    "reusable_bytes": _megabytes("reusable in the database"),
    "last_good_age_hours": Quantity("age of the last good values", "days", 1, 1 / 24),
    "age_hours": Quantity("age", "days", 1, 1 / 24),
    "share": _share("share"),
    "manifest_sha256": Quantity("SHA-256 of the manifest"),
}
#: Parts of names that state the forecaster, model or column of a figure.
_FAMILIES = (
    (re.compile("naive_(.+)"), "{} of the naive forecast"),
    (re.compile("baseline_(rmse|brier)"), "{} of the baseline"),
    (re.compile("(rmse|brier)_low"), "{}, lower bound"),
    (re.compile("(rmse|brier)_high"), "{}, upper bound"),
)
_PREFIXES: dict[str, Callable[[str], Quantity]] = {
    "missing_": lambda rest: _share(f"{rest} missing"),
    "points_": lambda rest: Quantity(rest, "points of 100", 1),
    "error_": lambda rest: _points(f"mean error by {rest}"),
    "baseline_": lambda rest: _points(f"mean error by {rest} on record"),
}


def quantity(name: str) -> Quantity:
    """Return what code calls `name`; of a name that is not described, its words."""
    if name in _QUANTITIES:
        return _QUANTITIES[name]
    for pattern, words in _FAMILIES:
        if (match := pattern.fullmatch(name)) and match[1] in _QUANTITIES:
            of = _QUANTITIES[match[1]]
            return replace(of, name=words.format(of.name))
    if not _IDENTIFIER.fullmatch(name):
        return Quantity(name)
    for prefix, make in _PREFIXES.items():
        if name.startswith(prefix):
            return make(name.removeprefix(prefix).replace("_", " "))
    return Quantity(name.replace("_", " "))


def title(name: str) -> str:
    """Return name and unit of a figure.

    >>> [title(name) for name in ("naive_rmse", "missing_due_on", "model_version", "a b_c")]
    ['RMSE of the naive forecast (points)', 'due on missing (%)', 'model version', 'a b_c']
    """
    return quantity(name).title


def shown(name: str, value: Any) -> Any:
    """Return a number in its unit with its significant digits, `None` if it is unknown.

    What is no number is returned as it is.

    >>> shown("ece", float("nan")), shown("peak_megabytes", 1167.75390625), shown("other", 0.123456)
    (None, 1167.8, 0.1235)
    """
    of = quantity(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    if not math.isfinite(value):
        return None
    if isinstance(value, int) and of.factor == 1:
        return value
    scaled = value * of.factor
    if of.decimals is not None:
        return round(scaled, of.decimals)
    return float(f"{scaled:.4g}") if abs(scaled) < _MANY else float(round(scaled))


def text(name: str, value: Any) -> str:
    """Return the text of a cell of a table, empty if the value is unknown.

    >>> text("rmse", 3.0), text("rows", 60000), text("champion", True), text("rmse", None)
    ('3.00', '60,000', 'yes', '')
    """
    number = shown(name, value)
    if number is None:
        return ""
    if isinstance(number, bool):
        return "yes" if number else "no"
    if isinstance(number, float):
        decimals = quantity(name).decimals
        return f"{number:,.{decimals}f}" if decimals is not None else f"{number:,.10g}"
    return f"{number:,}" if isinstance(number, int) else str(number)


def meanings(names: Iterable[str]) -> dict[str, str]:
    """Return of those of `names` that are terms what they mean, by the words for them."""
    known = (quantity(name) for name in names)
    return {term.name: term.meaning for term in known if term.meaning}


def turned(columns: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a wide table with one row for each figure in the order above, its meaning last.

    Parameters
    ----------
    columns
        The figures by name, of each group.
    """
    order = {name: place for place, name in enumerate(_QUANTITIES)}
    present = dict.fromkeys(name for figures in columns.values() for name in figures)
    names = sorted(present, key=lambda name: order.get(name.removeprefix("naive_"), len(order)))
    return [
        {
            "figure": title(name),
            **{group: shown(name, figures.get(name)) for group, figures in columns.items()},
            "meaning": quantity(name).meaning,
        }
        for name in names
    ]
