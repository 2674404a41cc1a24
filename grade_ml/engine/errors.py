"""The errors of the engine; each is one of those of `core.errors` that the rest raises, too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import TimeoutError as NoConnectionError

from grade_ml.core.database import is_lost
from grade_ml.core.errors import GradeMLError, NotFoundError, NotReadyError, ServiceError


class UnknownStudent(NotFoundError):
    """The gradebook has no such student, or no student can have such an id."""


class UnknownCourse(NotFoundError):
    """The gradebook has no such course, or no course can have such an id."""


class NotEnrolled(NotFoundError):
    """The student is not, or was not yet, enrolled in the course."""


class NoModel(NotReadyError):
    """Nothing can answer: no model, and no ended section to take a mean of."""


class Overloaded(ServiceError):
    """Too many computations wait already; ask again."""


class StorageUnavailable(ServiceError):
    """PostgreSQL or the models' store does not answer, and no recent answer is kept."""


@contextmanager
def typed() -> Iterator[None]:
    """Turn what databases and stores raise into errors of the engine."""
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
    except Exception as error:  # raised again, as it is or as the loss of the database
        if not is_lost(error):
            raise
        raise StorageUnavailable(
            "PostgreSQL went away during the answer.", "Ask again when it is back."
        ) from error
