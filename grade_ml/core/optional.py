"""The one place that knows which optional libraries can be imported, and what their lack means."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

from grade_ml.core.errors import GradeMLError


class MissingLibraryError(GradeMLError):
    """A library that an optional feature takes is not installed."""


@dataclass(frozen=True)
class Family:
    """Optional libraries that are installed together by an extra of the package.

    `without` says in words what runs in their place.
    """

    extra: str
    modules: tuple[str, ...]
    without: str

    def missing(self) -> tuple[str, ...]:
        """Return the modules that are not installed; nothing is imported."""
        return tuple(module for module in self.modules if not installed(module))


def installed(module: str) -> bool:
    """Return whether `module` can be imported; nothing is imported."""
    return find_spec(module) is not None


FAMILIES = (
    Family("boosting", ("xgboost", "lightgbm", "catboost"), "ensembles lack these members"),
    Family("deep", ("tensorflow",), "forecasts use ARIMA"),
    Family("tuning", ("optuna",), "models keep their default parameters"),
    Family(
        "explain",
        ("shap", "lime", "dice_ml", "fairlearn"),
        "explanations are fewer, and importance is measured by permutation",
    ),
    Family("prophet", ("prophet",), "forecasts lack this method"),
    Family("forecast", ("statsforecast",), "forecasts lack Theta and exponential smoothing"),
    Family("bandits", ("mabwiser",), "the shares of a bandit's arms stay as they are"),
)


def family(extra: str) -> Family:
    """Return the libraries of an extra."""
    return next(one for one in FAMILIES if one.extra == extra)


def needed(extra: str) -> None:
    """Raise `MissingLibraryError` unless all of an extra's libraries are installed."""
    wanted = family(extra)
    if missing := wanted.missing():
        raise MissingLibraryError(
            f"{', '.join(missing)} is not installed; without, {wanted.without}.",
            f"Install the extra grade-ml[{extra}].",
        )


def degraded() -> list[str]:
    """Return a sentence for each family of which something is not installed."""
    return [
        f"{', '.join(missing)} (extra {family.extra}): without, {family.without}."
        for family in FAMILIES
        if (missing := family.missing())
    ]
