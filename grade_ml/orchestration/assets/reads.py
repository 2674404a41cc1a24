"""The dependencies that several assets share, by the names of the assets.

`test_lineage` compares every list of dependencies with what is read.
"""

from dagster import AllPartitionMapping, AssetDep

#: The tables from which outcomes are decided.
OUTCOMES = ["terms", "courses", "sections", "enrollments", "assignments", "results"]
#: The tables of `gradebook.frames.read`.
RECORDS = ["students", *OUTCOMES, "activity"]
#: The models, of which one serves a course, and what they may read besides the features.
SERVED = ["baseline_model", "pooled_ensemble", "course_ensemble"]
SURROUNDINGS = [
    # Without a mapping, a backfill by course would look for days with the names of courses.
    AssetDep("external_features", partition_mapping=AllPartitionMapping())
]
