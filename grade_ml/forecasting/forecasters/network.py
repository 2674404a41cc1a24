"""The process of the recurrent network: the only place where TensorFlow is imported.

It reads one JSON line per task from its input, finds arrays and network in the folder that the line
names, and answers with one line. `recurrent` defines what the arrays mean.
"""

from __future__ import annotations

import io
import json
import os
import re
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

_UNITS, _EMBEDDED, _HIDDEN = 24, 4, 48
#: Sequences in a step, at most, and steps in an epoch, at least, where there are fewer.
_BATCH, _STEPS = 512, 40
#: Sequences, of each hundred, on which it is decided when to stop.
_HELD_OUT = 12
#: The squared error of a score (of 1) beside the log-loss of handing it in.
_SCORE_WEIGHT = 4.0


#: The network that answered last, by its file: an application repeats the same request, and
#: loading it takes longer than its answer.
_loaded: dict[bytes, Any] = {}


def main() -> None:
    """Serve until the input ends."""
    out = os.fdopen(os.dup(1), "w")
    # No output of a library may be among the answers.
    os.dup2(2, 1)
    tf = _tensorflow(int(sys.argv[1]))
    for line in sys.stdin:
        request = json.loads(line)
        folder = Path(request["folder"])
        try:
            answer = {"fit": _fit, "forecast": _forecast}[request["task"]](tf, request, folder)
        except Exception as error:  # the other process decides what to do without an answer
            answer = {"done": False, "error": f"{type(error).__name__}: {error}"[:500]}
        out.write(json.dumps(answer) + "\n")
        out.flush()


def _tensorflow(threads: int) -> Any:
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.config.experimental.enable_op_determinism()
    return tf


def _build(tf: Any, kind: str, arrays: Any, courses: int) -> Any:
    keras = tf.keras
    history = keras.Input(arrays["history"].shape[1:], name="history")
    targets = keras.Input((None, arrays["targets"].shape[2]), name="targets")
    course = keras.Input((), dtype="int32", name="course")
    state = keras.layers.Masking()(history)
    state = getattr(keras.layers, kind)(_UNITS)(state)
    known = keras.layers.Embedding(courses, _EMBEDDED)(course)
    about = keras.layers.Dense(_HIDDEN)(keras.layers.Concatenate()([state, known]))
    each = keras.layers.Dense(_HIDDEN, use_bias=False)(targets)
    hidden = keras.layers.Add()([each, keras.layers.Reshape((1, _HIDDEN))(about)])
    hidden = keras.layers.Dropout(0.1)(keras.layers.Activation("relu")(hidden))
    hidden = keras.layers.Dense(_HIDDEN // 2, activation="relu")(hidden)
    submit = keras.layers.Dense(1, activation="sigmoid")(hidden)
    given = keras.layers.Dense(1, bias_initializer=keras.initializers.Constant(0.7))(hidden)
    answer = keras.layers.Concatenate()([submit, given])
    return keras.Model([history, targets, course], answer)


def _loss(tf: Any) -> Any:
    def loss(truth: Any, answer: Any) -> Any:
        known = tf.cast(truth[..., 2] > 0, tf.float32)
        scored = tf.cast(truth[..., 2] > 1, tf.float32) * truth[..., 0]
        chance = tf.clip_by_value(answer[..., 0], 1e-4, 1 - 1e-4)
        handed_in = truth[..., 0]
        log = handed_in * tf.math.log(chance) + (1 - handed_in) * tf.math.log(1 - chance)
        square = (answer[..., 1] - truth[..., 1]) ** 2
        total = tf.reduce_sum(_SCORE_WEIGHT * scored * square - known * log)
        return total / tf.maximum(tf.reduce_sum(known), 1.0)

    return loss


def _fit(tf: Any, request: dict[str, Any], folder: Path) -> dict[str, Any]:
    arrays = dict(np.load(folder / "arrays.npz"))
    _loaded.clear()
    tf.keras.backend.clear_session()
    tf.keras.utils.set_random_seed(request["seed"])
    model = _build(tf, request["kind"], arrays, request["courses"])
    path = folder / "network.keras"
    warm = path.stat().st_size > 0
    if warm:
        model.set_weights(tf.keras.models.load_model(path, compile=False).get_weights())
    model.compile(tf.keras.optimizers.Adam(1e-3 if warm else 3e-3), _loss(tf))
    order = np.random.default_rng(request["seed"]).permutation(len(arrays["course"]))
    held = len(order) * _HELD_OUT // 100
    inputs = ("history", "targets", "course")
    parts = [
        ([arrays[name][places] for name in inputs], arrays["truth"][places])
        for places in (order[held:], order[:held] if held else order)
    ]
    stop = tf.keras.callbacks.EarlyStopping(patience=request["patience"], restore_best_weights=True)
    past = model.fit(
        *parts[0],
        validation_data=parts[1],
        epochs=request["epochs"],
        batch_size=int(np.clip(len(order) // _STEPS, 16, _BATCH)),
        callbacks=[stop],
        verbose=0,
    )
    model.save(path)
    path.write_bytes(_reproducible(path.read_bytes()))
    losses = past.history["val_loss"]
    return {"done": True, "held_out_loss": float(min(losses)), "epochs": len(losses)}


def _forecast(tf: Any, request: dict[str, Any], folder: Path) -> dict[str, Any]:
    arrays = dict(np.load(folder / "arrays.npz"))
    content = (folder / "network.keras").read_bytes()
    if content not in _loaded:
        _loaded.clear()
        tf.keras.backend.clear_session()
        _loaded[content] = tf.keras.models.load_model(folder / "network.keras", compile=False)
    model = _loaded[content]
    inputs = [arrays[name] for name in ("history", "targets", "course")]
    np.save(folder / "answers.npy", model.predict(inputs, batch_size=4096, verbose=0))
    return {"done": True}


def _reproducible(content: bytes) -> bytes:
    """Return the Keras file `content` without the moment and the addresses of its saving."""
    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(target, "w") as clean:
        for name in sorted(source.namelist()):
            part = source.read(name)
            if name == "metadata.json":
                part = json.dumps({**json.loads(part), "date_saved": ""}).encode()
            if name == "config.json":
                part = _renumbered(part)
            clean.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), part)
    return target.getvalue()


def _renumbered(config: bytes) -> bytes:
    """Return `config` with its shared objects numbered: their ids are addresses in memory."""
    known: dict[bytes, bytes] = {}
    return re.sub(
        rb'(?<="shared_object_id": )\d+',
        lambda match: known.setdefault(match[0], b"%d" % len(known)),
        config,
    )


if __name__ == "__main__":
    main()
