"""The errors that users may see: each states what is wrong and the remedy.

Anything that is not a subclass of `GradeMLError` is a defect of the program, not of its input.
A `TransientError` may pass by itself; every other error is permanent: it returns until its cause is
removed.
Errors quote loaded text, so their texts are made readable here, for logs and terminals alike.
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


class TransientError(GradeMLError):
    """A condition that may pass by itself: what met it starts over after a pause."""


class ConfigurationError(GradeMLError):
    """A setting is missing or cannot be used."""


class SourceError(GradeMLError):
    """A whole input (folder, file, header) cannot be read; nothing of it was loaded."""


class NotFoundError(GradeMLError):
    """A requested student, course, section, term or model does not exist."""


class NotReadyError(GradeMLError):
    """An earlier step (load, features, training) has to run first."""


class AlreadyRunningError(GradeMLError):
    """Another process holds what this process needs."""


class ServiceError(GradeMLError):
    """A service (PostgreSQL, artifact store, a web server) failed or refuses."""


class UnavailableError(ServiceError, TransientError):
    """A service does not answer at the moment."""


class ArtifactError(GradeMLError):
    """A stored artifact is missing, incomplete, differs from its manifest, or must not be used."""


class StageError(GradeMLError):
    """A model's version cannot take the requested stage."""


class ExperimentError(GradeMLError):
    """An experiment cannot be planned, or decided, as requested."""


class OutOfMemoryError(GradeMLError):
    """A step was stopped before the machine ran out of memory."""
