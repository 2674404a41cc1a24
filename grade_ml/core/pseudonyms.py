"""Numbers that replace students' ids; computing them needs the installation's secret.

Rows of students in stored models are paired and grouped by these numbers. A plain hash would hide
nothing: a person with a list of ids hashes all of them in a second and identifies each student.
"""

from __future__ import annotations

import base64
import hashlib
import os
import secrets
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from grade_ml.core.errors import ConfigurationError

if TYPE_CHECKING:
    import pandas as pd

    from grade_ml.core.settings import Settings

_BYTES = 32


@dataclass(frozen=True)
class Pseudonyms:
    """Keyed hashes (BLAKE2b, RFC 7693) of texts.

    Parameters
    ----------
    secret
        1-64 bytes. The same secret gives the same numbers.
    """

    secret: bytes = field(repr=False)

    @classmethod
    def of_installation(cls, settings: Settings) -> Pseudonyms:
        """Return those of `GRADE_ML_SECRET`, or else of the file `secret` in the home.

        The file is created if it does not exist.

        Raises
        ------
        ConfigurationError
            The file is empty, or cannot be read or made.
        """
        if settings.secret is not None:
            chosen = settings.secret.get_secret_value().encode()
            return cls(hashlib.blake2b(chosen, digest_size=_BYTES).digest())
        return cls(_kept(settings.home / "secret"))

    @property
    def fingerprint(self) -> str:
        """A text that distinguishes two secrets and reveals neither."""
        return self._hash("fingerprint", _BYTES // 2).hex()

    @property
    def row_key(self) -> str:
        """A key for hashes of whole rows: 16 characters, as `pandas.util.hash_array` wants it."""
        return base64.b64encode(self._hash("rows", 12)).decode()

    def of(self, texts: pd.Series) -> pd.Series:
        """Return a number (uint64) for each text, the same for equal texts."""
        import numpy as np
        import pandas as pd

        codes, known = pd.factorize(texts.astype(object).astype(str))
        numbers = [int.from_bytes(self._hash(text, 8)) for text in known]
        return pd.Series(np.array(numbers, np.uint64)[codes], texts.index)

    def _hash(self, text: str, size: int) -> bytes:
        return hashlib.blake2b(text.encode(), digest_size=size, key=self.secret).digest()


def _kept(path: Path) -> bytes:
    """Return the secret in the file `path`, which is made if it is missing, by one process only."""
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".secret-") as draft:
                draft.write(secrets.token_bytes(_BYTES))
                draft.flush()
                with suppress(FileExistsError):  # another process was first
                    os.link(draft.name, path)
        secret = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"The installation's secret {path} cannot be read or made: {error.strerror}.",
            "Correct its permissions, or set GRADE_ML_SECRET.",
        ) from error
    if len(secret) != _BYTES:
        raise ConfigurationError(
            f"The installation's secret {path} has {len(secret)} bytes and not {_BYTES}.",
            "Restore the file from a backup. If there is no backup, remove the file: a new secret "
            "is created, and the next training replaces the models.",
        )
    return secret
