"""However often a message is delivered it takes effect once, and what only looks like it is handled all the same."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress

import anyio
import psycopg
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from db import inbox, students
from db.pool import Work
from roles.amqp import Channel, Delivery
from roles.consume import claim, processor
from schema.students import NewStudent
from tests.amqp.support import eventually, proxied
from tests.consume.support import Calls, Note, Producer, claims, consuming, milliseconds, names, sealed

pytestmark = pytest.mark.anyio

PATIENCE = 120
BODY = b'{"text": "x"}'


async def store(message: Note, work: Work) -> None:
    await students.create(work.connection, NewStudent(name=message.text))


async def test_a_message_that_was_published_twice_takes_effect_once(
    producer: Producer, amqp_url: str, database_url: str
) -> None:
    async with consuming(Calls(store).declared(), amqp_url=amqp_url, database_url=database_url) as running:
        for _ in range(3):
            await producer.send("x", message_id="m")
        await eventually(lambda: running.tally().finished == 3, within=PATIENCE)
        status = running.status()
        assert (status.duplicates, status.retried, status.parked, status.unidentified) == (2, 0, 0, 0)

    await producer.holds("q", 0)
    assert await names(database_url) == ["x"]
    assert await claims(database_url) == [("q", "m")]


async def test_a_message_whose_ack_is_lost_is_applied_once(
    producer: Producer, amqp_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ack = Channel.ack
    async with proxied(amqp_url) as proxy:

        async def lose_the_first(channel: Channel, delivery: Delivery) -> None:
            if not delivery.redelivered:
                await proxy.sever()
                await channel.lost.wait()
            await ack(channel, delivery)

        monkeypatch.setattr(Channel, "ack", lose_the_first)
        calls = Calls(store)
        async with consuming(calls.declared(), amqp_url=proxy.url, database_url=database_url) as running:
            await producer.send("x")
            await eventually(lambda: running.tally().finished == 1, within=PATIENCE)
            assert (running.tally().given_back, running.status().duplicates) == (1, 1)

    await producer.holds("q", 0)
    assert calls.texts == ["x"]
    assert await names(database_url) == ["x"]


async def test_an_attempt_that_failed_leaves_no_claim(producer: Producer, amqp_url: str, database_url: str) -> None:
    async def fail_once(message: Note, work: Work) -> None:
        await store(message, work)
        if len(calls.texts) == 1:
            raise ValueError("not yet")

    calls = Calls(fail_once)
    async with consuming(
        calls.declared(retry=milliseconds(20)), amqp_url=amqp_url, database_url=database_url
    ) as running:
        await producer.send("x", message_id="m")
        await eventually(lambda: running.tally().finished == 1, within=PATIENCE)

    assert running.status().duplicates == 0
    assert await names(database_url) == ["x"]
    assert await claims(database_url) == [("q", "m")]


@pytest.mark.parametrize("waits_in_vain", [False, True])
@pytest.mark.parametrize("first_fails", [False, True])
async def test_of_two_deliveries_at_once_the_second_waits_for_the_outcome_of_the_first(
    producer: Producer,
    amqp_url: str,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    *,
    first_fails: bool,
    waits_in_vain: bool,
) -> None:
    """However long that takes: the waiting burns no attempt, and holds a connection for moments only."""
    monkeypatch.setattr(processor, "HELD_PAUSE", 0.05)
    monkeypatch.setattr(claim, "CLAIM_TIMEOUT", 0.05 if waits_in_vain else PATIENCE)
    tries, held = 0, 0
    go_on = anyio.Event()
    begin = inbox.begin

    async def count(*arguments: object) -> bool:
        nonlocal tries, held
        tries += 1
        try:
            return await begin(*arguments)  # type: ignore[arg-type]
        except BaseException:
            held += 1
            raise

    async def wait(message: Note, work: Work) -> None:
        await store(message, work)
        if len(calls.texts) == 1:
            await go_on.wait()
            if first_fails:
                raise ValueError("after all")

    monkeypatch.setattr(inbox, "begin", count)
    calls = Calls(wait)
    async with consuming(calls.declared(timeout="5m"), amqp_url=amqp_url, database_url=database_url) as running:
        await producer.send("x", message_id="m")
        await eventually(lambda: calls.texts, within=PATIENCE)
        await producer.send("x", message_id="m")
        await eventually(lambda: held >= 2 if waits_in_vain else tries == 2, within=PATIENCE)
        assert len(calls.texts) == 1
        go_on.set()
        await eventually(lambda: running.tally().in_flight == 0, within=PATIENCE)

        assert (running.status().duplicates, running.status().parked) == ((0, 1) if first_fails else (1, 0))
        assert running.status().reason is None
    assert len(calls.texts) == (2 if first_fails else 1)
    assert await names(database_url) == ["x"]


@pytest.mark.parametrize("cut_off_by_the_server", [False, True])
async def test_a_message_that_waits_for_another_delivery_goes_back_when_we_are_to_stop(
    producer: Producer,
    amqp_url: str,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    *,
    cut_off_by_the_server: bool,
) -> None:
    monkeypatch.setattr(claim, "CLAIM_TIMEOUT", PATIENCE if cut_off_by_the_server else 0.05)
    settings = {"database": {"statement_timeout": "50ms"}} if cut_off_by_the_server else {}
    calls = Calls()
    async with await psycopg.AsyncConnection.connect(database_url) as other:
        await other.execute("INSERT INTO inbox (queue, message_id) VALUES ('q', 'm')")
        with structlog.testing.capture_logs() as logs:
            async with consuming(
                calls.declared(), amqp_url=amqp_url, database_url=database_url, **settings
            ) as running:
                await producer.send("x", message_id="m")
                await eventually(lambda: [each for each in logs if each["event"] == "message waits"], within=PATIENCE)
                await running.drain(within=PATIENCE)
        await other.rollback()

    assert (running.tally().given_back, running.status().parked) == (1, 0)
    assert calls.texts == []
    await producer.holds("q", 1)


@pytest.mark.parametrize("message_id", [{}, {"message_id": b""}])
async def test_without_a_message_id_each_delivery_is_handled_and_counted(
    producer: Producer, amqp_url: str, database_url: str, message_id: dict[str, bytes]
) -> None:
    async with consuming(Calls(store).declared(), amqp_url=amqp_url, database_url=database_url) as running:
        for _ in range(2):
            await producer.channel.basic_publish(BODY, routing_key="q", properties=sealed(**message_id))
        await eventually(lambda: running.tally().finished == 2, within=PATIENCE)
        assert (running.status().unidentified, running.status().duplicates) == (2, 0)

    assert await names(database_url) == ["x", "x"]
    assert await claims(database_url) == []


async def test_message_ids_of_any_bytes_are_told_apart(producer: Producer, amqp_url: str, database_url: str) -> None:
    ids = [
        b"\x00",
        rb"\x00",
        b"\xff",
        rb"\xff",
        "ÿ".encode(),
        b"\\",
        b"\\\\",
        b"a",
        b"a\x00",
        b"A",
        b"a ",
        b"\xfe" * 255,
    ]
    async with consuming(Calls(store).declared(), amqp_url=amqp_url, database_url=database_url) as running:
        for message_id in ids * 2:
            await producer.channel.basic_publish(BODY, routing_key="q", properties=sealed(message_id=message_id))
        await eventually(lambda: running.tally().finished == 2 * len(ids), within=PATIENCE)
        assert running.status().duplicates == len(ids)

    assert len(await names(database_url)) == len(ids)


@given(st.binary(max_size=255), st.binary(max_size=255))
def test_what_is_stored_of_a_message_id_is_text_and_another_for_each(one: bytes, other: bytes) -> None:
    assert "\x00" not in inbox.storable(one)
    inbox.storable(one).encode()  # no half characters
    assert (inbox.storable(one) == inbox.storable(other)) == (one == other)


@given(st.text(alphabet="ab-0ÿ\\x", max_size=20))
def test_a_usual_message_id_is_stored_as_it_is(text: str) -> None:
    assert inbox.storable(text.encode()) == text.replace("\\", r"\\")


async def test_a_message_id_is_one_queues_own(producer: Producer, amqp_url: str, database_url: str) -> None:
    consumers = [Calls(store).declared(queue) for queue in ("q", "r")]
    async with consuming(*consumers, amqp_url=amqp_url, database_url=database_url) as running:
        for queue in ("q", "r"):
            await producer.send(queue, queue=queue, message_id="m")
        await eventually(lambda: running.tally().finished == 2, within=PATIENCE)

    assert sorted(map(str, await names(database_url))) == ["q", "r"]
    assert await claims(database_url) == [("q", "m"), ("r", "m")]


async def catch_an_error(work: Work) -> None:
    with suppress(psycopg.errors.DivisionByZero):
        await work.connection.execute("SELECT 1/0")


async def give_up_its_transaction(work: Work) -> None:
    await work.connection.execute("ROLLBACK")


async def be_idle_for_too_long(work: Work) -> None:
    await work.connection.execute("SET LOCAL idle_in_transaction_session_timeout = 50")
    await anyio.wait_readable(work.connection.pgconn.socket)  # the server's last words
    await work.connection.execute("SELECT 1")


async def be_idle_for_too_long_and_ignore_it(work: Work) -> None:
    with suppress(psycopg.Error):
        await be_idle_for_too_long(work)


async def cut_off_its_own_statement(work: Work) -> None:
    with anyio.move_on_after(0.05):
        await work.connection.execute("SELECT pg_sleep(60)")


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (catch_an_error, "InFailedSqlTransaction: a statement failed, its error was caught"),
        (give_up_its_transaction, "NoActiveSqlTransaction: the transaction was ended within its block"),
        (be_idle_for_too_long, "IdleInTransactionSessionTimeout: terminating connection"),
        (be_idle_for_too_long_and_ignore_it, "OperationalError: the connection is closed"),
        (cut_off_its_own_statement, "OperationalError: the connection is closed"),
    ],
)
async def test_a_handler_that_spoils_its_transaction_has_failed(
    producer: Producer, amqp_url: str, database_url: str, spoil: Callable[[Work], Awaitable[None]], error: str
) -> None:
    """It is neither acked, for nothing was committed, nor taken for a database that is away, for that never ends."""

    async def handle(message: Note, work: Work) -> None:
        await store(message, work)
        await spoil(work)

    calls = Calls(handle)
    async with consuming(calls.declared(), amqp_url=amqp_url, database_url=database_url) as running:
        await producer.send("x")
        parked = await producer.take("q.parked", within=PATIENCE)

    assert str(parked.headers["x-error"]).startswith(error)
    assert running.tally().finished == 0
    assert calls.texts == ["x"]
    assert await names(database_url) == []
    assert await claims(database_url) == []
