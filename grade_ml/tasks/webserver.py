"""The requests of tasks to Dagster's webserver: partitions, launch, look, terminate."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any

import httpx

from grade_ml.core import http
from grade_ml.core.errors import GradeMLError
from grade_ml.core.guard import LOOPBACK
from grade_ml.tasks.errors import NotSubmitted, WebserverRefused, WebserverUnavailable

#: Seconds without a byte, and for a whole answer; submitting takes 0.1 s on an idle machine.
SILENCE_S, TOTAL_S = 15.0, 30.0
#: 100,000 courses have 30 MB of ids at most.
_MAX_BYTES = 64 << 20
#: The names of the code location and of its only repository.
_PLACE = {"repositoryLocationName": "grade_ml", "repositoryName": "__repository__"}
_PERSON = "Open the UI and check it, or ask the administrator of the webserver."

_JOB = """
query Job($selector: PipelineSelector!) {
  pipelineOrError(params: $selector) {
    __typename
    ... on Pipeline { partitionKeysOrError { partitionKeys } }
    ... on Error { message }
  }
}
"""
_LAUNCH = """
mutation Launch($params: ExecutionParams!) {
  launchRun(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on Error { message }
    ... on RunConfigValidationInvalid { errors { message } }
  }
}
"""
_RUNS = """
query Runs($tags: [ExecutionTag!]!, $run: ID!) {
  instance {
    daemonHealth {
      daemonStatus(daemonType: "QUEUED_RUN_COORDINATOR") { lastHeartbeatTime }
    }
  }
  runsOrError(filter: {tags: $tags}, limit: 1000) {
    __typename
    ... on Runs { results { runId status tags { key value } } }
    ... on Error { message }
  }
  runOrError(runId: $run) {
    __typename
    ... on Run { runId status tags { key value } }
  }
}
"""
_TERMINATE = """
mutation Terminate($run: String!) {
  terminateRun(runId: $run) {
    __typename
    ... on Error { message }
    ... on TerminateRunFailure { message }
  }
}
"""


@dataclass(frozen=True)
class Run:
    """A run on the webserver; `status` is Dagster's term, in capitals."""

    run_id: str
    status: str
    tags: Mapping[str, str]


@dataclass(frozen=True)
class Look:
    """The runs of a task, and the last heartbeat of the daemon that takes runs from the queue."""

    runs: Sequence[Run]
    daemon_at: datetime | None


@dataclass(frozen=True)
class Webserver:
    """One webserver.

    Every method raises `WebserverUnavailable` if the webserver does not answer, `WebserverRefused`
    if it refuses.
    """

    url: str
    token: str | None

    def partitions(self, job: str) -> list[str]:
        """Return the partition keys of a job in their order; empty if it has none.

        Raises
        ------
        NotSubmitted
            The webserver knows no such job: its code is older, or is not loaded.
        """
        answer = self._ask(_JOB, "pipelineOrError", selector={**_PLACE, "pipelineName": job})
        if answer["__typename"] == "Pipeline":
            keys: list[str] = answer["partitionKeysOrError"]["partitionKeys"]
            return keys
        if answer["__typename"] == "PythonError":
            raise self._refused(answer)
        raise NotSubmitted(
            f"The webserver at {self.url} knows no job {job}.",
            "Its code is older than this program, or was not loaded: see Deployment in the UI.",
        )

    def launch(self, job: str, tags: Mapping[str, str]) -> str:
        """Put a run of the job into the queue and return its id."""
        params = {
            "selector": {**_PLACE, "jobName": job},
            "runConfigData": "{}",
            "executionMetadata": {"tags": [{"key": k, "value": v} for k, v in tags.items()]},
        }
        answer = self._ask(_LAUNCH, "launchRun", params=params)
        if answer["__typename"] != "LaunchRunSuccess":
            raise self._refused(answer)
        run_id: str = answer["run"]["runId"]
        return run_id

    def look(self, tag: str, value: str) -> Look:
        """Return the runs that have the tag, and the run whose id is the value of the tag."""
        data = self._data(_RUNS, {"tags": [{"key": tag, "value": value}], "run": value})
        if data["runsOrError"]["__typename"] != "Runs":
            raise self._refused(data["runsOrError"])
        rows = list(data["runsOrError"]["results"])
        if data["runOrError"]["__typename"] == "Run":
            rows.append(data["runOrError"])
        runs = {
            row["runId"]: Run(
                row["runId"], row["status"], {tag["key"]: tag["value"] for tag in row["tags"]}
            )
            for row in rows
        }
        beat = data["instance"]["daemonHealth"]["daemonStatus"]["lastHeartbeatTime"]
        return Look(list(runs.values()), beat and datetime.fromtimestamp(beat, UTC))

    def terminate(self, run_id: str) -> None:
        """Request the end of a run."""
        answer = self._ask(_TERMINATE, "terminateRun", run=run_id)
        if answer["__typename"] in ("UnauthorizedError", "PythonError"):
            raise self._refused(answer)
        # Otherwise it has ended meanwhile, or the daemon searches for its process.

    def _refused(self, answer: Mapping[str, Any]) -> GradeMLError:
        if answer["__typename"] == "UnauthorizedError":
            return WebserverRefused(
                f"The webserver at {self.url} is read-only and allows no change.",
                "Set GRADE_ML_UI_URL to the webserver that `grade-ml up` runs.",
            )
        message = answer.get("message") or "; ".join(
            str(error.get("message")) for error in answer.get("errors", [])
        )
        return WebserverRefused(f"Dagster refuses: {answer['__typename']}: {message}", _PERSON)

    def _ask(self, query: str, field: str, **variables: Any) -> Mapping[str, Any]:
        answer: Mapping[str, Any] = self._data(query, variables)[field]
        return answer

    def _data(self, query: str, variables: Mapping[str, Any]) -> Mapping[str, Any]:
        body = self._post(json.dumps({"query": query, "variables": variables}))
        try:
            answer = json.loads(body)
            data = answer.get("data")
        except (ValueError, AttributeError, RecursionError) as error:
            raise WebserverUnavailable(
                f"The server at {self.url} is not a webserver of Dagster.",
                "Correct GRADE_ML_UI_URL, or start `grade-ml up`.",
            ) from error
        if not isinstance(data, dict) or answer.get("errors"):
            errors = json.dumps(answer.get("errors"))[:500]
            raise WebserverRefused(f"Dagster refuses: {errors}", _PERSON)
        return data

    def _post(self, body: str) -> bytes:
        client = _client(httpx.URL(self.url).host in LOOPBACK)
        headers = {"Content-Type": "application/json"}
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"
        request = client.build_request("POST", f"{self.url}/graphql", content=body, headers=headers)
        try:
            reply = http.send(client, request, TOTAL_S)
            answer = http.body(reply, _MAX_BYTES)
            reply.close()
        except (httpx.HTTPError, http.AnswerError) as error:
            raise WebserverUnavailable(
                f"Dagster's webserver at {self.url} does not answer: {_why(error)}.",
                "Start `grade-ml up`, or correct GRADE_ML_UI_URL; its log has details.",
            ) from error
        if reply.status_code == httpx.codes.UNAUTHORIZED:
            raise WebserverRefused(
                f"The webserver at {self.url} requires another token.",
                "Set GRADE_ML_UI_TOKEN to the token that it was started with.",
            )
        # Dagster answers 400 if it executed nothing, and gives the reason in the body.
        if reply.is_success or reply.status_code == httpx.codes.BAD_REQUEST:
            return answer
        text = answer[:300].decode(errors="replace").strip()
        problem = f"The webserver at {self.url} answers {reply.status_code}: {text}"
        if reply.is_server_error:
            raise WebserverUnavailable(problem, "Try again; its log has details.")
        raise WebserverRefused(problem, _PERSON)


def _why(error: Exception) -> str:
    return f"its answer {error}" if isinstance(error, http.AnswerError) else str(error)


@cache
def _client(is_here: bool) -> httpx.Client:
    """Return the shared client, since making it takes 30 ms; for this machine it uses no proxy."""
    return http.client(timeout=SILENCE_S, trust_env=not is_here)
