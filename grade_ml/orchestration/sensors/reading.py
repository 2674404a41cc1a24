"""What every sensor says when it could not read: unknown is not empty."""

from dagster import SkipReason
from sqlalchemy.exc import SQLAlchemyError

from grade_ml.core.errors import GradeMLError

#: What reading the stores may raise.
UNREADABLE = (GradeMLError, SQLAlchemyError)


def unreadable(error: Exception, what: str = "gradebook") -> SkipReason:
    """Return why nothing is done."""
    return SkipReason(f"The {what} could not be read, so nothing is known to have changed: {error}")
