"""Fitted scikit-learn objects as skops files: no pickle, and the same bytes for the same object.

What a model consists of is known to the model's own module.
"""

from __future__ import annotations

import io
import itertools
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from grade_ml.core.errors import ArtifactError

#: Compiled classes that skops cannot vouch for; nothing else is loaded.
TRUSTED = (
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.tree._tree.Tree",
)
_SCHEMA = "schema.json"
_EPOCH = (1980, 1, 1, 0, 0, 0)


def save(fitted: object, path: Path) -> None:
    """Write `fitted` to `path`, free of the time and of memory addresses.

    skops names the parts of an object by their addresses and stamps them with the time; both are
    replaced, so that equal objects have equal files.
    """
    import skops.io

    with zipfile.ZipFile(io.BytesIO(skops.io.dumps(fitted))) as source:
        schema = json.loads(source.read(_SCHEMA))
        names: dict[str, str] = {}
        _renumber(schema, {}, names, itertools.count())
        files = {new: _without_chance(source.read(old)) for old, new in names.items()}
    files[_SCHEMA] = json.dumps(schema).encode()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as target:
        for name, content in sorted(files.items()):
            info = zipfile.ZipInfo(name, _EPOCH)
            info.compress_type = zipfile.ZIP_DEFLATED
            target.writestr(info, content)


def _without_chance(content: bytes) -> bytes:
    """Return the .npy file `content` with the bytes set that scikit-learn's trees leave to chance.

    Their nodes have gaps between the fields, and leaves a field that only inner nodes use.
    """
    array = np.load(io.BytesIO(content), allow_pickle=False)
    if array.dtype.names is None:
        return content
    clean = np.zeros(array.shape, array.dtype)  # zeros_like would leave the gaps as they are
    for name in array.dtype.names:
        clean[name] = array[name]
    if {"left_child", "missing_go_to_left"} <= set(array.dtype.names):
        clean["missing_go_to_left"][clean["left_child"] == -1] = 0
    buffer = io.BytesIO()
    np.save(buffer, clean, allow_pickle=False)
    return buffer.getvalue()


def _renumber(
    node: Any, numbers: dict[int, int], names: dict[str, str], counter: Iterator[int]
) -> None:
    """Replace addresses by numbers in order of appearance, in place; collect the file names.

    Plain values each get a number of their own: whether two equal ones are the same object in
    memory is chance.
    """
    if isinstance(node, list):
        for value in node:
            _renumber(value, numbers, names, counter)
    if not isinstance(node, dict):
        return
    if "__id__" in node:
        address, plain = node["__id__"], node.get("__loader__") == "JsonNode"
        node["__id__"] = next(counter) if plain else numbers.setdefault(address, next(counter))
    if isinstance(node.get("file"), str):
        suffix = node["file"].partition(".")[2]
        node["file"] = names.setdefault(node["file"], f"{len(names)}.{suffix}")
    for value in node.values():
        _renumber(value, numbers, names, counter)


def load(path: Path) -> object:
    """Read what `save` wrote.

    Raises
    ------
    ArtifactError
        The file holds a type outside scikit-learn, numpy and `TRUSTED`, or is not a skops file.
    """
    import skops.io
    from skops.io.exceptions import UntrustedTypesFoundException

    try:
        return skops.io.load(path, trusted=list(TRUSTED))
    except (UntrustedTypesFoundException, zipfile.BadZipFile, KeyError, ValueError) as error:
        raise ArtifactError(
            f"The model file {path.name} cannot be loaded safely: {error}",
            "Train the model again with this version of the program.",
        ) from error
