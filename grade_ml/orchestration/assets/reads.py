"""What several assets read alike, by the names of the assets that make it.

`test_lineage` compares every list of dependencies with what is read.
"""

from dagster import AllPartitionMapping, AssetDep

#: The tables from which outcomes are decided.
OUTCOMES = ["terms", "courses", "sections", "enrollments", "assignments", "results"]
#: The tables of `gradebook.frames.read`.
RECORDS = ["students", *OUTCOMES, "activity"]
#: The models of which one serves a course, and what they may read beside the features.
SERVED = ["baseline_model", "pooled_ensemble", "course_ensemble"]
SURROUNDINGS = [
    # Its days are no courses: without a mapping a backfill by course looks for days of their names.
    AssetDep("external_features", partition_mapping=AllPartitionMapping())
]
