"""Asset checks of the gradebook, made by one factory from its rules (see `gradebook.quality`).

A violated serious rule stops the run before anything is computed from the table; others warn.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date

from dagster import (
    AssetCheckResult,
    AssetChecksDefinition,
    AssetCheckSeverity,
    AssetCheckSpec,
    MetadataValue,
    ResourceParam,
    multi_asset_check,
)
from sqlalchemy import Connection, Table

from grade_ml.core.texts import bullets
from grade_ml.gradebook import quality, schema
from grade_ml.orchestration.assets.gradebook import NAME_OF_TABLE
from grade_ml.orchestration.resources import Platform
from grade_ml.orchestration.steps import step


def _table_checks(table: Table) -> AssetChecksDefinition:
    name = NAME_OF_TABLE[table]
    specs = [
        AssetCheckSpec(rule.name, asset=name, description=rule.description, blocking=rule.serious)
        for rule in quality.rules(table)
    ]
    specs.append(
        AssetCheckSpec(
            "quarantine", asset=name, description="No row of the sources is in quarantine."
        )
    )
    if table is schema.result:
        specs.append(
            AssetCheckSpec(
                "freshness",
                asset=name,
                description="While sections run, the newest load is at most "
                f"{quality.MAX_LOAD_AGE_DAYS} days old.",
            )
        )
        specs.append(
            AssetCheckSpec(
                "plausible",
                asset=name,
                description="No section's grades look like a faulty delivery: all the same, "
                "unknown, far from earlier sections, or without results long after the due date.",
            )
        )

    @multi_asset_check(
        name=f"{name}_checks", specs=specs, description=f"Check the rules of the table of {name}."
    )
    @step
    def checks(platform: ResourceParam[Platform]) -> Iterator[AssetCheckResult]:
        with platform.connection() as connection:
            yield from _evaluate(connection, table)
            if table is schema.result:
                yield _freshness(connection, platform.as_of)
                yield _plausible(connection, platform)

    return checks


def _evaluate(connection: Connection, table: Table) -> Iterator[AssetCheckResult]:
    name = NAME_OF_TABLE[table]
    for rule in quality.rules(table):
        broken = quality.violations(connection, rule)
        yield AssetCheckResult(
            asset_key=name,
            check_name=rule.name,
            passed=broken == 0,
            severity=AssetCheckSeverity.ERROR if rule.serious else AssetCheckSeverity.WARN,
            metadata={"rows": broken},
        )
    reasons = quality.quarantined(connection, table)
    yield AssetCheckResult(
        asset_key=name,
        check_name="quarantine",
        passed=not reasons,
        severity=AssetCheckSeverity.WARN,
        metadata={"rows": sum(reasons.values()), "reasons": reasons},
    )


def _freshness(connection: Connection, as_of: date) -> AssetCheckResult:
    age = quality.days_since_load(connection, as_of)
    running = quality.running_sections(connection, as_of)
    return AssetCheckResult(
        asset_key=NAME_OF_TABLE[schema.result],
        check_name="freshness",
        passed=not running or (age is not None and age <= quality.MAX_LOAD_AGE_DAYS),
        severity=AssetCheckSeverity.WARN,
        metadata={"running_sections": running, **({} if age is None else {"days": age})},
    )


def _plausible(connection: Connection, platform: Platform) -> AssetCheckResult:
    from grade_ml.gradebook import plausibility

    findings = plausibility.look(connection, platform.as_of, platform.institution)
    return AssetCheckResult(
        asset_key=NAME_OF_TABLE[schema.result],
        check_name="plausible",
        passed=not findings,
        severity=AssetCheckSeverity.WARN,
        metadata={"sections": len({finding.section_id for finding in findings})}
        | ({"findings": MetadataValue.md(bullets(findings))} if findings else {}),
    )


GRADEBOOK_CHECKS = [_table_checks(table) for table in schema.TABLES]
