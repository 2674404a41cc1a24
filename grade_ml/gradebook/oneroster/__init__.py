"""OneRoster 1.1 and 1.2 CSV (1EdTech), a zip file or a folder, bulk or delta, as a bundle.

How the terms meet: class = section, lineItem = assignment, academicSession = term, category title =
category. OneRoster names a score's date, not a submission's: that date serves for both. Names,
addresses and other columns of people that no prediction needs are not read.

Every row of the source is remembered by its `sourcedId` (`tables`, `mirror`), and the gradebook's
rows follow from all that is remembered (`deriving`): so the order and the number of the source's
deliveries do not matter.
"""

from __future__ import annotations

from datetime import date
from pathlib import Path

from grade_ml.core.settings import VANISHING_SHARE
from grade_ml.gradebook.bundle import Bundle, Origin, Repeats
from grade_ml.gradebook.institution import Institution
from grade_ml.gradebook.oneroster import files
from grade_ml.gradebook.oneroster.delivery import Delivery

_ORIGINS = {
    "term": Origin(
        "academicSessions.csv",
        {"term_id": "sourcedId", "starts_on": "startDate", "ends_on": "endDate"},
    ),
    "course": Origin("courses.csv", {"course_id": "sourcedId"}),
    "section": Origin(
        "classes.csv",
        {"section_id": "sourcedId", "course_id": "courseSourcedId", "term_id": "termSourcedIds"},
    ),
    "student": Origin("users.csv", {"student_id": "sourcedId"}),
    "enrollment": Origin(
        "enrollments.csv",
        {
            "section_id": "classSourcedId",
            "student_id": "userSourcedId",
            "enrolled_on": "beginDate",
            "withdrawn_on": "endDate",
        },
    ),
    "assignment": Origin(
        "lineItems.csv",
        {
            "assignment_id": "sourcedId",
            "section_id": "classSourcedId",
            "due_on": "dueDate",
            "max_score": "resultValueMax",
            "weight": "metadata.weight",
        },
    ),
    "result": Origin(
        "results.csv",
        {
            "assignment_id": "lineItemSourcedId",
            "student_id": "studentSourcedId",
            "submitted_on": "scoreDate",
            "graded_on": "scoreDate",
        },
        Repeats.LATEST,
    ),
}


def bundle(
    path: Path,
    delivered_on: date,
    institution: Institution,
    *,
    vanishing_share: float = VANISHING_SHARE,
) -> Bundle:
    """Return a OneRoster delivery as a bundle.

    `manifest.csv` states for each file whether it is bulk (all rows), delta (changed rows, with
    `status` active or tobedeleted) or absent. Rows marked tobedeleted are removed by a delta and
    left out of a bulk file. Enrollments that a bulk file no longer names end on the day of the
    delivery, its line items and results are withdrawn (see `vanishing`).

    Parameters
    ----------
    path
        A folder or a zip file.
    delivered_on
        The day whose state of the source the delivery describes.
    institution
        Its texts are the scores that no scale of the source explains.
    vanishing_share
        More than this share of what a bulk file should name may not be missing from it, 0-1.

    Raises
    ------
    SourceError
        `path` is neither a folder nor a zip file that can be trusted, two files have one name, the
        manifest is missing or of another version, or it and the files do not go together.
    """
    members = files.find(path)
    manifest = files.read_manifest(members)
    return Bundle(
        "oneroster",
        _ORIGINS,
        lambda connection: Delivery(
            connection, members, manifest, delivered_on, institution.per_cent, vanishing_share
        ).batches(),
        delivered_on,
    )
