"""Dagster's decorator of sensors, with the docstring as the description in the UI."""

import inspect
from collections.abc import Callable
from typing import Any

import dagster
from dagster import SensorDefinition


def sensor(**options: Any) -> Callable[[Callable[..., Any]], SensorDefinition]:
    """Return Dagster's `sensor` with these options and the docstring as the description."""

    def decorate(body: Callable[..., Any]) -> SensorDefinition:
        return dagster.sensor(description=inspect.getdoc(body), **options)(body)

    return decorate
