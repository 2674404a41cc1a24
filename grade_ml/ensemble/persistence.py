"""Fitted scikit-learn objects as skops files: no pickle, and the same bytes for the same object.

What a model consists of is known to the model's own module.
"""

from __future__ import annotations

import io
import re
import zipfile
from pathlib import Path

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
        schema = source.read(_SCHEMA).decode()
        addresses = dict.fromkeys(re.findall(r'"__id__": (\d+)|"file": "(\d+)\.', schema))
        number = {a or b: str(i) for i, (a, b) in enumerate(addresses)}
        schema = re.sub(
            r'("__id__": |"file": ")(\d+)', lambda m: m.group(1) + number[m.group(2)], schema
        )
        files = {_SCHEMA: schema.encode()}
        for name in source.namelist():
            stem, _, suffix = name.partition(".")
            if name != _SCHEMA:
                files[f"{number[stem]}.{suffix}"] = source.read(name)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as target:
        for name, content in sorted(files.items()):
            info = zipfile.ZipInfo(name, _EPOCH)
            info.compress_type = zipfile.ZIP_DEFLATED
            target.writestr(info, content)


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
