"""Tasks where no webserver helps: refused in time, by an error that names the remedy."""

from __future__ import annotations

import inspect
import json
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import Engine

from grade_ml import tasks
from grade_ml.core.errors import ConfigurationError, GradeMLError, NotReadyError
from grade_ml.core.settings import UiSettings
from grade_ml.engine import NotEnrolled, UnknownCourse, UnknownStudent
from grade_ml.tasks import webserver
from grade_ml.tasks.webserver import Webserver
from grade_ml_tests.launch import free_port
from grade_ml_tests.orchestration.test_definitions import HEAVY

ALL: list[Any] = [
    tasks.collect_external_data,
    tasks.train_advanced_ml_models,
    tasks.generate_time_series_forecasts,
    tasks.monitor_model_performance,
    tasks.manage_ab_tests,
    tasks.update_model_explanations,
    tasks.comprehensive_ml_maintenance,
]
TOKEN = "correct horse battery staple"


@pytest.fixture
def installation(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


def test_importing_the_tasks_loads_neither_dagster_nor_what_computes():
    code = (
        "import sys, grade_ml.tasks; "
        f"print([n for n in {('dagster', *HEAVY)!r} if n in sys.modules])"
    )
    output = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert output.strip() == "[]"


def test_each_task_has_its_former_name_arguments_and_words():
    known = {task.name: list(inspect.signature(task).parameters) for task in ALL}
    assert known == {
        "collect_external_data": [],
        "train_advanced_ml_models": ["course_id"],
        "generate_time_series_forecasts": ["user_id"],
        "monitor_model_performance": [],
        "manage_ab_tests": [],
        "update_model_explanations": ["course_id"],
        "comprehensive_ml_maintenance": [],
    }
    assert all(inspect.getdoc(task) for task in ALL)


@pytest.mark.parametrize(
    "options",
    [
        {"countdown": 3},
        {"eta": "tomorrow"},
        {"expires": 60},
        {"priority": 9},
        {"queue": "other"},
        {"link": []},
        {"retry": False},
    ],
    ids=str,
)
def test_an_option_that_means_nothing_is_refused(options: dict[str, Any]):
    with pytest.raises(tasks.UnsupportedOption, match=next(iter(options))) as refused:
        tasks.manage_ab_tests.apply_async(**options)
    assert "docs/migration.md" in refused.value.remedy


WRONG_IDS = [True, 1.5, b"a", "", "x" * 1_000_000, "a\x00b", ["a"]]


@pytest.mark.usefixtures("installation")
@pytest.mark.parametrize("wrong", WRONG_IDS, ids=lambda identifier: f"{identifier!r:.12}")
def test_what_can_be_no_id_is_refused_before_any_request(wrong: Any):
    with pytest.raises(UnknownCourse) as refused:
        tasks.train_advanced_ml_models.delay(wrong)
    assert len(str(refused.value)) < 500
    with pytest.raises(UnknownStudent):
        tasks.generate_time_series_forecasts(user_id=wrong)


@pytest.mark.usefixtures("installation")
def test_who_and_what_does_not_exist_is_refused_before_any_request(one_of_each: None):
    injection = "c'; drop table gradebook.course; --"
    with pytest.raises(UnknownCourse, match="drop table"):
        tasks.update_model_explanations.delay(course_id=injection)
    with pytest.raises(UnknownStudent):
        tasks.generate_time_series_forecasts.delay(user_id=4711)
    with pytest.raises(NotEnrolled, match="no running course"):
        tasks.generate_time_series_forecasts.delay(user_id="s")
    with pytest.raises(UnknownCourse):
        tasks.run_advanced_training_sync("nowhere")


@pytest.mark.parametrize("wrong", [None, 1, "", "x" * 1_000_000, "'; --", "a" * 36], ids=repr)
def test_what_can_be_no_id_of_a_task_is_unknown(wrong: Any):
    with pytest.raises(tasks.UnknownTask) as refused:
        tasks.result(wrong)
    assert len(str(refused.value)) < 200


@pytest.mark.usefixtures("installation", "engine")
def test_without_an_up_the_remedy_is_to_start_it():
    with pytest.raises(tasks.WebserverUnavailable, match="GRADE_ML_UI_URL is unset"):
        tasks.manage_ab_tests.delay()


@pytest.mark.usefixtures("installation")
@pytest.mark.parametrize(
    "url", ["127.0.0.1:3000", "ftp://x", "http://", "http://a b", "http://a?b"]
)
def test_an_address_that_is_none_is_named(url: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GRADE_ML_UI_URL", url)
    with pytest.raises(ConfigurationError, match="GRADE_ML_UI_URL"):
        UiSettings.from_environment()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Silence and slowness are waited for a moment only."""
    monkeypatch.setattr(webserver, "SILENCE_S", 0.2)
    monkeypatch.setattr(webserver, "TOTAL_S", 0.3)
    webserver._client.cache_clear()
    yield
    webserver._client.cache_clear()


def refusal(url: str, token: str | None = None) -> GradeMLError:
    with pytest.raises(GradeMLError) as refused:
        Webserver(url, token).partitions("manage_ab_tests")
    return refused.value


@pytest.mark.usefixtures("impatient")
def test_a_webserver_that_does_not_exist_or_does_not_answer_is_unavailable():
    assert isinstance(refusal(f"http://127.0.0.1:{free_port()}"), tasks.WebserverUnavailable)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        error = refusal(f"http://127.0.0.1:{silent.getsockname()[1]}")
    assert isinstance(error, tasks.WebserverUnavailable) and "timed out" in error.message


#: Status, type and body of answers; then the error, and its message.
ANSWERS = {
    "another site": (200, b"<html>Welcome</html>", tasks.WebserverUnavailable, "not a webserver"),
    "a list": (200, b"[1]", tasks.WebserverUnavailable, "not a webserver"),
    "nested": (200, b"[" * 100_000, tasks.WebserverUnavailable, "not a webserver"),
    "nothing": (200, b"", tasks.WebserverUnavailable, "not a webserver"),
    "a login": (401, b"Who are you?", tasks.WebserverRefused, "GRADE_ML_UI_TOKEN"),
    "a guard": (421, b"Refused: the Host is unknown.", tasks.WebserverRefused, "Host is unknown"),
    "a proxy": (502, b"Bad gateway", tasks.WebserverUnavailable, "answers 502"),
    "errors": (
        400,
        json.dumps({"data": None, "errors": [{"message": "Cannot query field"}]}).encode(),
        tasks.WebserverRefused,
        "Cannot query field",
    ),
    "an older version": (
        200,
        json.dumps({"data": {"pipelineOrError": {"__typename": "PipelineNotFoundError"}}}).encode(),
        tasks.NotSubmitted,
        "knows no job manage_ab_tests",
    ),
    "a defect": (
        200,
        json.dumps(
            {"data": {"pipelineOrError": {"__typename": "PythonError", "message": "It broke."}}}
        ).encode(),
        tasks.WebserverRefused,
        "It broke.",
    ),
}


@pytest.fixture(scope="module")
def answering() -> Iterator[Callable[[int, bytes], str]]:
    """Serve an answer to one POST, none to further ones, and return the address."""
    given = [(0, b"")]

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            status, body = given[-1] if len(given) == 1 else given.pop()
            if not status:
                return  # the connection ends without an answer
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def serve(status: int, body: bytes) -> str:
        given.append((status, body))
        return f"http://127.0.0.1:{server.server_port}"

    yield serve
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_that_is_not_dagsters_is_reported(answering, name: str):
    status, body, kind, words = ANSWERS[name]
    error = refusal(answering(status, body), TOKEN)
    assert isinstance(error, kind) and words in str(error)
    assert TOKEN not in str(error) and error.remedy


@pytest.mark.usefixtures("installation", "engine")
def test_a_submission_that_is_not_answered_can_be_queried(
    answering: Callable[[int, bytes], str], monkeypatch: pytest.MonkeyPatch
):
    job = {"__typename": "Pipeline", "partitionKeysOrError": {"partitionKeys": []}}
    url = answering(200, json.dumps({"data": {"pipelineOrError": job}}).encode())
    monkeypatch.setenv("GRADE_ML_UI_URL", url)
    with pytest.raises(tasks.WebserverUnavailable, match="may have taken the task") as failed:
        tasks.manage_ab_tests.delay()
    (task_id,) = re.findall(r"result\('(.+)'\)", failed.value.remedy)
    assert tasks.result(task_id).id == task_id


@pytest.mark.usefixtures("installation")
def test_called_directly_it_runs_here_and_its_failure_has_the_result(
    add_courses: Callable[..., None], engine: Engine
):
    add_courses("a", "b", "c")
    with pytest.raises(tasks.TaskFailed, match="No features of b") as failed:
        tasks.update_model_explanations(course_id="b")
    result = failed.value.result
    assert (result.status, result.courses, result.task) == (
        "FAILURE",
        1,
        "update_model_explanations",
    )
    again = tasks.result(result.id)
    assert again.ready() and again.status == "FAILURE" and again.waits_for == ""
    with pytest.raises(tasks.TaskFailed):
        tasks.result(result.run_ids[0]).get()
    again.revoke()  # it has ended: nothing to do, and no request is sent
    with engine.connect() as connection:
        launched = connection.scalar(sa.text("select launched_by from maintenance.job_result"))
    assert launched == "task"


@pytest.mark.usefixtures("installation", "engine")
@pytest.mark.parametrize(
    "sync", [tasks.run_model_monitoring_sync, tasks.run_advanced_training_sync]
)
def test_without_records_there_is_nothing_to_run(sync: Callable[[], tasks.TaskResult]):
    with pytest.raises(NotReadyError, match="gradebook has no course"):
        sync()
