"""What a source of external observations is: facts, and one function that queries its provider.

Separate from `protocol`, the vocabulary that a source shares with the client.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

from grade_ml.external.protocol import About, Observation, Place, Window

if TYPE_CHECKING:
    from grade_ml.external.client import Client


class Source(Protocol):
    """Eight of them exist; `docs/external-data.md` describes how to add another."""

    @property
    def about(self) -> About:
        """The facts."""

    def fetch(
        self, client: Client, window: Window, place: Place, now: datetime
    ) -> Iterable[Observation]:
        """Yield the observations about the days of `window`.

        What is yielded before an error is stored.

        Raises
        ------
        GradeMLError
            The provider failed, or something has to be set first.
        """
