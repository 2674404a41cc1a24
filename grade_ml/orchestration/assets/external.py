"""The group `external`: data about the surroundings of the students, day by day.

The eight sources are one step, which queries them in parallel, so that a slow source delays no
other. A source that fails is degraded, not failed: its asset shows the last good values and their
age.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

from dagster import (
    AssetCheckKey,
    AssetCheckResult,
    AssetCheckSeverity,
    AssetCheckSpec,
    AssetExecutionContext,
    AssetKey,
    AssetsDefinition,
    AssetSpec,
    DataVersion,
    MaterializeResult,
    MetadataValue,
    ResourceParam,
    asset,
    multi_asset,
)

from grade_ml.external.catalog import facts, sources
from grade_ml.external.protocol import COURSE_PLACE, About, Series, Window
from grade_ml.external.settings import ExternalSettings
from grade_ml.orchestration import plots
from grade_ml.orchestration.partitions import all_days, days, keys_of, require_days
from grade_ml.orchestration.reporting.entries import entries
from grade_ml.orchestration.resources import Platform
from grade_ml.orchestration.steps import step

if TYPE_CHECKING:
    import pandas as pd

    from grade_ml.external.course_difficulty import Records
    from grade_ml.external.store import Collection

SHOWN_DAYS = 90
SHOWN_SERIES = 6
CHECK = "collected"
OWNERS = ["team:data-engineering"]
#: The description of each source, besides its provider's terms.
DESCRIPTIONS = {
    "weather": "Temperature, precipitation and sunshine of each day.",
    "economic_indicators": "Unemployment and inflation of the country, as published by then.",
    "academic_calendar": "Days to the next exam period, term and holiday; deadlines ahead.",
    "social_sentiment": "Number, mood and spread of mood of posts about the subjects set.",
    "course_difficulty": "The difficulty of each course, adjusted for its students.",
    "job_market": "Monthly figures of the job market, as published by then.",
    "campus_events": "Number of events on the campus, on the day and within a week.",
    "industry_trends": "Interest in fields of work: views of their articles.",
}
_DEPS = {"course_difficulty": ["sections", "enrollments", "assignments", "results"]}


def external_assets(timezone: str, settings: ExternalSettings) -> list[AssetsDefinition]:
    """Return the nine assets; their days are those of `timezone`."""
    about_all = facts(settings)
    partitions = days(timezone)

    @multi_asset(
        name="external_sources",
        specs=[_spec(about, settings) for about in about_all],
        check_specs=[
            AssetCheckSpec(
                CHECK,
                asset=about.name,
                description="The source answered; an error if it has not for "
                f"{about.freshness.days} days.",
            )
            for about in about_all
        ],
        can_subset=True,
        partitions_def=partitions,
        backfill_policy=all_days,
    )
    @step
    def external_sources(
        context: AssetExecutionContext, platform: ResourceParam[Platform]
    ) -> Iterator[MaterializeResult[None]]:
        """Query the sources in parallel and store their answers."""
        chosen = [
            about for about in about_all if AssetKey(about.name) in context.selected_asset_keys
        ]
        window = _window(context, platform)
        collections = _collect(platform, settings, chosen, window)
        for about in chosen:
            done = collections[about.name]
            context.add_asset_metadata(
                entries(_report(platform, settings, about, done)), about.name, str(window.last)
            )
            check = _check(platform, about, done)
            is_selected = AssetCheckKey(AssetKey(about.name), CHECK) in (
                context.selected_asset_check_keys
            )
            yield MaterializeResult(
                asset_key=about.name, check_results=[check] if is_selected else None
            )

    @asset(
        group_name="external",
        deps=[about.name for about in about_all],
        partitions_def=partitions,
        backfill_policy=all_days,
        kinds={"postgres"},
        owners=OWNERS,
        code_version="1",
        metadata={"dagster/table_name": "external.feature"},
    )
    @step
    def external_features(
        context: AssetExecutionContext, platform: ResourceParam[Platform]
    ) -> MaterializeResult[None]:
        """Store what was known on each day at each place: value, age, status and reason."""
        from grade_ml.external import features

        window = _window(context, platform)
        with platform.connection() as connection:
            features.refresh(connection, about_all, window, settings.place, platform.now)
            digests = features.digests(connection, window)
            shown = features.coverage(connection, _shown(window.last))
        for day, (rows, available, digest) in digests.items():
            figures = {"dagster/row_count": rows, "available": available, "digest": digest}
            context.add_asset_metadata(entries(figures), partition_key=str(day))
        coverage = {f"coverage_{SHOWN_DAYS}_days": plots.table(list(map(asdict, shown)))}
        context.add_asset_metadata(entries(coverage), partition_key=str(window.last))
        return MaterializeResult(data_version=DataVersion(digests[window.last][2]))

    return [external_sources, external_features]


def _spec(about: About, settings: ExternalSettings) -> AssetSpec:
    provider = f"{about.title}. Terms: {about.terms}"
    is_simulated = settings.providers_url is not None and about.name not in _DEPS
    made_up = f"**Simulated**: made up by the demo, in the form of {provider}"
    return AssetSpec(
        about.name,
        group_name="external",
        description=f"{DESCRIPTIONS[about.name]} "
        + (made_up if is_simulated else f"Provider: {provider}"),
        deps=_DEPS.get(about.name, []),
        kinds={"postgres"} if about.name in _DEPS else {"http", "postgres"},
        owners=OWNERS,
        code_version="1",
        metadata={"dagster/table_name": "external.observation"},
    )


def _window(context: AssetExecutionContext, platform: Platform) -> Window:
    keys = keys_of(context, lambda named: require_days(named, platform.as_of))
    return Window(date.fromisoformat(keys[0]), date.fromisoformat(keys[-1]))


def _shown(last: date) -> Window:
    return Window(last - timedelta(days=SHOWN_DAYS - 1), last)


def _collect(
    platform: Platform, settings: ExternalSettings, chosen: list[About], window: Window
) -> "dict[str, Collection]":
    from grade_ml.external.client import Client, Manners
    from grade_ml.external.collect import collect

    names = {about.name for about in chosen}
    records = _records(platform) if "course_difficulty" in names else None
    requested = [source for source in sources(settings, records) if source.about.name in names]
    with Client(platform.engine, platform.now, platform.clock, Manners(settings.contact)) as client:
        return collect(platform.engine, client, requested, window, settings.place)


def _records(platform: Platform) -> "Records":
    from grade_ml.external.course_difficulty import Records
    from grade_ml.gradebook import frames, schema

    tables = schema.section, schema.enrollment, schema.assignment, schema.result
    with platform.connection() as connection:
        return Records(*(frames.read_table(connection, table) for table in tables))


def _check(platform: Platform, about: About, done: "Collection") -> AssetCheckResult:
    from grade_ml.external.store import last_good

    with platform.connection() as connection:
        good = last_good(connection, about.name)
    age = None if good is None else platform.now - good
    is_stale = age is not None and age > about.freshness
    return AssetCheckResult(
        asset_key=about.name,
        check_name=CHECK,
        passed=done.problem is None,
        severity=AssetCheckSeverity.ERROR if is_stale else AssetCheckSeverity.WARN,
        metadata={
            **({} if age is None else {"last_good_age_hours": age.total_seconds() / 3600}),
            **({} if done.problem is None else {"problem": done.problem}),
        },
    )


def _report(
    platform: Platform, settings: ExternalSettings, about: About, done: "Collection"
) -> dict[str, Any]:
    from grade_ml.external import features

    with platform.connection() as connection:
        shown = features.known(
            connection, [about], _shown(done.window.last), settings.place, platform.now
        )
    return {
        "dagster/row_count": done.rows_new,
        "requests": done.requests,
        "degraded": [] if done.problem is None else [done.problem],
        "simulated": settings.providers_url is not None,
        "newest_values": _newest_values(about, shown, done.window.last),
        "last_90_days": plots.timelines(
            f"{about.title}, last {SHOWN_DAYS} days", _timelines(about, shown)
        ),
    }


def _newest_values(about: About, shown: "pd.DataFrame", day: date) -> MetadataValue:
    """Return the values of a day; for a source about courses, a row for each of some courses."""
    newest = shown[shown["day"] == day]
    series = {f"{about.name}_{member.name}": member for member in about.series}
    if newest["place"].nunique() > 1:
        return plots.table(_by_course(series, newest)[: plots.ROWS])
    return plots.table(
        [
            {
                "value_of": _words(series[row["feature"]].name),
                "value": row["value"],
                "unit": series[row["feature"]].unit,
                "age_hours": row["age_hours"],
                "status": row["status"],
                "reason": row["reason"],
            }
            for row in newest.to_dict("records")
        ]
    )


def _by_course(series: "Mapping[str, Series]", newest: "pd.DataFrame") -> list[dict[str, Any]]:
    """Return one row for each course, those with the highest value of the first series first."""
    wide = newest.pivot(index="place", columns="feature", values="value")
    wide = wide.sort_values(next(iter(series)), ascending=False)
    return [
        {
            "course": str(place).removeprefix(COURSE_PLACE),
            **{
                f"{_words(member.name)} ({member.unit})": values[feature]
                for feature, member in series.items()
                if feature in values
            },
        }
        for place, values in zip(wide.index, wide.to_dict("records"), strict=True)
    ]


def _words(name: str) -> str:
    return name.replace("_", " ")


def _timelines(
    about: About, shown: "pd.DataFrame"
) -> dict[str, list[tuple[date, float | None, bool]]]:
    """Return the points of some series; for a source about courses, the first series of some."""
    if shown["place"].nunique() > 1:
        shown = shown[shown["feature"] == f"{about.name}_{about.series[0].name}"]
    titles = {
        f"{about.name}_{series.name}": f"{series.name.replace('_', ' ')} ({series.unit})"
        for series in about.series
    }
    points: dict[str, list[tuple[date, float | None, bool]]] = {}
    for row in shown.to_dict("records"):
        _, course, course_id = str(row["place"]).rpartition(COURSE_PLACE)
        title = f"{course_id}: {titles[row['feature']]}" if course else titles[row["feature"]]
        points.setdefault(title, []).append((row["day"], row["value"], row["status"] == "observed"))
    return dict(list(points.items())[:SHOWN_SERIES])
