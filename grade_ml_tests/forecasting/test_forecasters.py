"""One list of promises that every forecaster satisfies."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from grade_ml.core.optional import installed
from grade_ml.forecasting.contract import NAIVE, RIVALS, Counts, Forecaster, Method, Panel
from grade_ml.forecasting.forecasters import FORECASTERS
from grade_ml.forecasting.forecasters.arima import arima
from grade_ml_tests.forecasting.campus import ended, panel, running

NAN = float("nan")
#: Networks need a process and half a minute; Prophet forecasts few panels only.
SLOW = {*RIVALS}


def _marked(method: Method) -> object:
    library = FORECASTERS[method].library
    marks = [pytest.mark.slow] if method in SLOW else []
    if library and not installed(library):
        marks.append(pytest.mark.skip(reason=f"{library} is not installed"))
    return pytest.param(method, marks=marks, id=str(method))


every = pytest.mark.parametrize("method", [_marked(method) for method in FORECASTERS])


@cache
def fitted(method: Method) -> Forecaster:
    return FORECASTERS[method].fit(ended(), seed=3)


def requested_panels() -> list[Panel]:
    return [replace(running()[0]), *ended()[:2]]


@every
def test_it_answers_everybody_within_bounds(method: Method):
    for class_panel, answer in zip(
        requested_panels(), fitted(method).forecast(requested_panels(), Counts()), strict=True
    ):
        for values, top in ((answer.mean, 100), (answer.submit, 1)):
            assert values.shape == class_panel.shape
            assert np.isfinite(values).all()
            assert values.min() >= 0 and values.max() <= top


@every
def test_a_panel_is_answered_alike_alone_and_among_others(method: Method):
    together = fitted(method).forecast(requested_panels(), Counts())[0]
    (alone,) = fitted(method).forecast(requested_panels()[:1], Counts())
    assert np.allclose(together.mean, alone.mean, atol=1e-3)


@every
def test_a_student_is_answered_alike_alone_and_in_the_class(method: Method):
    """Also who has no result yet, and takes the level of the class."""
    whole = _without_results(requested_panels()[0], 2)
    (together,) = fitted(method).forecast([whole], Counts())
    for places in ([2], [0, 5]):
        (few,) = fitted(method).forecast([whole.of(np.array(places))], Counts())
        for alone, whole_class in ((few.mean, together.mean), (few.submit, together.submit)):
            # TensorFlow adds up in another order.
            least = 1e-4 if method in RIVALS else 0.0
            np.testing.assert_allclose(alone, whole_class[places], rtol=0, atol=least)


def _without_results(class_panel: Panel, place: int) -> Panel:
    score, submitted = class_panel.score.copy(), class_panel.submitted.copy()
    score[place] = submitted[place] = NAN
    return replace(class_panel, score=score, submitted=submitted)


@every
def test_no_panels_give_no_answers(method: Method):
    assert fitted(method).forecast([], Counts()) == []


@every
def test_truth_and_unseen_courses_do_not_matter(method: Method):
    (class_panel,) = requested_panels()[1:2]
    blind = replace(
        class_panel, truth=class_panel.truth * NAN, truth_submitted=class_panel.truth * NAN
    )
    new = replace(class_panel, course_id="new", section_id="new-1")
    seen, unseen, other = fitted(method).forecast([class_panel, blind, new], Counts())
    assert np.allclose(seen.mean, unseen.mean, atol=1e-3)
    assert np.isfinite(other.mean).all()


@every
def test_saving_keeps_every_answer_and_the_same_fit_the_same_bytes(method: Method, tmp_path: Path):
    folders = [tmp_path / "one", tmp_path / "two"]
    models = [fitted(method), FORECASTERS[method].fit(ended(), seed=3)]
    for folder, model in zip(folders, models, strict=True):
        folder.mkdir()
        model.save(folder)
    files = [{path.name: path.read_bytes() for path in saved.iterdir()} for saved in folders]
    assert files[0] == files[1]
    kept = FORECASTERS[method].load(folders[0]).forecast(requested_panels(), Counts())
    for left, right in zip(
        fitted(method).forecast(requested_panels(), Counts()), kept, strict=True
    ):
        assert np.array_equal(left.mean, right.mean)
        assert np.array_equal(left.submit, right.submit)


#: What a gradebook may hold of a student, and what remains.
ODD = {
    "no history": panel([[NAN, NAN]], [10, 20], day=5),
    "one result": panel([[70, NAN, NAN]], [10, 20, 30], day=15),
    "all zero": panel([[0, 0, 0, 0, 0, NAN]], [1, 2, 3, 4, 5, 90], day=50),
    "all ungraded": panel([[NAN, NAN, NAN, NAN, NAN]], [1, 2, 3, 4, 90], day=50),
    "200 assignments": panel(
        [[50.0 + (k * 7) % 40 for k in range(150)] + [NAN] * 50], list(range(200)), day=149.5
    ),
    "one student, one left": panel([[60, 70, 80, 65, 90, NAN]], [1, 2, 3, 4, 5, 90], day=50),
}


@every
@pytest.mark.parametrize("oddity", ODD)
def test_odd_records_get_an_answer_from_the_next_in_line(method: Method, oddity: str):
    (answer,) = fitted(method).forecast([_with_features(ODD[oddity])], Counts())
    assert answer.mean.shape == ODD[oddity].shape
    assert np.isfinite(np.stack([answer.mean, answer.submit])).all()


def _with_features(class_panel: Panel) -> Panel:
    """Return the panel with features that are all unknown, as those that were learned from."""
    names = ended()[0].feature_names
    unknown = np.full((len(class_panel.students), len(names)), NAN, np.float32)
    return replace(class_panel, features=unknown, feature_names=names)


def test_fallbacks_are_counted_with_their_reason():
    counts = Counts()
    fitted(Method.LOCAL).forecast([ODD["one result"]], counts)
    fitted(Method.LAST).forecast([ODD["no history"]], counts)
    assert counts.of == {
        "local: fewer than 4 results, slot mean": 1,
        "last: no result yet, level of the class": 1,
    }


def test_naive_forecasts_are_what_a_person_would_guess():
    class_panel = panel([[50, 0, 70, NAN, NAN]], [10, 20, 30, 40, 50], day=35)
    last, mean = (fitted(method).forecast([class_panel], Counts())[0] for method in NAIVE)
    assert last.mean.tolist() == [[70, 70]]
    assert mean.mean.tolist() == [[40, 40]]
    assert np.allclose(mean.submit, 2 / 3)


def test_the_slot_mean_lies_between_the_slot_and_the_student():
    past = panel([[80, 60]] * 400, [10, 20], day=0, section="before", truth=[[80, 60]] * 400)
    model = FORECASTERS[Method.SLOT].fit([past], seed=0)
    good, poor = panel([[95, NAN], [65, NAN]], [10, 20], day=15), None
    (answer,) = model.forecast([good], Counts())
    assert poor is None
    assert 60 < answer.mean[0, 0] < 75
    assert answer.mean[1, 0] < answer.mean[0, 0]


def test_a_section_learns_nothing_from_itself():
    own = panel([[80, NAN]], [10, 20], day=15, truth=[[80, 99]] * 1)
    with_itself = FORECASTERS[Method.SLOT].fit([own], seed=0).forecast([own], Counts())[0]
    other = replace(own, section_id="other")
    without = FORECASTERS[Method.SLOT].fit([other], seed=0).forecast([own], Counts())[0]
    assert with_itself.mean[0, 0] != without.mean[0, 0]


def test_arima_follows_a_level_and_a_slope():
    level = np.tile([40.0, 60.0], 10)[None]
    assert abs(arima(level, 1)[0, 0] - 40) < 10
    steady = np.full((1, 15), 55.0)
    assert np.allclose(arima(steady, 5), 55)
    walk = np.clip(np.cumsum(np.full(15, 4.0)), 0, 100)[None]
    assert arima(walk, 2)[0, 1] > walk[0, -1]
