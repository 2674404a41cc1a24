"""The errors that a person may see: each says what is wrong and what to do about it.

Anything that is not a subclass of `GradeMLError` is a defect of the program, not of its input.
Errors quote what was loaded, so what they say is made readable here, for logs and terminals alike.
"""

from grade_ml.core.masking import masked
from grade_ml.core.texts import readable

#: Characters of a message; a header of a file may be quoted in it.
_LONGEST = 4000


class GradeMLError(Exception):
    """A condition that the program foresaw.

    Parameters
    ----------
    message
        What is wrong, naming the thing (file, row, column, value, course, service).
    remedy
        What the reader can do about it.

    Secrets in both are hidden: the words of libraries that they repeat may hold some.
    """

    def __init__(self, message: str, remedy: str = "") -> None:
        self.message = readable(masked(message), _LONGEST)
        self.remedy = readable(masked(remedy), _LONGEST)
        super().__init__(self.message, self.remedy)

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}".strip()


class ConfigurationError(GradeMLError):
    """A setting is missing or cannot be used."""


class SourceError(GradeMLError):
    """A whole input (folder, file, header) cannot be read; nothing of it was loaded."""


class NotFoundError(GradeMLError):
    """A student, course, section, term or model that was asked for does not exist."""


class NotReadyError(GradeMLError):
    """An earlier step (load, features, training) has to run first."""


class AlreadyRunningError(GradeMLError):
    """Another process holds what this one needs."""


class ServiceError(GradeMLError):
    """A service (PostgreSQL, artifact store) does not answer or failed to start."""


class ArtifactError(GradeMLError):
    """A stored artifact is missing, incomplete, not as its manifest says, or must not be used."""


class StageError(GradeMLError):
    """A model's version cannot take the stage that was asked for."""


class ExperimentError(GradeMLError):
    """An experiment cannot be planned, or decided, in the way that was asked for."""


class OutOfMemoryError(GradeMLError):
    """A step was stopped before the machine ran out of memory."""
