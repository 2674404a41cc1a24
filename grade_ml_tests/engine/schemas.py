"""Holds real answers to the published schema."""

from __future__ import annotations

import json
from typing import Any

import jsonschema

from grade_ml.engine import published


def require_valid(call: str, answer: Any) -> None:
    """Fail where the JSON of an answer is not as published, or holds more than that."""
    require_described(call, json.loads(json.dumps(answer.to_dict(), allow_nan=False)))


def require_described(call: str, plain: Any) -> None:
    """Do so for plain values."""
    whole = published.schema()
    for described in whole["$defs"].values():
        if "properties" in described:
            described["additionalProperties"] = False
    jsonschema.validate(plain, {"$defs": whole["$defs"], **whole["calls"][call]})
