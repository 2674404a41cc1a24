"""Lists all tables of the `grade_ml` database, for code that applies each table's policy."""

from __future__ import annotations

import sqlalchemy as sa


def every_table() -> list[sa.Table]:
    """Return the tables of all packages, in order of name."""
    from grade_ml.alerts import conditions, outbox
    from grade_ml.early_warning import tables as early_warning
    from grade_ml.experiments import store as experiments
    from grade_ml.explanations import tables as explanations
    from grade_ml.external import tables as external
    from grade_ml.forecasting import tables as forecasting
    from grade_ml.gradebook import schema as gradebook
    from grade_ml.gradebook.oneroster import tables as oneroster
    from grade_ml.maintenance import history, libraries, results, usage
    from grade_ml.monitoring import store as monitoring
    from grade_ml.registry import history as registry
    from grade_ml.serving import predictions
    from grade_ml.training import course, requests

    owners = (
        *(conditions, outbox, early_warning, experiments, explanations, external, forecasting),
        *(
            gradebook,
            oneroster,
            monitoring,
            registry,
            predictions,
            course,
            requests,
            history,
            libraries,
            results,
            usage,
        ),
    )
    declared = {id(owner.metadata): owner.metadata for owner in owners}.values()
    tables = (table for metadata in declared for table in metadata.tables.values())
    return sorted(tables, key=lambda table: table.fullname)
