"""Which terms a backtest may use, checked before any record is read."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from grade_ml.core.errors import ConfigurationError, NotFoundError


def require_apart(train_terms: Sequence[str], test_terms: Sequence[str]) -> None:
    """Raise `ConfigurationError` for a term that is both a training and a test term."""
    if both := sorted({*train_terms} & {*test_terms}):
        raise ConfigurationError(
            f"The term {both[0]} is in both --train-terms and --test-terms.",
            "A model must not be tested on what it was fitted on; remove it on one side.",
        )


def require_known(terms: Sequence[str], known: Collection[str]) -> None:
    """Raise `NotFoundError` for a term that is not `known`; the error lists those that are."""
    for term in terms:
        if term not in known:
            raise NotFoundError(
                f"There is no term {term} with sections in the gradebook.",
                f"Known terms: {', '.join(sorted(known)) or 'none; run grade-ml load first'}.",
            )
