"""Detects when data and errors no longer match those of a model's training, and decides what to do.

`detect_drift` compares any two frames; applications can call it without the rest of this package.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from grade_ml.two_sample.drift import DriftReport, detect_drift

__all__ = ["DriftReport", "detect_drift"]


def __getattr__(name: str) -> Any:
    # Loaded on demand: the definitions import this package in every process of Dagster.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from grade_ml.two_sample import drift

    return getattr(drift, name)
