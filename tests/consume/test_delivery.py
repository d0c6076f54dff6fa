"""A handler with `transaction=False` holds no connection while it waits, and claims with what it changes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import psycopg
import pytest
import structlog

from db import students
from db.pool import DatabaseUnavailable, Work, current_pool
from roles.amqp import Properties
from roles.consume import AlreadyHandled, Consumer, Delivery, Reject, claim, consumer, processor
from schema.students import NewStudent
from tests.amqp.support import eventually
from tests.consume.support import Note, Producer, claims, consuming, milliseconds, names

pytestmark = pytest.mark.anyio

PATIENCE = 120

Handle = Callable[[Note, Delivery], Awaitable[None]]


async def store(message: Note, work: Work) -> None:
    await students.create(work.connection, NewStudent(name=message.text))


class Calls:
    """Notes its calls, and does what `then` does."""

    def __init__(self, then: Handle) -> None:
        self.texts: list[str] = []
        self._then = then

    async def handle(self, message: Note, delivery: Delivery) -> None:
        self.texts.append(message.text)
        await self._then(message, delivery)

    def declared(self, **options: Any) -> Consumer[Note]:
        return consumer("q", **{"transaction": False, "retry": milliseconds(), "concurrency": 2, **options})(
            self.handle
        )


async def apply(message: Note, delivery: Delivery) -> None:
    async with delivery.unit_of_work() as work:
        await store(message, work)


async def test_a_duplicate_ends_where_its_unit_of_work_would_begin(
    producer: Producer, amqp_url: str, database_url: str
) -> None:
    went_on: list[str] = []

    async def handle(message: Note, delivery: Delivery) -> None:
        await apply(message, delivery)
        went_on.append(message.text)

    calls = Calls(handle)
    async with consuming(calls.declared(), amqp_url=amqp_url, database_url=database_url) as running:
        for _ in range(2):
            await producer.send("x", message_id="m")
            await eventually(lambda: running.tally().in_flight == 0 and running.tally().taken, within=PATIENCE)
        await eventually(lambda: running.tally().finished == 2, within=PATIENCE)
        assert (running.status().duplicates, running.status().parked) == (1, 0)

    assert calls.texts == ["x", "x"]
    assert went_on == ["x"]
    assert await names(database_url) == ["x"]
    assert await claims(database_url) == [("q", "m")]


@pytest.mark.parametrize("then", [None, ValueError("something else"), Reject("no")])
async def test_a_duplicate_is_acked_whatever_the_handler_makes_of_it(
    producer: Producer, amqp_url: str, database_url: str, then: Exception | None
) -> None:
    undone: list[str] = []

    async def handle(message: Note, delivery: Delivery) -> None:
        try:
            await apply(message, delivery)
        except AlreadyHandled:
            undone.append(message.text)
            if then is not None:
                raise then from None

    async with consuming(
        Calls(handle).declared(concurrency=1), amqp_url=amqp_url, database_url=database_url
    ) as running:
        for _ in range(2):
            await producer.send("x", message_id="m")
        await eventually(lambda: running.tally().finished == 2, within=PATIENCE)
        assert (running.status().duplicates, running.status().parked) == (1, 0)

    assert undone == ["x"]
    assert await names(database_url) == ["x"]


async def test_no_connection_is_held_before_the_unit_of_work(
    producer: Producer, amqp_url: str, database_url: str
) -> None:
    go_on = anyio.Event()

    async def wait(message: Note, delivery: Delivery) -> None:
        await go_on.wait()
        await apply(message, delivery)

    calls = Calls(wait)
    settings = {"database": {"pool_min_size": 1, "pool_max_size": 1, "pool_timeout": "30s"}}
    async with consuming(
        calls.declared(concurrency=20), amqp_url=amqp_url, database_url=database_url, **settings
    ) as running:
        for number in range(20):
            await producer.send(str(number))
        await eventually(lambda: len(calls.texts) == 20, within=PATIENCE)
        stats = current_pool.get().get_stats()
        assert (stats["pool_available"], stats["requests_waiting"]) == (1, 0)
        go_on.set()
        await eventually(lambda: running.tally().finished == 20, within=PATIENCE)

    assert len(await names(database_url)) == 20


async def test_a_failure_in_the_unit_of_work_rolls_the_claim_back_and_is_retried(
    producer: Producer, amqp_url: str, database_url: str
) -> None:
    seen: list[tuple[str | None, int, Any]] = []

    async def fail_once(message: Note, delivery: Delivery) -> None:
        seen.append((delivery.message_id, delivery.attempt, delivery.headers.get("tenant")))
        async with delivery.unit_of_work() as work:
            await store(message, work)
            if delivery.attempt == 1:
                raise ValueError("not yet")

    async with consuming(
        Calls(fail_once).declared(retry=milliseconds(20)), amqp_url=amqp_url, database_url=database_url
    ) as running:
        await producer.send("x", message_id="m", headers={"tenant": "a"})
        await eventually(lambda: running.tally().finished == 1, within=PATIENCE)

    assert seen == [("m", 1, "a"), ("m", 2, "a")]
    assert await names(database_url) == ["x"]


async def test_a_unit_of_work_that_was_rolled_back_can_be_opened_again(
    producer: Producer, amqp_url: str, database_url: str
) -> None:
    async def twice(message: Note, delivery: Delivery) -> None:
        with pytest.raises(ValueError, match="undo"):
            async with delivery.unit_of_work() as work:
                await store(message, work)
                raise ValueError("undo")
        await apply(message, delivery)

    async with consuming(Calls(twice).declared(), amqp_url=amqp_url, database_url=database_url) as running:
        await producer.send("x", message_id="m")
        await eventually(lambda: running.tally().finished == 1, within=PATIENCE)
        assert running.status().duplicates == 0

    assert await names(database_url) == ["x"]


async def test_within_the_first_there_is_no_second_unit_of_work(
    producer: Producer, amqp_url: str, database_url: str
) -> None:
    async def nested(message: Note, delivery: Delivery) -> None:
        async with delivery.unit_of_work():
            await apply(message, delivery)

    async with consuming(Calls(nested).declared(), amqp_url=amqp_url, database_url=database_url):
        await producer.send("x")
        parked = await producer.take("q.parked", within=PATIENCE)

    assert str(parked.headers["x-error"]).startswith("RuntimeError: the delivery's unit of work is open already")
    assert await claims(database_url) == []


async def second_unit_of_work(message: Note, delivery: Delivery) -> None:
    await apply(message, delivery)


async def bug(message: Note, delivery: Delivery) -> None:
    raise ValueError("a bug")


async def hang(message: Note, delivery: Delivery) -> None:
    await anyio.sleep_forever()


@pytest.mark.parametrize(
    ("then", "error"),
    [
        (second_unit_of_work, "RuntimeError: the delivery's unit of work was committed"),
        (bug, "ValueError: a bug"),
        (hang, "HandlerTimeout: the handler had not ended after 2s"),
    ],
)
async def test_a_failure_after_the_commit_is_told_and_the_message_is_done_with(
    producer: Producer, amqp_url: str, database_url: str, then: Handle, error: str
) -> None:
    """A retry would find the claim and do nothing; in the parking lot it would look as if nothing had happened."""

    async def handle(message: Note, delivery: Delivery) -> None:
        await apply(message, delivery)
        await then(message, delivery)

    calls = Calls(handle)
    with structlog.testing.capture_logs() as logs:
        async with consuming(calls.declared(timeout="2s"), amqp_url=amqp_url, database_url=database_url) as running:
            await producer.send("x", message_id="m")
            await eventually(lambda: running.tally().finished == 1, within=PATIENCE)
            assert running.status().parked == running.status().retried == 0

    (event,) = [each for each in logs if each["event"] == "handler failed after its commit"]
    assert event["error"].startswith(error)
    assert calls.texts == ["x"]
    assert await names(database_url) == ["x"]


async def test_without_a_unit_of_work_nothing_is_claimed(
    producer: Producer, amqp_url: str, database_url: str
) -> None:
    async def look(message: Note, delivery: Delivery) -> None:
        pass

    calls = Calls(look)
    async with consuming(calls.declared(), amqp_url=amqp_url, database_url=database_url) as running:
        for _ in range(2):
            await producer.send("x", message_id="m")
        await eventually(lambda: running.tally().finished == 2, within=PATIENCE)
        assert running.status().duplicates == 0

    assert calls.texts == ["x", "x"]
    assert await claims(database_url) == []


@pytest.mark.parametrize("swallowed", [False, True])
async def test_a_database_that_is_away_is_not_the_handlers_to_decide_on(
    producer: Producer, amqp_url: str, database_url: str, *, swallowed: bool
) -> None:
    async def handle(message: Note, delivery: Delivery) -> None:
        try:
            async with delivery.unit_of_work() as work:
                await store(message, work)
                if len(calls.texts) < 3:
                    raise DatabaseUnavailable("PostgreSQL: away")
        except Exception:
            if not swallowed:
                raise

    calls = Calls(handle)
    async with consuming(calls.declared(), amqp_url=amqp_url, database_url=database_url) as running:
        await producer.send("x")
        await eventually(lambda: running.tally().finished == 1, within=PATIENCE)
        assert running.status().parked == 0

    assert calls.texts == ["x"] * 3
    assert await names(database_url) == ["x"]


@pytest.mark.parametrize("swallowed", [False, True])
@pytest.mark.parametrize("cut_off", [False, True])
async def test_a_claim_that_is_held_elsewhere_burns_no_attempt(
    producer: Producer,
    amqp_url: str,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    *,
    swallowed: bool,
    cut_off: bool,
) -> None:
    monkeypatch.setattr(claim, "CLAIM_TIMEOUT", PATIENCE if cut_off else 0.05)
    monkeypatch.setattr(processor, "HELD_PAUSE", 0.05)

    async def handle(message: Note, delivery: Delivery) -> None:
        try:
            await apply(message, delivery)
        except Exception:
            if not swallowed:
                raise

    calls = Calls(handle)
    subject = calls.declared(timeout="100ms" if cut_off else "30s")
    async with consuming(subject, amqp_url=amqp_url, database_url=database_url) as running:
        async with await psycopg.AsyncConnection.connect(database_url) as other:
            await other.execute("INSERT INTO inbox (queue, message_id) VALUES ('q', 'm')")
            await producer.send("x", message_id="m")
            await eventually(lambda: len(calls.texts) > 2, within=PATIENCE)
            await other.rollback()
        await eventually(lambda: running.tally().finished == 1, within=PATIENCE)
        assert (running.status().parked, running.status().duplicates) == (0, 0)

    assert await names(database_url) == ["x"]


def test_a_delivery_for_a_test_of_ones_own_handler_is_easy_to_make() -> None:
    delivery = Delivery("q", Properties({}))

    assert (delivery.message_id, delivery.attempt, dict(delivery.headers)) == (None, 1, {})
