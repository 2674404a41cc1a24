"""The only module that knows which optional libraries are installed, and what their lack means."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec

from grade_ml.core.errors import GradeMLError
from grade_ml.core.process import total_megabytes


class MissingLibraryError(GradeMLError):
    """A library that an optional feature takes is not installed."""


@dataclass(frozen=True)
class Family:
    """Optional libraries that an extra of the package installs together.

    `libraries` states by module what is lost without it.
    """

    extra: str
    libraries: Mapping[str, str]

    @property
    def modules(self) -> tuple[str, ...]:
        """Return the names by which the libraries are imported."""
        return tuple(self.libraries)

    def missing(self) -> tuple[str, ...]:
        """Return the modules that are not installed; nothing is imported."""
        return tuple(module for module in self.libraries if not installed(module))


def installed(module: str) -> bool:
    """Return whether `module` can be imported; nothing is imported."""
    return find_spec(module) is not None


#: The memory, in MB, from which on a library is used. TensorFlow has a process of its own: with it,
#: a run of the demo's first day had 2.9 GB, and 1.8 GB without; the services have 1.1 GB and
#: PostgreSQL .3, and a step leaves .5 free. In 4 GB the step is stopped: no forecast at all.
_NEEDS_MB = {"tensorflow": 6000}

FAMILIES = (
    Family(
        "boosting",
        {
            "xgboost": "ensembles lack this member",
            "lightgbm": "ensembles lack this member, and forecasts this method",
            "catboost": "ensembles lack this member",
        },
    ),
    Family("deep", {"tensorflow": "forecasts lack the recurrent network"}),
    Family("tuning", {"optuna": "models keep their default parameters"}),
    Family(
        "explain",
        {
            "shap": "pairs of features are explained neither for LightGBM nor for forests",
            "lime": "explanations have no second opinion",
            "dice_ml": "fewer kinds of change are tried for a what-if",
            "fairlearn": "groups are not compared",
        },
    ),
    Family("prophet", {"prophet": "forecasts lack this method"}),
    Family(
        "forecast", {"statsforecast": "ARIMA replaces Theta and exponential smoothing in forecasts"}
    ),
    Family("bandits", {"mabwiser": "the shares of a bandit's arms stay as they are"}),
)


def left_out(module: str, total_mb: float | None = None) -> str:
    """Return in words that `module` takes more memory than there is; "": it may be used.

    Parameters
    ----------
    total_mb
        The memory of the machine; unset: of this one, or of this container.
    """
    total = total_megabytes() if total_mb is None else total_mb
    needs = _NEEDS_MB.get(module, 0)
    if total >= needs:
        return ""
    return (
        f"{module} is left out: it takes {needs / 1000:g} GB of memory, not {total / 1000:.1f} GB"
    )


#: How a reason that an output is degraded names a library that is not installed.
_ABSENCE = re.compile(r"\b(\w+) is not installed \(extra \w+\)")


def absence(module: str) -> str:
    """Return as a part of a reason that a library is not installed.

    >>> absence("lime")
    'lime is not installed (extra explain)'
    """
    extra = next(libraries.extra for libraries in FAMILIES if module in libraries.modules)
    return f"{module} is not installed (extra {extra})"


def absent_in(reason: str) -> str | None:
    """Return the library of whose absence a reason speaks; None if of none.

    >>> absent_in("lime is not installed (extra explain): no second opinions")
    'lime'
    """
    found = _ABSENCE.search(reason)
    return found and found[1]


def family(extra: str) -> Family:
    """Return the libraries of an extra."""
    return next(libraries for libraries in FAMILIES if libraries.extra == extra)


def remedy(*extras: str) -> str:
    """Return how a person installs the libraries of extras, with a checkout and without."""
    return (
        "Install it: make up ALL=1 in a checkout, "
        f"pip install 'grade-ml[{','.join(extras)}]' elsewhere."
    )


def needed(extra: str) -> None:
    """Raise `MissingLibraryError` unless all of an extra's libraries are installed."""
    requested = family(extra)
    for module in requested.missing():
        raise MissingLibraryError(
            f"{absence(module)}; without it, {requested.libraries[module]}.", remedy(extra)
        )


def of_import(error: ImportError) -> MissingLibraryError | None:
    """Return the error for a failed import, `None` if the module is one of our own."""
    name = (error.name or "").partition(".")[0]
    if not isinstance(error, ModuleNotFoundError) or name in ("", "grade_ml"):
        return None
    extras = [libraries.extra for libraries in FAMILIES if name in libraries.modules]
    return MissingLibraryError(
        f"The library {name} is not installed, and this needs it.",
        remedy(*extras)
        if extras
        else "It belongs to grade-ml itself: install that again (pip install --force-reinstall).",
    )


def degraded() -> list[str]:
    """Return a sentence for each library that is not installed, or left out on this machine."""
    return [
        *(
            f"{module} (extra {family.extra}): without it, {family.libraries[module]}."
            for family in FAMILIES
            for module in family.missing()
        ),
        *all_left_out(),
    ]


def all_left_out(total_mb: float | None = None) -> list[str]:
    """Return a sentence for each installed library that takes more memory than there is."""
    return [
        f"{reason}. Without it, {loss}."
        for family in FAMILIES
        for module, loss in family.libraries.items()
        if installed(module) and (reason := left_out(module, total_mb))
    ]
