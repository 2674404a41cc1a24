"""Grading policies, statuses and attempts of results, extra credit, and what a load changed.

Scores were unknown where a result had none: such results become submissions that wait.
"""

from alembic import op

revision = "0009"
down_revision = "0008"

STATEMENTS = """
alter table gradebook.section
    add column grading_policy text not null default 'weights' constraint section_grading_policy
        check (grading_policy in ('points', 'categories', 'weights', 'equal'));
alter table gradebook.assignment
    add column extra_credit boolean not null default false;
alter table gradebook.result
    add column status text not null default 'graded' constraint result_status
        check (status in ('graded', 'submitted', 'missing', 'exempt', 'incomplete')),
    add column late boolean,
    drop constraint result_score,
    add constraint result_score check (score between 0 and 200);
update gradebook.result set status = 'submitted' where score is null;
create table gradebook.earlier_result (
    assignment_id text references gradebook.assignment on delete cascade,
    student_id text references gradebook.student on delete cascade,
    until date,
    status text not null,
    score double precision,
    submitted_on date,
    graded_on date,
    late boolean,
    primary key (assignment_id, student_id, until)
);
alter table gradebook.load
    add column courses jsonb not null default '[]',
    add column notes jsonb not null default '[]';
"""


def upgrade() -> None:
    """Change the tables."""
    op.execute(STATEMENTS)
