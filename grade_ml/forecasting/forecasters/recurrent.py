"""One recurrent network for all students, LSTM or GRU; the network lives in its own process.

Here sequences become arrays and answers become estimates; Keras is only in `network`. An encoder
reads a student's results in order of due day (masked to their length); for each remaining
assignment its description, the course and the encoder's state give the chance to hand in and the
score given that.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, ClassVar, Self

import numpy as np

from grade_ml.core.errors import ServiceError
from grade_ml.core.threads import MOST
from grade_ml.forecasting.contract import Counts, Estimate, Floats, Forecaster, Method, Panel
from grade_ml.forecasting.panels import thinned
from grade_ml.forecasting.rows import names, rows
from grade_ml.forecasting.settings import SETTINGS
from grade_ml.forecasting.slots import Slots

#: Steps of history that are read, the newest, and remaining assignments that are distinguished.
STEPS, AHEAD = 24, 24
_STEP_VALUES = 6
#: The longest that a task takes before its process is ended: a fit of the most sequences takes
#: minutes, a forecast of a term seconds, and the start of TensorFlow 5 s, or 30 on a busy machine.
_SECONDS = {"fit": 3600, "forecast": 300}
_NETWORK, _SCALER = "network.keras", "scaler.json"
Arrays = dict[str, Any]


@dataclass(frozen=True)
class _Recurrent(Forecaster):
    """The network's file as bytes, with the scale of its inputs and the courses it knows."""

    library = "tensorflow"
    kind: ClassVar[str]
    slots: Slots
    centre: Floats
    spread: Floats
    courses: tuple[str, ...]
    columns: tuple[str, ...]
    network: bytes
    held_out_loss: float

    @classmethod
    def fit(cls, panels: Sequence[Panel], *, seed: int, previous: Self | None = None) -> Self:
        """See `Forecaster.fit`; weights of `previous` are the start where its inputs are alike."""
        slots = Slots.fit(panels)
        per_student = sum(panel.shape[0] * panel.shape[1] for panel in panels) / sum(
            panel.shape[0] for panel in panels
        )
        sample = thinned(panels, int(SETTINGS.most_sequences * per_student), seed)
        courses = tuple(sorted({panel.course_id for panel in panels}))
        columns = tuple(names(sample[0]))
        raw = [rows(panel, slots) for panel in sample]
        flat = np.concatenate([part.reshape(-1, part.shape[2]) for part in raw])
        centre, spread = _scale(flat)
        arrays = _inputs(sample, raw, centre, spread, courses) | _targets(sample)
        start = b""
        if previous and (previous.courses, previous.columns) == (courses, columns):
            start = previous.network
        request = {"kind": cls.kind, "seed": seed, "epochs": SETTINGS.epochs}
        request |= {"patience": SETTINGS.patience, "courses": len(courses) + 1}
        answer = _process().request("fit", request, arrays, start)
        return cls(
            slots, centre, spread, courses, columns, answer["network"], answer["held_out_loss"]
        )

    def forecast(self, panels: Sequence[Panel], counts: Counts) -> list[Estimate]:
        """See `Forecaster.forecast`."""
        if not panels:
            return []
        raw = [rows(panel, self.slots) for panel in panels]
        arrays = _inputs(panels, raw, self.centre, self.spread, self.courses)
        answer = _process().request("forecast", {}, arrays, self.network)
        ends = np.cumsum([panel.shape[0] for panel in panels])[:-1]
        estimates = []
        for panel, answers in zip(panels, np.split(answer["answers"], ends), strict=True):
            # What lies further ahead than the network distinguishes is like the last that it does.
            place = np.minimum(np.arange(panel.shape[1]), answers.shape[1] - 1)
            submit, given = answers[:, place, 0], np.clip(100 * answers[:, place, 1], 0, 100)
            counts.add(
                f"{self.method}: more than {AHEAD} remain, as the last",
                panel.shape[0] * max(panel.shape[1] - AHEAD, 0),
            )
            estimates.append(Estimate.bounded(submit * given, submit))
        return estimates

    def save(self, folder: Path) -> None:
        """See `Forecaster.save`."""
        self.slots.save(folder)
        (folder / _NETWORK).write_bytes(self.network)
        scaler = {"centre": self.centre.tolist(), "spread": self.spread.tolist()}
        scaler |= {"courses": self.courses, "columns": self.columns, "loss": self.held_out_loss}
        (folder / _SCALER).write_text(json.dumps(scaler))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """See `Forecaster.load`."""
        scaler = json.loads((folder / _SCALER).read_text())
        return cls(
            Slots.load(folder),
            np.array(scaler["centre"]),
            np.array(scaler["spread"]),
            tuple(scaler["courses"]),
            tuple(scaler["columns"]),
            (folder / _NETWORK).read_bytes(),
            scaler["loss"],
        )


class LSTM(_Recurrent):
    """Long short-term memory (Hochreiter & Schmidhuber 1997)."""

    method = Method.LSTM
    kind = "LSTM"


class GRU(_Recurrent):
    """Gated recurrent units (Cho et al. 2014)."""

    method = Method.GRU
    kind = "GRU"


def _scale(values: np.ndarray) -> tuple[Floats, Floats]:
    """Return median and spread of each column's known values; 0 and 1 where there are none."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        centre, spread = np.nanmedian(values, axis=0), np.nanstd(values, axis=0)
    # A column without a known value is 0 in every row of `_inputs`, whatever its scale.
    centre = np.nan_to_num(centre).astype(np.float64)
    return centre, np.where(np.nan_to_num(spread) > 1e-6, spread, 1.0).astype(np.float64)


def _inputs(
    panels: Sequence[Panel],
    raw: Sequence[np.ndarray],
    centre: Floats,
    spread: Floats,
    courses: tuple[str, ...],
) -> Arrays:
    total = sum(panel.shape[0] for panel in panels)
    ahead = min(max(panel.shape[1] for panel in panels), AHEAD)
    history = np.zeros((total, STEPS, _STEP_VALUES), np.float32)
    targets = np.zeros((total, ahead, len(centre)), np.float32)
    course = np.zeros(total, np.int32)
    start = 0
    for panel, values in zip(panels, raw, strict=True):
        stop = start + panel.shape[0]
        _fill_history(panel, history[start:stop])
        nearest = values[:, :ahead]
        # What is unknown of an assignment counts as usual: scaled, the median is 0.
        scaled = np.nan_to_num(np.clip((nearest - centre) / spread, -4, 4))
        targets[start:stop, : nearest.shape[1]] = scaled
        course[start:stop] = courses.index(panel.course_id) + 1 if panel.course_id in courses else 0
        start = stop
    return {"history": history, "targets": targets, "course": course}


def _fill_history(panel: Panel, history: np.ndarray) -> None:
    """Write the newest steps to the end of `history`; a step of zeros is masked."""
    past = panel.past[-STEPS:]
    if not len(past):
        return
    due = panel.due_day[past]
    score, handed_in = panel.score[:, past], panel.submitted[:, past]
    values = [
        np.ones_like(score),
        np.nan_to_num(handed_in),
        np.nan_to_num(score / 100),
        np.nan_to_num((score - panel.class_score[past]) / 25) * (handed_in == 1),
        np.broadcast_to(panel.weight[past] / 100, score.shape),
        np.broadcast_to(np.diff(due, prepend=0.0) / 50, score.shape),
    ]
    history[:, -len(past) :] = np.stack(values, axis=2)


def _targets(panels: Sequence[Panel]) -> Arrays:
    """Return (n, ahead, 3): handed in, score/100 and what of it is known (0, 1: the first, 2)."""
    total = sum(panel.shape[0] for panel in panels)
    ahead = min(max(panel.shape[1] for panel in panels), AHEAD)
    truth = np.zeros((total, ahead, 3), np.float32)
    start = 0
    for panel in panels:
        stop, places = start + panel.shape[0], panel.remaining[:ahead]
        handed_in, score = panel.truth_submitted[:, places], panel.truth[:, places]
        own = truth[start:stop, : len(places)]
        own[..., 0] = np.nan_to_num(handed_in)
        own[..., 1] = np.nan_to_num(score / 100)
        own[..., 2] = np.where(np.isnan(handed_in), 0, np.where(np.isnan(score), 1, 2))
        start = stop
    return {"truth": truth}


class NetworkProcess:
    """The process in which Keras lives: started at the first request, ended with this one.

    A process of its own keeps a library of 500 MB, its threads and its crashes out of this one.
    """

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="grade_ml_network_"))
        threads = str(MOST)
        quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
        capped = {"OMP_NUM_THREADS": threads, "TF_ENABLE_ONEDNN_OPTS": "0"}
        self._errors = (self._folder / "errors").open("wb")
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "grade_ml.forecasting.forecasters.network", threads],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=os.environ
            | quiet
            | capped
            | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        self._lock = Lock()
        atexit.register(self.close)

    @property
    def alive(self) -> bool:
        """Whether it can answer."""
        return self._process.poll() is None

    def request(
        self, task: str, request: dict[str, Any], arrays: Arrays, network: bytes
    ) -> dict[str, Any]:
        """Return the answer: `network` and `held_out_loss` of a fit, `answers` of a forecast.

        Raises
        ------
        ServiceError
            The process ended or reported an error.
        """
        with self._lock:
            np.savez(self._folder / "arrays.npz", **arrays)
            (self._folder / _NETWORK).write_bytes(network)
            line = json.dumps({"task": task, "folder": str(self._folder), **request})
            stdin, stdout = self._process.stdin, self._process.stdout
            assert stdin and stdout
            try:
                stdin.write(line + "\n")
                stdin.flush()
                if not select.select([stdout], [], [], _SECONDS[task])[0]:
                    self._process.kill()
                answer = json.loads(stdout.readline() or "{}")
            except BrokenPipeError:
                answer = {}
            if not answer.get("done"):
                why = answer.get("error") or self._why()
                raise ServiceError(
                    f"The recurrent network's process failed: {why}.",
                    "Forecasts continue without it; check that TensorFlow runs on this machine.",
                )
            if task == "fit":
                answer["network"] = (self._folder / _NETWORK).read_bytes()
            else:
                answer["answers"] = np.load(self._folder / "answers.npy")
            return dict(answer)

    def _why(self) -> str:
        self._errors.flush()
        lines = (self._folder / "errors").read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"it ended with {self._process.poll()}"

    def close(self) -> None:
        """End the process and remove its files."""
        if self._process.stdin:
            self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._errors.close()
        shutil.rmtree(self._folder, ignore_errors=True)


_running: list[NetworkProcess] = []


_starting = Lock()


def _process() -> NetworkProcess:
    """Return the one process of this process; another one where it has died."""
    with _starting:
        if not _running or not _running[-1].alive:
            _running.append(NetworkProcess())
        return _running[-1]
