"""Explanations of a small campus from real stores: what is new, what is kept, what is said."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pandas as pd
import pytest

from grade_ml.explanations import pictures, store
from grade_ml.explanations.contract import TOLERANCE
from grade_ml.explanations.explainer import Explainer
from grade_ml.features.store import Frames
from grade_ml_tests.factories import PSEUDONYMS
from grade_ml_tests.monitoring.world import TODAY, fill, register, world

pytestmark = pytest.mark.slow


def test_what_changed_is_explained_anew_and_nothing_else(settings, engine):
    campus = world()
    registry = fill(settings, engine, campus)
    root, courses = settings.storage_root, campus.courses

    def look(registry=registry) -> dict[str, tuple[int, int]]:
        with engine.begin() as connection:
            explainer = Explainer(connection, registry, root, TODAY)
            found = explainer.attributions(courses)
            assert all(one.adds_up for one in found.values())
            assert max(one.grade_error for one in found.values()) <= TOLERANCE
            return {name: (one.rows, one.fresh) for name, one in found.items()}

    first = look()
    assert all(rows == fresh for rows, fresh in first.values())
    assert sum(rows for rows, _ in first.values()) > 50
    assert look() == {name: (rows, 0) for name, (rows, _) in first.items()}

    # One student of one course has other features.
    name = max(first, key=lambda one: first[one])
    frames = Frames(root, TODAY, PSEUDONYMS)
    snapshots = frames.snapshots([name])
    current = snapshots["cut_on"] == pd.Timestamp(TODAY)
    place = snapshots.index[current][0]
    snapshots.loc[place, "score_mean"] = np.float32(3.25)
    frames.write(name, snapshots)
    assert {key: fresh for key, (_, fresh) in look().items() if fresh} == {name: 1}

    with engine.begin() as connection:
        explainer = Explainer(connection, registry, root, TODAY)
        weighed = explainer.importance(courses)
        groups, reason = explainer.fairness()
        paths = explainer.paths(courses)
        again = explainer.paths(courses)
        rows = store.read_importance(connection, TODAY, None, TODAY - timedelta(days=7))
        told = store.read_explanations(connection, [name], TODAY)
        effects = explainer.effects(courses, ["missed_share", "grade_rate_so_far"])
    assert again == paths

    everybody = rows[rows["grouping"] == ""]
    shares = everybody.groupby(["course_id", "task"])["share"].sum()
    assert shares.to_numpy() == pytest.approx(np.ones(len(shares)))
    assert set(shares.index.get_level_values("course_id")) == {store.EVERYWHERE, *courses}
    assert {"gender", "age_band"} & set(rows["grouping"])
    judged = everybody[everybody["band_low"].notna()]
    assert set(judged["course_id"]) == {key for key, one in weighed.items() if not one.reason}
    assert len(judged)

    assert not reason and {"mae", "selection_rate"} <= set(groups["metric"])
    for course, own in paths.items():
        trees = {path.tree.split()[0] for *_, path in own}
        assert "surrogate" in trees and len(own) >= first[course][0]
    assert {one.feature for one in effects} <= {"missed_share", "grade_rate_so_far"}

    for figure in (
        pictures.waterfall(told[0]),
        pictures.beeswarm(*store.matrix_of(told, "grade"), "points"),
        pictures.importance_bars(
            everybody[everybody["course_id"] == name].query("task == 'grade'")
        ),
        pictures.importance_over_time(everybody[everybody["course_id"] == name]),
        pictures.decision_path(paths[name][0][-1]),
        pictures.effects(effects),
        pictures.gaps(groups),
    ):
        figure.canvas.draw()

    # A new version of the model: every row is explained anew.
    register(engine, registry, campus.model)
    assert all(rows == fresh for rows, fresh in look().values())
