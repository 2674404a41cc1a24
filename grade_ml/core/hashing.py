"""Numbers and texts that show whether something changed.

Two kinds: SHA-256 of what holds nothing of a student (files, settings, requests, versions), and
hashes of students' rows, keyed by the installation's secret. Without a key, a person with a list of
ids who guesses the few values of a row could identify each student in the data of a stored model.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from grade_ml.core.pseudonyms import Pseudonyms

if TYPE_CHECKING:
    import pandas as pd


def checksum(content: bytes) -> str:
    """Return the SHA-256 of `content` as 64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def digest(value: object, digits: int = 16) -> str:
    """Return hexadecimal digits that change when `value` does, but not with the order of its keys.

    Parameters
    ----------
    value
        What JSON can hold, nothing of a student.

    >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    True
    """
    return checksum(json.dumps(value, sort_keys=True).encode())[:digits]


def section_hashes(frame: pd.DataFrame, pseudonyms: Pseudonyms) -> dict[str, int]:
    """Return per section (column section_id) a number that changes when one of its rows does.

    The order of rows does not matter.
    """
    # Sums of 64-bit hashes, which wrap around.
    hashes = hash_rows(frame, pseudonyms)
    sums = hashes.groupby(frame["section_id"].astype(str).to_numpy()).sum()
    return {str(name): int(value) for name, value in sums.items()}


def hash_rows(frame: pd.DataFrame, pseudonyms: Pseudonyms) -> pd.Series:
    """Return a keyed hash (SipHash) of the known values of each row.

    A column without any value counts like one that is not there, and a number like its text, for
    the same rows come with more columns, and with texts, when read together with other courses.
    """
    import numpy as np
    import pandas as pd

    total, key = np.zeros(len(frame), dtype=np.uint64), pseudonyms.row_key
    for name, column in frame.items():
        codes, values = pd.factorize(column)
        # Added to 0, the negative zero, which equals zero, has its text, too.
        texts = [f"{v + 0:.9g}" if isinstance(v, float | int) else str(v) for v in values.tolist()]
        named = np.array([f"{name}={text}" for text in texts] or [""], dtype=object)
        hashed = pd.util.hash_array(named, hash_key=key)
        total += np.where(codes < 0, np.uint64(0), hashed[codes])
    return pd.Series(total, index=frame.index)
