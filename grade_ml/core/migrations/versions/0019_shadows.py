"""Shadow predictions in a table of their own; what remains is what was served."""

from alembic import op

revision = "0019"
down_revision = "0018"

STATEMENTS = """
create table ensemble.shadow_prediction (
    section_id text,
    student_id text,
    as_of date,
    model_name text,
    model_version integer,
    grade double precision,
    lower80 double precision,
    upper80 double precision,
    lower95 double precision,
    upper95 double precision,
    risk double precision,
    implied double precision,
    primary key (section_id, student_id, as_of, model_name, model_version),
    constraint grade_in_range check (grade between 0 and 100),
    constraint risk_in_range check (risk between 0 and 1),
    constraint implied_in_range check (implied between 0 and 100)
);
insert into ensemble.shadow_prediction
select section_id, student_id, as_of, model_name, model_version,
    grade, lower80, upper80, lower95, upper95, risk, null
from ensemble.grade_prediction where stage = 'challenger';
delete from ensemble.grade_prediction where stage = 'challenger';
alter table ensemble.grade_prediction drop constraint grade_prediction_pkey;
alter table ensemble.grade_prediction drop constraint stage_known;
alter table ensemble.grade_prediction drop column stage;
alter table ensemble.grade_prediction add primary key (section_id, student_id, as_of);
"""


def upgrade() -> None:
    """Move the challengers' rows."""
    op.execute(STATEMENTS)
