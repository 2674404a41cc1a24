"""The schema `published`: views that others may rely on, and the role that sees nothing else.

The definitions are the contract. `database.migrate` brings a database to them after its migrations,
`docs/published.md` and the comments in the database are made of them. Columns are added at the end,
never renamed or removed; a change of a column's meaning raises the view's version. Like migrations,
the queries name the tables of all packages.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date

from sqlalchemy import Connection, text

from grade_ml.core.hashing import checksum

logger = logging.getLogger(__name__)

SCHEMA = "published"


@dataclass(frozen=True)
class Column:
    """A column of a view: its type in PostgreSQL's words, and unit and meaning."""

    name: str
    type: str
    description: str


@dataclass(frozen=True)
class View:
    """A view that others may rely on.

    Attributes
    ----------
    description
        What a row is.
    columns
        In the order of `query`, which selects them under these names and with these types.
    version, since
        Of the meaning of its columns, and the day of that version.
    """

    name: str
    description: str
    columns: tuple[Column, ...]
    query: str
    version: int = 1
    since: date = date(2026, 11, 30)

    @property
    def fullname(self) -> str:
        """The name with its schema."""
        return f"{SCHEMA}.{self.name}"


def _columns(*described: str) -> tuple[Column, ...]:
    """Return columns of lines such as `risk: double precision: probability of …`."""
    return tuple(Column(*map(str.strip, line.split(":", 2))) for line in described)


_ENROLLMENT = (
    "course_id: text: the course",
    "section_id: text: the section; with student_id the key of an enrollment",
    "student_id: text: the student, as the gradebook names him or her",
)
_MODEL = (
    "model_name: text: the model that predicted",
    "model_version: integer: the version of that model in the registry",
)
_DEGRADED = "degraded: text: why it is less than it could be, reasons with '; ' between; empty: not"

#: Enrollments that are open in a section that runs on the newest day that was computed. The clock
#: is not used: an installation may be set to another day (GRADE_ML_AS_OF), of which later
#: withdrawals are on record and not to be seen.
_RUNNING = """(
    select section.course_id, section.section_id, enrollment.student_id, section.starts_on
    from (select greatest(
        (select max(as_of) from ensemble.grade_prediction),
        (select max(as_of) from forecasts.course_run)
    ) as day) as today
    join gradebook.section on today.day between section.starts_on and section.ends_on
    join gradebook.enrollment using (section_id)
    where coalesce(enrollment.enrolled_on, section.starts_on) <= today.day
    and coalesce(enrollment.withdrawn_on > today.day, true)
) as running"""
#: The newest forecasts of a course; a day without any forecast replaces the days before it.
_NEWEST_RUN = """lateral (
    select as_of, model_version, degraded from forecasts.course_run
    where course_run.course_id = running.course_id order by as_of desc limit 1
) as newest"""


def _listed(reasons: str) -> str:
    return f"array_to_string(array(select jsonb_array_elements_text({reasons})), '; ')"


_CURRENT_PREDICTIONS = View(
    "current_predictions",
    "The newest prediction that was served of each running enrollment.",
    _columns(
        *_ENROLLMENT,
        "as_of: date: the day whose records were known to the prediction",
        "grade: double precision: expected final grade, 0-100",
        "lower80: double precision: with 80% confidence the grade lies above, 0-100",
        "upper80: double precision: with 80% confidence the grade lies below, 0-100",
        "lower95: double precision: with 95% confidence the grade lies above, 0-100",
        "upper95: double precision: with 95% confidence the grade lies below, 0-100",
        "risk: double precision: probability of failing or withdrawing, 0-1",
        "naive: double precision: the rate of points collected so far, 0-100",
        "level: text: course ensemble, pooled ensemble or baseline",
        *_MODEL,
        _DEGRADED,
    ),
    f"""
    select running.course_id, running.section_id, running.student_id, newest.as_of,
        newest.grade, newest.lower80, newest.upper80, newest.lower95, newest.upper95,
        newest.risk, newest.naive,
        case newest.model_name when 'baseline' then 'baseline' when 'pooled' then 'pooled ensemble'
            else 'course ensemble' end as level,
        newest.model_name, newest.model_version, {_listed("newest.degraded")} as degraded
    from {_RUNNING}
    cross join lateral (
        select * from ensemble.grade_prediction as one
        where one.section_id = running.section_id and one.student_id = running.student_id
        order by one.as_of desc limit 1
    ) as newest
    """,
)

_INTERVENTIONS = View(
    "interventions",
    "What the newest plan has for running enrollments: what is to be done, and what is left out. "
    "Where an experiment withholds something, left_out names it.",
    _columns(
        *_ENROLLMENT,
        "as_of: date: the day of the plan",
        "rank: bigint: among the student's, 1 first",
        "action: text: what may be done",
        "owner: text: whose task it is: tutor, adviser, …",
        "evidence: text: the study it rests on, or that none is known",
        "driver: text: what goes along with the risk; no cause",
        "timing: text: now or later",
        "severity: double precision: highest chance in the risk period, 0-1",
        "start_week: bigint: week of the section with which the risk period begins, 1 the first",
        "planned_on: date: the day on which it was planned; null: left out",
        "left_out: text: why it is not planned; empty: it is",
    ),
    f"""
    select running.course_id, running.section_id, running.student_id, one.as_of, one.rank,
        one.action, one.owner, one.evidence, one.driver, one.timing, one.severity, one.start_week,
        one.planned_on, one.left_out
    from {_RUNNING}
    cross join {_NEWEST_RUN}
    join forecasts.intervention as one on one.section_id = running.section_id
        and one.as_of = newest.as_of and one.student_id = running.student_id
    """,
)

_RISK_LIST = View(
    "risk_list",
    "Running enrollments that are likelier than not to fail, to withdraw or to have a bad week: "
    "with a risk of 0.5 or more, or with a risk period ahead.",
    _columns(
        *_ENROLLMENT,
        "rank: bigint: by risk or severity, whichever is larger, within the section; 1 first",
        "as_of: date: the day whose records were known to the prediction; null: there is none",
        "grade: double precision: expected final grade, 0-100",
        "risk: double precision: probability of failing or withdrawing, 0-1",
        "forecast_on: date: the day of the forecast with the risk period; null: there is none",
        "start_week: bigint: first week of the gravest risk period, 1 the section's first",
        "end_week: bigint: last week of that period",
        "starts_on: date: first day of that period",
        "severity: double precision: highest chance in that period of a grade below the pass mark "
        "or of missed work, 0-1",
        "driver: text: what goes along with that period; no cause",
        "planned_on: date: since when something is planned for the student this week",
    ),
    f"""
    select running.course_id, running.section_id, running.student_id,
        rank() over (
            partition by running.course_id, running.section_id
            order by greatest(predicted.risk, period.severity) desc
        ) as rank,
        predicted.as_of, predicted.grade, predicted.risk, period.as_of as forecast_on,
        period.start_week, period.end_week, period.starts_on, period.severity, period.driver,
        (
            select min(one.planned_on) from forecasts.intervention as one
            where one.section_id = running.section_id and one.as_of = newest.as_of
            and one.student_id = running.student_id
        ) as planned_on
    from {_RUNNING}
    left join lateral (
        select one.as_of, one.grade, one.risk from ensemble.grade_prediction as one
        where one.section_id = running.section_id and one.student_id = running.student_id
        order by one.as_of desc limit 1
    ) as predicted on true
    left join {_NEWEST_RUN} on true
    left join lateral (
        select * from forecasts.risk_period as one
        where one.section_id = running.section_id and one.as_of = newest.as_of
        and one.student_id = running.student_id
        order by one.severity desc, one.start_week limit 1
    ) as period on true
    where predicted.risk >= 0.5 or period.severity is not null
    """,
)

_FORECASTS = View(
    "forecasts",
    "The newest forecast of each assignment that a running enrollment has ahead.",
    _columns(
        *_ENROLLMENT,
        "assignment_id: text: the assignment",
        "as_of: date: the day whose records were known to the forecast",
        "horizon: bigint: 1 the next to be due, 2 the one after it, …",
        "due_on: date: the day on which it is due",
        "weight: double precision: its share of the final grade, 0-100",
        "mean: double precision: expected score, 0-100; a missed one counts 0",
        "median: double precision: half of the scores lie below, 0-100",
        "submit_probability: double precision: chance that it is handed in, 0-1",
        "low80: double precision: the middle 80% of the scores lie above, 0-100",
        "high80: double precision: the middle 80% of the scores lie below, 0-100",
        "low95: double precision: the middle 95% of the scores lie above, 0-100",
        "high95: double precision: the middle 95% of the scores lie below, 0-100",
        "method: text: the forecaster that counts most",
        "model_version: integer: the version of the trajectory model",
        _DEGRADED,
    ),
    f"""
    select running.course_id, running.section_id, running.student_id, one.assignment_id, one.as_of,
        one.horizon, running.starts_on + trunc(one.due_day)::integer as due_on, one.weight,
        one.mean, one.median, one.submit_probability, one.low80, one.high80, one.low95, one.high95,
        one.method, newest.model_version, {_listed("newest.degraded")} as degraded
    from {_RUNNING}
    cross join {_NEWEST_RUN}
    join forecasts.assignment_forecast as one on one.section_id = running.section_id
        and one.as_of = newest.as_of and one.student_id = running.student_id
    """,
)

_EXPLANATIONS = View(
    "explanations",
    "The explanation of a current prediction: baseline + contributions + remainders = the "
    "number. A prediction without a row is not explained yet.",
    _columns(
        *_ENROLLMENT,
        "as_of: date: the day of the prediction",
        *_MODEL,
        "grade: double precision: the predicted final grade, 0-100",
        "grade_baseline: double precision: the number that contributions are added to, points",
        "grade_contributions: jsonb: feature -> points that its value adds or takes; absent: 0",
        "grade_remainders: jsonb: what is no feature's -> points",
        "risk: double precision: the predicted probability of failing or withdrawing, 0-1",
        "risk_log_odds: double precision: the same as log-odds, in which contributions add up",
        "risk_baseline: double precision: the number that contributions are added to, log-odds",
        "risk_contributions: jsonb: feature -> log-odds that its value adds or takes; absent: 0",
        "risk_remainders: jsonb: what is no feature's -> log-odds",
        "feature_values: jsonb: feature -> its value; unknown values are left out",
        "narratives: jsonb: reader (student, adviser, analyst) -> language (en, de) -> text; "
        "null: there is none",
        _DEGRADED,
    ),
    f"""
    select told.course_id, told.section_id, told.student_id, told.as_of, told.model_name,
        told.model_version, told.grade, (one.grade ->> 'baseline')::double precision,
        one.grade -> 'contributions', one.grade -> 'remainders', told.risk,
        (one.risk ->> 'predicted')::double precision, (one.risk ->> 'baseline')::double precision,
        one.risk -> 'contributions', one.risk -> 'remainders', one.feature_values,
        case when advice.body -> 'problems' = '[]' then advice.body -> 'texts' end,
        {_listed("one.degraded")}
    from published.current_predictions as told
    join explanations.attribution as one
        using (section_id, student_id, as_of, model_name, model_version)
    left join explanations.advice on advice.section_id = one.section_id
        and advice.student_id = one.student_id and advice.as_of = one.as_of
        and advice.kind = 'narrative' and advice.model_name = one.model_name
        and advice.model_version = one.model_version and advice.features_hash = one.features_hash
    -- As the engine does: what explains another number is no explanation. Beyond 700, exp() fails.
    where coalesce(
        abs((one.grade ->> 'predicted')::double precision - told.grade) < 1e-6,
        one.grade is null and told.grade is null
    )
    and abs(1 / (1 + exp(
        -greatest(-700, least(700, (one.risk ->> 'predicted')::double precision))
    )) - told.risk) < 1e-6
    """,
)

_NARRATIVES = View(
    "narratives",
    "The explanation of a current prediction in sentences, one row for each reader and language.",
    _columns(
        *_ENROLLMENT,
        "as_of: date: the day of the prediction",
        "reader: text: student, adviser or analyst",
        "language: text: en or de",
        "narrative: text: plain text; what looks like markup in it is text",
    ),
    """
    select told.course_id, told.section_id, told.student_id, told.as_of, readers.key, texts.key,
        texts.value
    from published.explanations as told
    cross join lateral jsonb_each(told.narratives) as readers
    cross join lateral jsonb_each_text(readers.value) as texts
    """,
)

_PARTS = {
    "performance": "errors of predictions",
    "calibration": "whether a probability is one",
    "drift": "whether features are as in training",
    "quality": "quality of the data",
    "freshness": "age of the predictions",
    "serving": "whether everybody is predicted, by the model that should",
}
_MODEL_HEALTH = View(
    "model_health",
    "The newest judgement of the model that serves a course.",
    _columns(
        "course_id: text: the course",
        "as_of: date: the day of the judgement",
        "score: double precision: 0-100, 100 the best; null: nothing can be judged",
        "needs_attention: boolean: whether the model needs attention",
        "worst: text: the part that costs most points; empty: no part does",
        *(
            f"{name}: double precision: {meaning}, points 0-100; null: cannot be judged"
            for name, meaning in _PARTS.items()
        ),
        "train_again: boolean: whether the model should be trained again",
        "train_again_reason: text: why it should, or should not",
    ),
    f"""
    select course.course_id, newest.as_of, (newest.body ->> 'score')::double precision,
        (newest.body ->> 'needs')::boolean, newest.body ->> 'worst',
        {", ".join(f"(newest.body #>> '{{parts,{n},points}}')::double precision" for n in _PARTS)},
        (newest.body #>> '{{decision,retrain}}')::boolean,
        newest.body #>> '{{decision,reason}}'
    from gradebook.course
    cross join lateral (
        select as_of, body from monitoring.report
        where report.course_id = course.course_id and kind = 'health'
        order by as_of desc limit 1
    ) as newest
    """,
)

_EXPERIMENTS = View(
    "experiments",
    "Every experiment: its question, where it stands, and what its last look saw. Who is in which "
    "arm is not published.",
    _columns(
        "experiment_id: text: its name",
        "kind: text: shadow, watch, split or bandit",
        "subject: text: the name of a model, or interventions",
        "state: text: running, decided (consequences are not drawn yet) or ended",
        "hypothesis: text: what is asked",
        "metric: text: what is compared",
        "created_at: timestamp with time zone: when it was opened",
        "starts_on: date: its first day",
        "stops_on: date: its last day; null: none is set",
        "planned_labels: bigint: labels that the last look is to see; null: unknown",
        "looked_on: date: the day of the last look; null: there was none",
        "students: bigint: students with a value at that look",
        "labels: bigint: labels that it saw",
        "fraction: double precision: of the planned labels, 0-1",
        "difference: double precision: treatment minus control, units of the metric",
        "low: double precision: lower end of its interval",
        "high: double precision: upper end of its interval",
        "look: text: result of the look: continue, better, worse, no difference or blocked",
        "reason: text: the reason for that result",
        "decision: text: better, worse or no difference; null: not decided",
    ),
    """
    select one.experiment_id, one.kind, one.subject,
        case
            when 'ended' = any (happened.marks) then 'ended'
            when happened.marks is null or not happened.marks && '{decided,vetoed,forced}'
                then 'running'
            when one.kind = 'shadow' then 'decided'
            when one.kind = 'watch' and happened.decision = 'worse'
                and not 'vetoed' = any (happened.marks) then 'decided'
            else 'ended'
        end,
        one.plan ->> 'hypothesis', one.plan ->> 'metric', one.created_at,
        (one.plan ->> 'starts_on')::date, (one.plan ->> 'stops_on')::date,
        (one.plan ->> 'planned_labels')::bigint, seen.as_of, seen.units, seen.labels,
        seen.fraction, seen.difference, seen.low, seen.high, seen.decision, seen.reason,
        happened.decision
    from experiments.experiment as one
    cross join lateral (
        select array_agg(case
                when kind in ('promoted', 'rolled back', 'retired', 'stopped', 'superseded',
                    'failed') then 'ended'
                else kind
            end) as marks,
            max(decision) filter (where kind = 'decided') as decision
        from experiments.event where event.experiment_id = one.experiment_id
    ) as happened
    left join lateral (
        select * from experiments.look where look.experiment_id = one.experiment_id
        order by as_of desc, looked_at desc, labels desc limit 1
    ) as seen on true
    """,
)


def _total(kind: str) -> str:
    counts = f"jsonb_each_text(load.rows_{kind})"
    return f"(select coalesce(sum(value::bigint), 0)::bigint from {counts})"


_DELIVERY_QUALITY = View(
    "delivery_quality",
    "Every load that changed something, with counts of rows over all tables.",
    _columns(
        "load_id: bigint: number of the load, rising",
        "source: text: oulad, oneroster, csv or simulated",
        "loaded_at: timestamp with time zone: when it was loaded",
        "rows_loaded: bigint: rows that were new or changed",
        "rows_unchanged: bigint: rows that contained nothing new",
        "rows_removed: bigint: rows that were deleted at the source's request",
        "rows_quarantined: bigint: rows that were not loaded",
        "courses_changed: bigint: courses whose records changed",
    ),
    f"""
    select load.id, load.source, load.loaded_at,
        {", ".join(_total(name) for name in ("loaded", "unchanged", "removed"))},
        load.rows_quarantined, jsonb_array_length(load.courses)::bigint
    from gradebook.load
    """,
)

_DELIVERY_PROBLEMS = View(
    "delivery_problems",
    "What is in quarantine, counted by source and reason. The values themselves are not published.",
    _columns(
        "source: text: oulad, oneroster, csv or simulated",
        "reason: text: why rows were not loaded, and what to do about it",
        "rows: bigint: rows with this problem",
        "seen_at: timestamp with time zone: when a delivery had one of them last",
    ),
    """
    select source, reason, count(distinct (file, "row")), max(seen_at)
    from gradebook.quarantine group by source, reason
    """,
)

_PUBLISHED = (
    *(_CURRENT_PREDICTIONS, _RISK_LIST, _INTERVENTIONS, _FORECASTS, _EXPLANATIONS, _NARRATIVES),
    *(_MODEL_HEALTH, _EXPERIMENTS, _DELIVERY_QUALITY, _DELIVERY_PROBLEMS),
)


def _contract(views: Sequence[View]) -> View:
    rows = ", ".join(f"('{view.name}', {view.version}, date '{view.since}')" for view in views)
    return View(
        "contract",
        "The version of each view.",
        _columns(
            "view: text: its name",
            "version: integer: rises when a column's meaning changes",
            "since: date: the day of that version",
        ),
        f"select * from (values {rows}) as described (view, version, since)",
    )


#: Every view, each after those that it reads.
VIEWS = (*_PUBLISHED, _contract(_PUBLISHED))


def _statements() -> Iterator[str]:
    yield f"create schema if not exists {SCHEMA}"
    for view in VIEWS:
        names = ", ".join(column.name for column in view.columns)
        # A barrier: no function of a reader sees the rows that a view leaves out.
        head = f"create or replace view {view.fullname} ({names}) with (security_barrier)"
        yield f"{head} as {view.query}"
        yield f"comment on view {view.fullname} is {_quoted(view.description)}"
        for column in view.columns:
            place = f"{view.fullname}.{column.name}"
            yield f"comment on column {place} is {_quoted(column.description)}"


def _quoted(words: str) -> str:
    return "'" + words.replace("'", "''") + "'"


_MARK = "Views for readers; see published.contract. Definitions: "
_DIGEST = _MARK + checksum("\n".join(_statements()).encode())


def renew(connection: Connection) -> None:
    """Bring the views to their definitions, and let the role of readers see them.

    Costs one query if nothing changed. If the connected role may not create roles and an
    administrator did not do it, the views have no readers, and the log states the remedy.
    """
    is_new = connection.execute(text(_IS_CURRENT), {"digest": _DIGEST}).scalar() is not True
    if is_new:
        for statement in (*_statements(), f"comment on schema {SCHEMA} is {_quoted(_DIGEST)}"):
            _run(connection, statement)
    state = readers(connection)
    if state.can_read:
        return
    if state.exists or state.may_be_made:
        for statement in state.remedy:
            _run(connection, statement)
    elif is_new:
        logger.warning(
            "Only this user can read the schema %s: its role may not create the role %s. "
            "As an administrator of the server, run in this database: %s",
            *(SCHEMA, state.role, "; ".join(state.remedy)),
        )


def _run(connection: Connection, statement: str) -> None:
    """Execute a statement without parameters; `:` and `%` have no special meaning in it."""
    connection.exec_driver_sql(statement.replace("%", "%%"))


_IS_CURRENT = f"select obj_description(to_regnamespace('{SCHEMA}'), 'pg_namespace') = :digest"


@dataclass(frozen=True)
class Readers:
    """The role that sees the published views and nothing else; people's roles are members of it.

    Roles are those of a whole server: the name has that of the database, so that readers of one
    installation see nothing of another one on the same server.

    Attributes
    ----------
    exists, can_read
        Whether it is there, and whether it may read all of the views.
    may_be_made
        Whether the connected role may create it.
    """

    role: str
    exists: bool
    can_read: bool
    may_be_made: bool

    @property
    def remedy(self) -> tuple[str, ...]:
        """The statements that make of it what it should be."""
        role = '"' + self.role.replace('"', '""') + '"'
        return (
            *(() if self.exists else (f"create role {role} nologin",)),
            f"grant usage on schema {SCHEMA} to {role}",
            f"grant select on all tables in schema {SCHEMA} to {role}",
        )


_READERS = f"""
select me.role, them.oid is not null as exists,
    coalesce(has_schema_privilege(them.oid, to_regnamespace('{SCHEMA}'), 'usage') and (
        select bool_and(has_table_privilege(them.oid, view.oid, 'select')) from pg_class as view
        where view.relnamespace = to_regnamespace('{SCHEMA}') and view.relkind = 'v'
    ), false) as can_read,
    (select rolcreaterole or rolsuper from pg_roles where rolname = current_user) as may_be_made
from (select (left(current_database(), 50) || '_reader')::name::text as role) as me
left join pg_roles as them on them.rolname = me.role
"""


def readers(connection: Connection) -> Readers:
    """Return the state of the role of readers of this database."""
    return Readers(**connection.execute(text(_READERS)).mappings().one())


def drop(connection: Connection) -> None:
    """Drop all views, for a migration that changes the type of a column under one of them.

    `renew` creates them again in the same transaction. A view of another owner that depends on them
    makes this fail, and the error names it.
    """
    names = connection.execute(text(_THERE)).scalars().all()
    if names:
        _run(connection, f"drop view {', '.join(names)}")
        _run(connection, f"comment on schema {SCHEMA} is null")


_THERE = f"""
select oid::regclass::text from pg_class
where relnamespace = to_regnamespace('{SCHEMA}') and relkind = 'v'
"""


def described(views: Iterable[View] = VIEWS) -> str:
    """Return in Markdown what each view holds."""
    return "\n".join(line for view in views for line in _described(view))


def _described(view: View) -> Iterator[str]:
    yield f"### {view.fullname}\n"
    yield f"{view.description} Version {view.version}, since {view.since}.\n"
    yield "| column | type | |\n|---|---|---|"
    for column in view.columns:
        yield f"| {column.name} | {column.type} | {column.description} |"
    yield ""
