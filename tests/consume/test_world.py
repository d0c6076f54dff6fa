"""The database or the broker is away: no attempt is burnt, nothing is parked, and all resumes by itself."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import psycopg
import pytest
import structlog
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from db import students
from db.pool import DatabaseUnavailable, Work
from roles.amqp import BrokerUnavailable, Channel
from schema.students import NewStudent
from tests.amqp.support import eventually, proxied
from tests.consume.support import Calls, Note, Producer, consuming, milliseconds

pytestmark = pytest.mark.anyio


class Door:
    """A database that can be shut: its connections end, and it takes no new ones."""

    def __init__(self, database_url: str) -> None:
        self._name = str(conninfo_to_dict(database_url)["dbname"])
        self._admin = make_conninfo(database_url, dbname="postgres")

    async def open(self, *, takes_connections: bool = True) -> None:
        async with await psycopg.AsyncConnection.connect(self._admin, autocommit=True) as admin:
            statement = sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}")
            await admin.execute(statement.format(sql.Identifier(self._name), sql.Literal(takes_connections)))

    async def shut(self) -> None:
        await self.open(takes_connections=False)
        async with await psycopg.AsyncConnection.connect(self._admin, autocommit=True) as admin:
            ending = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
            await admin.execute(ending, [self._name])


@pytest.fixture
async def door(database_url: str) -> AsyncIterator[Door]:
    door = Door(database_url)
    yield door
    await door.open()


async def test_the_database_goes_away_under_a_stream_of_messages(
    producer: Producer, amqp_url: str, database_url: str, door: Door
) -> None:
    all_sent = anyio.Event()

    async def store(message: Note, work: Work) -> None:
        await all_sent.wait()
        await students.create(work.connection, NewStudent(name=message.text))
        await anyio.sleep(0.01)

    subject = Calls(store).declared(retry=milliseconds(20), concurrency=5)
    async with consuming(subject, amqp_url=amqp_url, database_url=database_url) as running:
        for number in range(600):
            await producer.send(f"{number:03}")
        all_sent.set()
        await eventually(lambda: running.tally().finished > 20)
        for _ in range(2):
            await door.shut()
            await eventually(lambda: running.status().reason)
            reason = running.status().reason
            assert reason is not None
            assert reason.startswith("PostgreSQL: ")
            assert running.status().subscribed
            await anyio.sleep(0.5)
            finished = running.tally().finished
            await anyio.sleep(0.5)
            assert running.tally().finished == finished
            await door.open()
            await eventually(lambda: running.status().reason is None)
            await eventually(lambda before=finished: running.tally().finished > before + 20)  # type: ignore[misc]
        await eventually(lambda: running.tally().finished == 600)

        await producer.holds("q.parked", 0)
        status = running.status()
        assert (status.retried, status.parked, status.reason) == (0, 0, None)
        assert running.tally().given_back == 0
    async with await psycopg.AsyncConnection.connect(database_url) as connection:
        rows = await (await connection.execute("SELECT DISTINCT name FROM student")).fetchall()
    assert len(rows) == 600


async def test_it_is_told_once_that_consumption_pauses(producer: Producer, amqp_url: str, database_url: str) -> None:
    tries = 0

    async def fail(message: Note, work: Work) -> None:
        nonlocal tries
        tries += 1
        if tries < 6:
            raise DatabaseUnavailable("PostgreSQL: away")

    with structlog.testing.capture_logs() as logs:
        async with consuming(Calls(fail).declared(), amqp_url=amqp_url, database_url=database_url) as running:
            await producer.send("x")
            await eventually(lambda: running.tally().finished == 1)

    events = [each for each in logs if each["event"].startswith("consumption")]
    assert [each["event"] for each in events] == ["consumption paused", "consumption resumed"]
    assert {each["queue"] for each in events} == {"q"}
    assert events[0]["reason"] == "PostgreSQL: away"


async def test_one_task_of_a_handler_noticing_it_is_enough(
    producer: Producer, amqp_url: str, database_url: str
) -> None:
    async def fail(message: Note, work: Work) -> None:
        if len(calls.texts) < 3:
            raise ExceptionGroup("tasks", [ValueError("a consequence"), DatabaseUnavailable("away")])

    calls = Calls(fail)
    async with consuming(calls.declared(), amqp_url=amqp_url, database_url=database_url) as running:
        await producer.send("x")
        await eventually(lambda: running.tally().finished == 1)

    assert len(calls.texts) == 3
    assert running.status().parked == 0


async def test_a_drain_does_not_wait_for_the_world(producer: Producer, amqp_url: str, database_url: str) -> None:
    async def fail(message: Note, work: Work) -> None:
        raise DatabaseUnavailable("PostgreSQL: away")

    async with consuming(Calls(fail).declared(), amqp_url=amqp_url, database_url=database_url) as running:
        for text in ("a", "b", "c"):
            await producer.send(text)
        await eventually(lambda: running.status().reason)
        await running.drain(within=60)

    tally = running.tally()
    assert tally.taken == tally.given_back > 0
    await producer.holds("q", 3)


async def test_the_broker_does_not_take_a_retry(
    producer: Producer, amqp_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The handler ran; what is tried again is the publication, and the others go on meanwhile."""

    async def fail(message: Note, work: Work) -> None:
        if message.text == "bad":
            raise ValueError("no")

    refusals = 0
    publish = Channel.publish

    async def refuse(*args: object, **options: object) -> None:
        nonlocal refusals
        refusals += 1
        if refusals <= 4:
            raise BrokerUnavailable("broker example: not accepted")
        await publish(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Channel, "publish", refuse)
    calls = Calls(fail)
    async with consuming(calls.declared(), amqp_url=amqp_url, database_url=database_url) as running:
        await producer.send("bad")
        await eventually(lambda: running.status().reason == "broker example: not accepted")
        await producer.send("good")
        await eventually(lambda: running.tally().finished == 1)
        parked = await producer.take("q.parked")
        await eventually(lambda: running.status().reason is None)

    assert parked.body == b'{"text": "bad"}'
    assert sorted(calls.texts) == ["bad", "good"]


async def test_the_broker_goes_away_as_well(producer: Producer, amqp_url: str, database_url: str, door: Door) -> None:
    calls = Calls()
    async with (
        proxied(amqp_url) as proxy,
        consuming(calls.declared(), amqp_url=proxy.url, database_url=database_url) as running,
    ):
        await door.shut()
        for text in "abc":
            await producer.send(text)
        await eventually(lambda: running.status().reason)
        await proxy.sever()
        await eventually(lambda: running.tally().given_back == 2)
        await eventually(lambda: running.tally().in_flight == 2)
        await door.open()
        await eventually(lambda: running.tally().finished == 3)

        assert running.status().retried == running.status().parked == 0
    assert sorted(calls.texts) == ["a", "b", "c"]


async def test_messages_are_given_back_once_however_long_the_database_is_away(
    producer: Producer, amqp_url: str, database_url: str, door: Door
) -> None:
    calls = Calls()
    held = {"give_back_after": "300ms"}
    async with consuming(
        calls.declared(concurrency=2), amqp_url=amqp_url, database_url=database_url, consume=held
    ) as running:
        await door.shut()
        for text in "abc":
            await producer.send(text)
        await eventually(lambda: running.tally().given_back == 2)
        await eventually(lambda: not running.status().subscribed)
        await producer.holds("q", 3)
        await anyio.sleep(1.5)
        assert (running.tally().taken, running.tally().given_back) == (2, 2)
        assert (running.status().reason or "").startswith("held for consume.give_back_after = 300ms; PostgreSQL: ")

        await door.open()
        await eventually(lambda: running.tally().finished == 3)
        await eventually(lambda: running.status().reason is None)
        status = running.status()
        assert (status.subscribed, status.retried, status.parked) == (True, 0, 0)
    assert running.tally().taken == 5
    assert sorted(calls.texts) == ["a", "b", "c"]


async def test_a_message_that_does_not_get_through_again_is_parked_by_the_broker(
    producer: Producer, amqp_url: str, database_url: str
) -> None:
    """It is too large for the time that a publication may take; others are retried as ever."""

    async def fail(message: Note, work: Work) -> None:
        raise ValueError("no")

    quick = {"example": {"heartbeat": "10s", "timeout": "3s"}}
    async with proxied(amqp_url) as proxy:
        proxy.most = 100_000
        async with consuming(
            Calls(fail).declared(), amqp_url=proxy.url, database_url=database_url, amqp=quick
        ) as running:
            await producer.send("x" * 1_000_000, message_id="large")
            for number in range(10):
                await producer.send(str(number))
            await eventually(lambda: running.status().parked == 11)
            await eventually(lambda: running.status().reason is None)

        await producer.holds("q.parked", 11)
        parked = {each.properties.message_id: each for each in [await producer.take("q.parked") for _ in range(11)]}
    assert len(parked["large"].body) > 1_000_000
    assert "x-death" in parked.pop("large").headers
    assert {each.headers["x-error"] for each in parked.values()} == {"ValueError: no"}
