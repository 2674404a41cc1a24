"""PostgreSQL is stopped and started again while many callers use the engine."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from grade_ml.core import database, embedded_postgres
from grade_ml.core.settings import Settings
from grade_ml.engine import GradePrediction, PredictiveAnalyticsEngine, StorageUnavailable
from grade_ml.ensemble.baseline import BaselineModel
from grade_ml_tests.engine.test_stored import At, as_computed, loaded, nightly_run
from grade_ml_tests.ensemble.campus import TODAY, make_champion, small, store
from grade_ml_tests.factories import SECRET
from grade_ml_tests.launch import wait_until

pytestmark = pytest.mark.slow


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Settings]:
    """An installation with a PostgreSQL of its own, which a test may stop."""
    home = Settings(_env_file=None, home=tmp_path / "home", secret=SECRET, as_of=TODAY)
    yield home
    embedded_postgres.release(home.postgres_dir)


class Callers:
    """Threads that request one student each, again and again, and keep their answers."""

    def __init__(self, engine: PredictiveAnalyticsEngine, course: str, students: list[str]) -> None:
        self.answers: list[GradePrediction] = []
        self.errors: list[BaseException] = []
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask, args=(engine, course, student))
            for student in students
        ]
        for thread in self._threads:
            thread.start()

    def _ask(self, engine: PredictiveAnalyticsEngine, course: str, student: str) -> None:
        while not self._stop.is_set():
            try:
                self.answers.append(engine.predict_final_grade(student, course))
            except Exception as error:  # each is looked at below
                self.errors.append(error)

    def some_more(self) -> None:
        """Wait for more answers or errors than threads, so that each has seen what is now."""
        before = len(self.answers) + len(self.errors)
        wait_until(
            lambda: len(self.answers) + len(self.errors) > before + 2 * len(self._threads),
            "more answers",
        )

    def end(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def test_an_outage_is_bridged_and_over_when_it_is_over(
    own: Settings, baseline_of_small: BaselineModel, tmp_path: Path
) -> None:
    book = small()
    courses = book.courses["course_id"].tolist()
    urls = database.start(own)
    named = own.model_copy(
        update={"database_url": urls.grade_ml, "mlflow_tracking_uri": urls.mlflow}
    )
    engine = database.migrated(urls.grade_ml)
    store(engine, book)
    loaded(engine, *courses)
    nightly_run(engine, own, make_champion(named, baseline_of_small, tmp_path / "m"), courses)
    engine.dispose()
    with PredictiveAnalyticsEngine(own, clock=At()) as analytics:
        known = {
            prediction.student_id: prediction
            for prediction in analytics.predict_final_grades(courses[0]).answers
        }
        students = list(known)[:8]
        callers = Callers(analytics, courses[0], students)
        callers.some_more()
        assert not callers.errors
        stop = ("pg_ctl", "stop", "-w", "-m", "immediate", "-D", str(own.postgres_dir))
        embedded_postgres._programs().run(*stop)
        callers.some_more()
        with pytest.raises(StorageUnavailable):  # no call requested that course before
            analytics.predict_final_grade(students[0], courses[1])
        embedded_postgres.hold(own.postgres_dir)
        callers.some_more()
        callers.end()
        assert analytics.predict_final_grade(students[0], courses[0]) == known[students[0]]
    assert not callers.errors, callers.errors[0]
    bridged = [answer for answer in callers.answers if answer.degraded]
    assert bridged and all(
        "PostgreSQL does not answer" in answer.degraded[-1] for answer in bridged
    )
    for bridged_answer in callers.answers:
        assert replace(as_computed(bridged_answer), degraded=()) == as_computed(
            known[bridged_answer.student_id]
        )
