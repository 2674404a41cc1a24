"""What begins to be wrong is sent by each channel, after any failure on the way."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email import message_from_string
from itertools import pairwise

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import Engine

from grade_ml.alerts import conditions, outbox
from grade_ml.alerts.channels import Channel, Notice, configured
from grade_ml.alerts.outbox import SETTINGS
from grade_ml.core.policy import TablePolicy

NOON = datetime(2025, 10, 20, 12, tzinfo=UTC)
#: When a channel that failed `number` times in a row was tried, from the beginning.
TRIED = [SETTINGS.first_pause * (2**number - 1) for number in range(6)]


def record(
    engine: Engine,
    wrong: dict[str, str],
    channels: dict[str, Channel],
    at: datetime = NOON,
    watched: Callable[[str], bool] = lambda subject: True,
) -> list[Notice]:
    with engine.begin() as connection:
        return conditions.record(connection, wrong, watched, channels, at)


def unsent(engine: Engine, at: datetime = NOON) -> list[outbox.Unsent]:
    with engine.connect() as connection:
        return outbox.unsent(connection, at)


def subjects(engine: Engine) -> list[str]:
    with engine.connect() as connection:
        return [condition.subject for condition in conditions.open_conditions(connection)]


class Recorder:
    """A channel that records what it takes, and fails while it is down."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.down = False

    def __call__(self, notices) -> str:
        if self.down:
            raise OSError("no route to host")
        self.taken += [notice.title for notice in notices]
        return ""


def test_an_alert_is_sent_once_and_so_is_its_end(engine, alert_settings, smtp, webhook, caplog):
    channels = configured(alert_settings)
    wrong = {"health of maths": "41 of 100; drift: 9 of 70 features drifted"}
    for _ in range(2):
        record(engine, wrong, channels)
        outbox.deliver(engine.begin, channels, NOON)
    (mail,), (post,) = smtp.received, webhook.received
    message = message_from_string(mail)
    assert message["To"] == "dean@example.org, it@example.org"
    assert "health of maths" in message["Subject"]
    assert "2025-10-20 12:00 UTC: 41 of 100" in message.get_payload()
    assert post["text"] == "grade_ml: Alert: health of maths"
    assert "41 of 100" in post["blocks"][0]["text"]["text"]
    assert "Alert: health of maths" in caplog.text

    later = NOON + timedelta(hours=1)
    for _ in range(2):
        record(engine, {}, channels, later)
        assert outbox.deliver(engine.begin, channels, later) in (2, 0)
    assert "Recovered" in smtp.received[-1] and len(smtp.received) == len(webhook.received) == 2
    # What begins again is sent again.
    assert len(record(engine, wrong, channels, later + timedelta(hours=1))) == 1
    assert unsent(engine) == []


def test_what_is_not_watched_does_not_recover(engine):
    record(engine, {"job night": "failed", "health of maths": "low"}, {})
    over = record(engine, {}, {}, watched=lambda subject: subject.startswith("job "))
    assert [notice.subject for notice in over] == ["job night"]
    assert subjects(engine) == ["health of maths"]


@given(
    st.lists(
        st.tuples(st.integers(0, 4000), st.sets(st.sampled_from("abc")), st.booleans()),
        min_size=1,
        max_size=12,
    )
)
@hypothesis_settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_whenever_a_channel_is_down_each_notice_reaches_it_once_it_is_back(engine, history):
    """Minutes go by, things begin and end to be wrong, the only channel is down or works."""
    with engine.begin() as connection:
        connection.execute(sa.text("truncate alerts.condition, alerts.outbox"))
    channels: dict[str, Channel] = {
        "flaky": (flaky := Recorder()),
        "steady": (steady := Recorder()),
    }
    now, recorded = NOON, []
    for minutes, wrong, down in history:
        now += timedelta(minutes=minutes / 2)
        flaky.down = down
        notices = record(engine, dict.fromkeys(wrong, "it is low"), channels, now)
        recorded += [notice.title for notice in notices]
        outbox.deliver(engine.begin, channels, now)
        assert steady.taken == recorded
    flaky.down = False
    outbox.deliver(engine.begin, channels, now + SETTINGS.longest_pause)
    with engine.connect() as connection:
        lost = connection.execute(
            sa.text("select count(*) from alerts.outbox where given_up_at is not null")
        ).scalar_one()
    assert len(flaky.taken) + lost == len(recorded)
    assert lost or sorted(flaky.taken) == sorted(recorded)
    for subject in "abc":  # an end is not sent before its beginning
        own = [title for title in flaky.taken if title.endswith(subject)]
        assert lost or own == [title for title in recorded if title.endswith(subject)]


def test_pauses_grow_and_giving_up_is_logged(engine, caplog):
    channel = Recorder()
    channel.down = True
    tried = []

    def trying(notices) -> str:
        tried.append(now - NOON)
        return channel(notices)

    record(engine, {"job night": "failed"}, {"pager": trying})
    for minute in range(int(SETTINGS.give_up_after / timedelta(minutes=1)) + 90):
        if minute > 60 and minute % 30:
            continue
        now = NOON + timedelta(minutes=minute)
        outbox.deliver(engine.begin, {"pager": trying}, now)
        if minute == 7:
            (waits,) = unsent(engine, now)
            assert waits.due_at == NOON + TRIED[4] and "no route to host" in str(waits)
            assert "again at 2025-10-20 12:15 UTC" in str(waits)
    assert tried[:6] == TRIED
    longest = max(later - before for before, later in pairwise(tried))
    assert longest <= SETTINGS.longest_pause + timedelta(minutes=30)
    assert "is given up; pager did not take it for 3 days" in caplog.text
    (given_up,) = unsent(engine, now)
    assert given_up.due_at is None and "not tried again" in str(given_up)
    assert unsent(engine, now + SETTINGS.shown_for) == []
    assert subjects(engine) == ["job night"]
    days = TablePolicy.of(outbox.outbox).days
    assert days and timedelta(days=days) > SETTINGS.give_up_after + SETTINGS.shown_for
    kept = []
    for age in (days, days + 1):
        outbox.deliver(engine.begin, {}, NOON + timedelta(days=age))
        with engine.connect() as connection:
            kept.append(len(connection.execute(sa.select(outbox.outbox)).all()))
    assert kept == [1, 0]


def test_a_failing_channel_is_named_without_its_secret_and_keeps_no_other(
    engine, alert_settings, smtp, webhook, caplog
):
    webhook.status, channels = 500, configured(alert_settings)
    record(engine, {"job night": "failed"}, channels)
    assert outbox.deliver(engine.begin, channels, NOON) == 1
    (problem,) = unsent(engine)
    assert (problem.channel, problem.problem) == ("webhook", "the webhook answered 500")
    assert len(smtp.received) == 1
    assert "secret" not in caplog.text + repr(alert_settings) + str(problem)


def test_a_channel_that_is_no_longer_set_is_waited_for_and_then_given_up(engine, caplog):
    record(engine, {"job night": "failed"}, {"pager": Recorder()})
    outbox.deliver(engine.begin, {}, NOON)
    outbox.deliver(engine.begin, {}, NOON + SETTINGS.give_up_after)
    assert "the channel is not set" in caplog.text


def test_what_the_caller_rolls_back_was_not_sent(engine):
    channel = Recorder()
    with pytest.raises(ZeroDivisionError), engine.begin() as connection:
        conditions.record(connection, {"a": "b"}, lambda subject: True, {"pager": channel}, NOON)
        raise ZeroDivisionError
    assert outbox.deliver(engine.begin, {"pager": channel}, NOON) == 0
    assert len(record(engine, {"a": "b"}, {"pager": channel})) == 1


def test_a_death_between_sending_and_marking_repeats_and_loses_nothing(engine):
    sent: list[str] = []

    class Killed(BaseException):
        """As if the process had gone."""

    def dying(notices) -> str:
        sent.extend(notice.title for notice in notices)
        raise Killed

    record(engine, {"a": "b", "c": "d"}, {"pager": dying})
    with pytest.raises(Killed):
        outbox.deliver(engine.begin, {"pager": dying}, NOON)
    channel = Recorder()
    assert outbox.deliver(engine.begin, {"pager": channel}, NOON) == 2
    assert channel.taken == sent


def test_two_processes_at_once_record_once_and_send_once(engine):
    """The second arrives while the first is in the middle of it."""
    first, second = Recorder(), Recorder()
    wrong = {name: "low" for name in "abc"}
    with engine.begin() as mine:
        conditions.record(mine, {"a": "low"}, lambda subject: True, ["pager"], NOON)
        other = threading.Thread(target=record, args=(engine, wrong, {"pager": second}))
        other.start()
        waits = sa.text(
            "select count(*) from pg_stat_activity "
            "where datname = current_database() and wait_event_type = 'Lock'"
        )
        with engine.connect() as watching:
            while other.is_alive() and not watching.execute(waits).scalar_one():
                watching.rollback()
    other.join()
    with engine.connect() as connection:
        assert connection.execute(sa.text("select count(*) from alerts.outbox")).scalar_one() == 3

    def sending(notices) -> str:
        assert outbox.deliver(engine.begin, {"pager": second}, NOON) == 0
        return first(notices)

    assert outbox.deliver(engine.begin, {"pager": sending}, NOON) == 3
    assert sorted(first.taken) == [f"Alert: {name}" for name in "abc"] and second.taken == []


@pytest.mark.security
def test_text_that_no_database_stores_is_sent_and_recorded_nevertheless(
    engine, alert_settings, smtp
):
    channels = configured(alert_settings)
    wrong = {"health of \0\ud800": "\0 is low", "health of maths": "low"}
    assert len(record(engine, wrong, channels)) == 2
    assert outbox.deliver(engine.begin, channels, NOON) == 4
    assert record(engine, wrong, channels, NOON + timedelta(hours=1)) == []
    assert len(smtp.received) == 1
