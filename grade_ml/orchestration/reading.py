"""The reason of a sensor that could not read: unknown is not empty."""

from dagster import SkipReason
from sqlalchemy.exc import SQLAlchemyError

from grade_ml.core.errors import GradeMLError

#: The errors that reading the stores may raise.
UNREADABLE = (GradeMLError, SQLAlchemyError)


def unreadable(error: Exception, source: str = "gradebook") -> SkipReason:
    """Return the reason to skip."""
    return SkipReason(
        f"The {source} could not be read, so it is unknown whether it changed: {error}"
    )
