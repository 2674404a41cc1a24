"""A small school as OneRoster CSV and as CSV of the gradebook, for tests of deliveries."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

CSV = {
    "students": "student_id\ns1\ns2\n",
    "terms": "term_id,starts_on,ends_on\nt,2024-09-01,2024-12-20\n",
    "courses": "course_id\nc\n",
    "sections": "section_id,course_id,term_id,starts_on,ends_on\nk,c,t,2024-09-01,2024-12-20\n",
    "enrollments": "section_id,student_id,enrolled_on\nk,s1,2024-09-01\nk,s2,2024-09-01\n",
    "assignments": "assignment_id,section_id,category,due_on,weight,max_score\n"
    "l1,k,Homework,2024-10-01,1,10\n",
    "results": "assignment_id,student_id,score,submitted_on,graded_on\n"
    "l1,s1,80,2024-09-30,2024-10-05\n",
}
MANIFEST = (
    "propertyName,value\nmanifest.version,1.0\noneroster.version,1.1\nsource.systemName,sis\n"
)


def school(score: float = 8, modified: str = "2024-10-05T08:00:00Z") -> dict[str, str]:
    """Return the CSV files of a OneRoster bulk with one result, last modified at `modified`."""
    seen = f",active,{modified},"
    files = {
        "academicSessions": "title,type,startDate,endDate,parentSourcedId,schoolYear\n"
        f"t{seen}Autumn,term,2024-09-01,2024-12-20,,2025\n",
        "courses": f"title,courseCode,orgSourcedId,subjects\nc{seen}Logic,L,o,Logic\n",
        "classes": "title,courseSourcedId,classType,schoolSourcedId,termSourcedIds\n"
        f"k{seen}Logic A,c,scheduled,o,t\n",
        "users": "enabledUser,orgSourcedIds,role,username,givenName,familyName\n"
        f"s1{seen}true,o,student,a,A,A\ns2{seen}true,o,student,b,B,B\n",
        "enrollments": "classSourcedId,schoolSourcedId,userSourcedId,role,primary,beginDate,"
        "endDate\n"
        f"e1{seen}k,o,s1,student,false,2024-09-01,2024-12-20\n"
        f"e2{seen}k,o,s2,student,false,2024-09-01,2024-12-20\n",
        "categories": f"title\nh{seen}Homework\n",
        "lineItems": "title,assignDate,dueDate,classSourcedId,categorySourcedId,"
        "gradingPeriodSourcedId,resultValueMin,resultValueMax\n"
        f"l1{seen}Sheet 1,2024-09-02,2024-10-01,k,h,t,0,10\n",
        "results": "lineItemSourcedId,studentSourcedId,scoreStatus,score,scoreDate,comment\n"
        f"r1{seen}l1,s1,fully graded,{score},2024-10-05,\n",
    }
    return {name: f"sourcedId,status,dateLastModified,{text}" for name, text in files.items()}


def write_folder(folder: Path, files: Mapping[str, str], mode: str = "") -> Path:
    """Write files; with a `mode` (bulk, delta) also the manifest of OneRoster."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / f"{name}.csv").write_text(text)
    if mode:
        announced = "".join(f"file.{name},{mode}\n" for name in files)
        (folder / "manifest.csv").write_text(MANIFEST + announced)
    return folder


def write_zip(path: Path, files: Mapping[str, str], mode: str = "bulk") -> Path:
    """Write a OneRoster zip file."""
    announced = "".join(f"file.{name},{mode}\n" for name in files)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("manifest.csv", MANIFEST + announced)
        for name, text in files.items():
            archive.writestr(f"{name}.csv", text)
    return path
