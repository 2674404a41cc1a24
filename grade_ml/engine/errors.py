"""The errors of the engine; each is a subclass of an error of `core.errors`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import TimeoutError as NoConnectionError

from grade_ml.core.database import is_lost
from grade_ml.core.errors import (
    GradeMLError,
    NotFoundError,
    NotReadyError,
    ServiceError,
    UnavailableError,
)
from grade_ml.core.optional import of_import


class UnknownStudent(NotFoundError):
    """The gradebook has no such student, or no student can have such an id."""


class UnknownCourse(NotFoundError):
    """The gradebook has no such course, or no course can have such an id."""


class NotEnrolled(NotFoundError):
    """The student is not, or was not yet, enrolled in the course."""


class NoModel(NotReadyError):
    """Nothing can be predicted: there is no model, and no ended section to take a mean of."""


class Overloaded(UnavailableError):
    """Too many computations wait already; ask again."""


class StorageUnavailable(UnavailableError):
    """PostgreSQL or the models' store does not respond, and there is no recent answer."""


@contextmanager
def typed() -> Iterator[None]:
    """Turn what databases, stores and failed imports raise into errors of this project."""
    try:
        yield
    except (Overloaded, StorageUnavailable):
        raise
    except ServiceError as error:
        raise StorageUnavailable(error.message, error.remedy) from error
    except NoConnectionError as error:
        raise Overloaded(
            "Every connection to the database is in use.", "Ask again in a moment."
        ) from error
    except GradeMLError:
        raise
    except ImportError as error:
        raise of_import(error) or error from error
    except Exception as error:  # raised again, as it is or as the loss of the database
        if not is_lost(error):
            raise
        raise StorageUnavailable(
            "PostgreSQL went away during the answer.", "Ask again when it is back."
        ) from error
