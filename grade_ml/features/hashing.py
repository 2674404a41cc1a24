"""Numbers that tell whether rows changed."""

from __future__ import annotations

import numpy as np
import pandas as pd


def section_hashes(frame: pd.DataFrame) -> dict[str, int]:
    """Return per section (column section_id) a number that changes when one of its rows does.

    The order of rows does not matter.
    """
    # Sums of 64-bit hashes, which wrap around.
    sums = hash_rows(frame).groupby(frame["section_id"].astype(str).to_numpy()).sum()
    return {str(name): int(value) for name, value in sums.items()}


def hash_rows(frame: pd.DataFrame) -> pd.Series:
    """Return a hash of the known values of each row.

    A column without any value counts like one that is not there, and a number like its text, for
    the same rows come with more columns, and with texts, when read together with other courses.
    """
    total = np.zeros(len(frame), dtype=np.uint64)
    for name, column in frame.items():
        codes, values = pd.factorize(column)
        texts = [f"{v:.9g}" if isinstance(v, float | int) else str(v) for v in values.tolist()]
        salted = np.array([f"{name}={text}" for text in texts] or [""], dtype=object)
        hashed = pd.util.hash_array(salted)
        total += np.where(codes < 0, np.uint64(0), hashed[codes])
    return pd.Series(total, index=frame.index)
