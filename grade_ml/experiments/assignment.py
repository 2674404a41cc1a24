"""Which arm each student is in: assigned by chance that can be repeated, once and for all.

Chance is a keyed hash of the student and a salt, the experiment's id: two experiments divide the
students independently, and an arm cannot be derived from an id without the installation's secret.
Nothing here is random, so a lost table of assignments can be made again.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pandas as pd

from grade_ml.core.pseudonyms import Pseudonyms

Floats = npt.NDArray[np.float64]

#: The columns of a student's place in an experiment.
ASSIGNED = ("student_id", "arm", "stratum", "probability")
#: No id and no name holds it (see `gradebook.rules`), so that texts joined by it stay apart.
_AND = "\x1f"
#: The largest block of a stratum: shares are kept to 1/20 in it. Larger blocks leave small strata
#: to chance, which they are there to rule out.
_LARGEST_BLOCK = 20
#: Shares that differ by less are the same share.
_EQUAL = 1e-9


def uniform(pseudonyms: Pseudonyms, salt: str, texts: pd.Series) -> Floats:
    """Return a number in [0, 1) for each text, the same for the same salt and text.

    Over many texts the numbers are uniform, and those of two salts independent.
    """
    salted = salt + _AND + texts.astype(object).astype(str)
    # The 53 highest bits: what a double holds without rounding, which could round up to 1.
    return np.asarray((pseudonyms.of(salted).to_numpy() >> 11) * 2.0**-53, np.float64)


def new_assignments(
    students: pd.DataFrame,
    earlier: pd.DataFrame,
    shares: Mapping[str, float],
    experiment_id: str,
    pseudonyms: Pseudonyms,
) -> pd.DataFrame:
    """Return the arms of the students who have none yet.

    Without strata each student's arm is drawn alone. With strata it is drawn in permuted blocks:
    the students of a stratum, in the order of their hashes, take the places of a block that holds
    each arm as often as its share requires. Later students continue where the last block ended.

    Parameters
    ----------
    students
        student_id, once each, and stratum (a text; empty for all: there are no strata).
    earlier
        student_id and stratum of students who have an arm. They keep it when the shares change.
    shares
        Of the arms, by name, in the plan's order; they sum to 1.

    Returns
    -------
    pandas.DataFrame
        `ASSIGNED`, in order of student_id; probability is the arm's share on this day.
    """
    known = students["student_id"].astype(object).isin(set(earlier["student_id"].astype(object)))
    new = students[~known].sort_values("student_id", ignore_index=True)
    names, bounds = list(shares), np.cumsum(list(shares.values()))
    own = uniform(pseudonyms, experiment_id, new["student_id"])
    chance = (
        _in_blocks(new["stratum"], own, earlier["stratum"], shares, experiment_id, pseudonyms)
        if new["stratum"].ne("").any()
        else own
    )
    # The last bound is 1, but for rounding.
    place = np.searchsorted(bounds[:-1], chance, side="right")
    return pd.DataFrame(
        {
            "student_id": new["student_id"],
            "arm": np.array(names, dtype=object)[place],
            "stratum": new["stratum"],
            "probability": np.array(list(shares.values()))[place],
        }
    )


def _in_blocks(  # noqa: PLR0913, PLR0917
    strata: pd.Series,
    own: Floats,
    earlier: pd.Series,
    shares: Mapping[str, float],
    experiment_id: str,
    pseudonyms: Pseudonyms,
) -> Floats:
    """Return numbers in [0, 1), each uniform, that fill the unit interval evenly in each block."""
    size = block_size(shares)
    names = strata.astype(object).astype(str)
    rows = pd.DataFrame({"stratum": names, "own": own})
    order = rows.sort_values(["stratum", "own"]).groupby("stratum").cumcount()
    sizes = earlier.astype(object).astype(str).value_counts()
    place = order.reindex(rows.index) + names.map(sizes).fillna(0).astype(int)  # none is taken: 0
    slots = pd.DataFrame({"stratum": names, "block": place // size}).drop_duplicates()
    slots = slots.merge(pd.DataFrame({"slot": range(size)}), how="cross")
    text = slots["stratum"] + _AND + slots["block"].astype(str) + _AND + slots["slot"].astype(str)
    slots["rank"] = uniform(pseudonyms, experiment_id, text)
    key = ["stratum", "block"]
    slots["rank"] = slots.groupby(key)["rank"].rank(method="first").astype(int) - 1
    places = pd.DataFrame({"stratum": names, "block": place // size, "slot": place % size})
    rank = places.merge(slots, on=[*key, "slot"], how="left")["rank"].to_numpy()
    return np.asarray((rank + own) / size, np.float64)


def block_size(shares: Mapping[str, float]) -> int:
    """Return how many places a block has: the fewest that hold each share as a whole number.

    >>> block_size({"standard": 0.5, "none": 0.5}), block_size({"a": 0.75, "b": 0.25})
    (2, 4)
    """
    for size in range(1, _LARGEST_BLOCK):
        if all(abs(size * share - round(size * share)) < _EQUAL for share in shares.values()):
            return size
    return _LARGEST_BLOCK


def one_of_each_group(
    candidates: pd.DataFrame, assigned: pd.DataFrame, group: str, pseudonyms: Pseudonyms
) -> pd.DataFrame:
    """Return of experiments that exclude each other at most one per student.

    A student who takes part in an experiment stays there. Each other student goes to the experiment
    whose hash with the student is highest, so that each gets equally many, and an experiment that
    joins the group draws equally from all the others.

    Parameters
    ----------
    candidates
        student_id and experiment_id, of every student who could take part.
    assigned
        student_id and experiment_id of students who take part already.

    Returns
    -------
    pandas.DataFrame
        The rows of `candidates` that are chosen.
    """
    at = candidates.reset_index(drop=True).astype({"student_id": object, "experiment_id": object})
    home = pd.Series(
        assigned["experiment_id"].to_numpy(object),
        pd.Index(assigned["student_id"].to_numpy(object)),
    )
    home = home[~home.index.duplicated()]
    assigned_to = at["student_id"].map(home)
    weight = uniform(pseudonyms, group, at["experiment_id"] + _AND + at["student_id"])
    # The experiment of a participant beats every hash; the others cannot get that student.
    at["weight"] = np.where(
        assigned_to.isna(), weight, np.where(assigned_to == at["experiment_id"], 1.0, -1.0)
    )
    at = at[at["weight"] >= 0]
    best = at.groupby("student_id")["weight"].idxmax()
    return at.loc[best.sort_values(), ["student_id", "experiment_id"]].reset_index(drop=True)


def in_two_arms(assigned: pd.DataFrame, exposures: pd.DataFrame) -> frozenset[str]:
    """Return the students on whom an arm took effect to which they were not assigned.

    Parameters
    ----------
    assigned
        student_id and arm.
    exposures
        student_id and arm, one row per day.
    """
    arms = pd.concat(
        [frame[["student_id", "arm"]].astype(object) for frame in (assigned, exposures)]
    )
    several = arms.drop_duplicates().groupby("student_id").size()
    return frozenset(several.index[several > 1])
