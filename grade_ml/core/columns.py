"""The description of a column: its own comment, or what its name means in every table."""

import sqlalchemy as sa

_EVERYWHERE = {
    "arm": "variant of the experiment",
    "as_of": "day up to whose end records were used; nothing later",
    "assignment_id": "id of the assignment",
    "body": "the whole report, by name",
    "course_id": "id of the course",
    "day": "calendar day",
    "degraded": "what stood in for something better, and why",
    "ends_on": "last day",
    "experiment_id": "id of the experiment",
    "model_name": "name of the model",
    "model_version": "version of the model",
    "place": "place, or id of the course, for which the value holds",
    "section_id": "id of the section",
    "source": "name of the external source",
    "starts_on": "first day",
    "student_id": "id of the student, as the source gives it",
    "term_id": "id of the term",
}


def description(column: sa.Column[object]) -> str:
    """Return the description of `column`, empty if there is none."""
    return column.comment or _EVERYWHERE.get(column.name, "")
