"""Transitions in the place of promotions: every change of a version's stage, with its evidence."""

from alembic import op

revision = "0015"
down_revision = "0014"

STATEMENTS = """
create table registry.transition (
    id bigint generated always as identity primary key,
    model_name text not null,
    version integer not null,
    from_stage text not null,
    to_stage text not null,
    replaced integer,
    decided_at timestamptz not null,
    reason text not null,
    figures jsonb not null,
    confirmed_at timestamptz,
    constraint stage_known check (
        to_stage in ('candidate', 'challenger', 'champion', 'retired', 'rolled back')
    )
);
create index transition_by_version on registry.transition (model_name, version, id);
create index transition_begun on registry.transition (model_name) where confirmed_at is null;

insert into registry.transition
    (model_name, version, from_stage, to_stage, replaced, decided_at, reason, figures, confirmed_at)
select model_name, version, from_stage, to_stage, replaced, decided_at, reason, figures, decided_at
from (
    select id, 1 as place, model_name, to_version as version, 'challenger' as from_stage,
        'champion' as to_stage, from_version as replaced, decided_at, reason,
        jsonb_strip_nulls(jsonb_build_object(
            'improvement', nullif(improvement, 'NaN'), 'low', nullif(low, 'NaN'),
            'high', nullif(high, 'NaN'),
            'rows', row_count, 'students', student_count
        )) as figures
    from registry.promotion
    union all
    select id, 2, model_name, from_version, 'champion', 'retired', null, decided_at,
        format('version %s became champion in its place', to_version), '{}'
    from registry.promotion where from_version is not null and from_version <> to_version
) known
order by id, place;
drop table registry.promotion;
"""


def upgrade() -> None:
    """Write each promotion as two transitions: of the new champion, and of the one before."""
    op.execute(STATEMENTS)
