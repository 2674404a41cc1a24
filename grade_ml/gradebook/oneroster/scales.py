"""Scores that are texts: their per cent according to scoreScales.csv or the institution."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import pandas as pd

#: The columns of `read`.
COLUMNS = ["scale", "text", "value", "top"]
#: A scale up to a number of this share of the line item's maximum is one of its points, as letters
#: for 27 to 30 of 30 are; so is one of per cent whose best grade is not 100 (A is 95).
POINTS_FROM, PER_CENT_FROM, PER_CENT_TO = 0.8, 80.0, 110.0

_NUMBER = r"(-?\d+(?:\.\d+)?)\s*%?"
_RANGE = re.compile(rf"{_NUMBER}(?:\s*(?:-|\u2013|\.\.|to)\s*{_NUMBER})?")


def entries(text: str) -> tuple[dict[str, float], float]:
    """Return the value of each text of a scale, case-folded, and the highest number of the scale.

    A scale is a list of pairs, each in braces or not; either side may be the text, the other one a
    number or a range, whose middle counts. Pairs of which neither or both could be the text are
    left out.

    >>> entries("{90-100:A},{80-89:B}")
    ({'a': 95.0, 'b': 84.5}, 100.0)
    >>> entries("A:4, B:3")
    ({'a': 4.0, 'b': 3.0}, 4.0)
    """
    pairs = re.findall(r"\{([^{}]*)\}", text) or text.split(",")
    values, top = {}, float("-inf")
    for pair in pairs:
        left, colon, right = (part.strip() for part in pair.partition(":"))
        sides = ((left, right), (right, left))
        ranges = [(word, _RANGE.fullmatch(number)) for word, number in sides]
        usable = [
            (word, match)
            for word, match in ranges
            # A range is no text; a number may be one, of a range.
            if match and colon and word and (not _RANGE.fullmatch(word) or match[2])
        ]
        if len(usable) == 1:
            word, match = usable[0]
            low = float(match[1])
            high = float(match[2]) if match[2] else low
            values[word.casefold()] = (low + high) / 2
            top = max(top, low, high)
    return values, top


def read(scales: pd.DataFrame) -> pd.DataFrame:
    """Return the entries of scales (sourced_id, entries) as a frame with `COLUMNS`."""
    rows = []
    for scale, text in zip(scales["sourced_id"], scales["entries"], strict=True):
        values, top = entries(text)
        rows += [(scale, word, value, top) for word, value in values.items()]
    return pd.DataFrame(rows, columns=COLUMNS).astype({"value": "float64", "top": "float64"})


def per_cent(
    words: pd.Series, scale: pd.Series, highest: pd.Series, scales: pd.DataFrame,
    texts: Mapping[str, float],
) -> pd.Series:  # fmt: skip
    """Return scores in per cent of texts, NaN if their meaning is unknown.

    Parameters
    ----------
    words
        The texts.
    scale
        The id of each text's scale, missing if there is none.
    highest
        The maximum of each text's assignment.
    scales
        What `read` returns.
    texts
        Per cent of the institution's texts, case-folded; they count where no scale does.
    """
    rows = pd.DataFrame(
        {
            "scale": scale.astype(object).to_numpy(),
            "text": words.str.casefold().astype(object).to_numpy(),
            "highest": highest.to_numpy(np.float64),
        }
    )
    known = rows.merge(
        scales.astype({"scale": object, "text": object}), on=["scale", "text"], how="left"
    )
    top, most = known["top"], known["highest"]
    in_points = (top != 100) & (top <= most) & (top >= POINTS_FROM * most)
    of_scale = np.select(
        [in_points, top.between(PER_CENT_FROM, PER_CENT_TO)],
        [100 * known["value"] / most, known["value"]],
        np.nan,
    )
    own = known["text"].map(dict(texts)).astype("float64")
    return pd.Series(of_scale, index=words.index).fillna(pd.Series(own.to_numpy(), words.index))
