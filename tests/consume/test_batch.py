"""Many messages in one transaction; whatever goes wrong with it concerns only the message that it is about."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.lowlevel
import psycopg
import pytest
import structlog

from db import students
from db.pool import DatabaseUnavailable, Work
from roles.amqp import Channel, Delivery
from roles.consume import Consumer, Ladder, Reject, claim, consumer, processor
from schema.students import NewStudent
from tests.amqp.support import eventually, proxied
from tests.consume.support import Note, Producer, claims, consuming, milliseconds, names, sealed

pytestmark = pytest.mark.anyio

PATIENCE = 120

Handle = Callable[[list[Note], Work], Awaitable[None]]


async def store(messages: list[Note], work: Work) -> None:
    for message in messages:
        await students.create(work.connection, NewStudent(name=message.text))


class Calls:
    """Notes its batches, and does what `then` does."""

    def __init__(self, then: Handle = store) -> None:
        self.batches: list[list[str]] = []
        self._then = then

    @property
    def texts(self) -> list[str]:
        return [text for batch in self.batches for text in batch]

    async def handle(self, messages: list[Note], work: Work) -> None:
        self.batches.append([message.text for message in messages])
        await self._then(messages, work)

    def declared(self, **options: Any) -> Consumer[Note]:
        """One worker, which waits for a batch to be full: so a test says what is in it."""
        defaults = {"retry": Ladder(), "concurrency": 1, "batch": 4, "linger": "30s"}
        return consumer("q", **{**defaults, **options})(self.handle)


async def test_a_full_batch_is_one_call_and_one_transaction(
    producer: Producer, amqp_url: str, database_url: str
) -> None:
    calls = Calls()
    async with consuming(calls.declared(), amqp_url=amqp_url, database_url=database_url) as running:
        for text in "abcdefgh":
            await producer.send(text)
        await eventually(lambda: running.tally().finished == 8, within=PATIENCE)

    await producer.holds("q", 0)
    assert calls.batches == [list("abcd"), list("efgh")]
    assert await names(database_url) == list("abcdefgh")
    async with await psycopg.AsyncConnection.connect(database_url) as connection:
        cursor = await connection.execute("SELECT count(DISTINCT xmin::text) FROM student")
        assert await cursor.fetchone() == (2,)


async def test_a_batch_that_does_not_fill_up_is_handled_after_the_linger(
    producer: Producer, amqp_url: str, database_url: str
) -> None:
    calls = Calls()
    subject = calls.declared(batch=1000, linger="50ms")
    async with consuming(subject, amqp_url=amqp_url, database_url=database_url) as running:
        for text in "abc":
            await producer.send(text)
        await eventually(lambda: running.tally().finished == 3, within=PATIENCE)

    assert calls.texts == list("abc")


async def test_what_was_collected_when_we_are_to_stop_goes_back(
    producer: Producer, amqp_url: str, database_url: str
) -> None:
    calls = Calls()
    async with consuming(calls.declared(), amqp_url=amqp_url, database_url=database_url) as running:
        for text in "abc":
            await producer.send(text)
        await eventually(lambda: running.tally().in_flight == 3, within=PATIENCE)
        await running.drain(within=PATIENCE)

    assert (running.tally().given_back, running.tally().in_flight) == (3, 0)
    assert calls.batches == []
    await producer.holds("q", 3)


async def test_a_drain_does_not_wait_for_all_that_are_handled_one_by_one(
    producer: Producer, amqp_url: str, database_url: str
) -> None:
    begun, finish = anyio.Event(), anyio.Event()

    async def fail_together(messages: list[Note], _: Work) -> None:
        if len(messages) > 1:
            raise ValueError("not together")
        begun.set()
        await finish.wait()

    calls = Calls(fail_together)
    async with consuming(calls.declared(), amqp_url=amqp_url, database_url=database_url) as running:
        for text in "abcd":
            await producer.send(text)
        with anyio.fail_after(PATIENCE):
            await begun.wait()
        running.stop.set()
        finish.set()
        await running.drain(within=PATIENCE)

    assert calls.batches == [list("abcd"), ["a"]]
    assert (running.tally().finished, running.tally().given_back, running.tally().in_flight) == (1, 3, 0)
    await producer.holds("q", 3)


async def test_duplicates_inside_and_across_batches_are_dropped(
    producer: Producer, amqp_url: str, database_url: str
) -> None:
    calls = Calls()
    async with consuming(calls.declared(), amqp_url=amqp_url, database_url=database_url) as running:
        for text in ("a", "b", "a", "c", "b", "d", "d", "e", "a", "b", "c", "d"):
            await producer.send(text, message_id=text)
        await eventually(lambda: running.tally().finished == 12, within=PATIENCE)
        assert running.status().duplicates == 7

    await producer.holds("q", 0)
    assert calls.batches == [["a", "b", "c"], ["d", "e"]]
    assert await names(database_url) == list("abcde")
    assert await claims(database_url) == [("q", text) for text in "abcde"]


async def test_messages_without_an_id_are_all_handled(producer: Producer, amqp_url: str, database_url: str) -> None:
    calls = Calls()
    async with consuming(calls.declared(), amqp_url=amqp_url, database_url=database_url) as running:
        for _ in range(4):
            await producer.channel.basic_publish(b'{"text": "x"}', routing_key="q", properties=sealed())
        await eventually(lambda: running.tally().finished == 4, within=PATIENCE)
        assert (running.status().unidentified, running.status().duplicates) == (4, 0)

    assert calls.batches == [["x"] * 4]


async def test_bodies_that_do_not_decode_are_parked_and_the_others_are_one_batch(
    producer: Producer, amqp_url: str, database_url: str
) -> None:
    calls = Calls()
    async with consuming(calls.declared(), amqp_url=amqp_url, database_url=database_url) as running:
        await producer.send("a")
        await producer.raw(b"{")
        await producer.send("b")
        await producer.raw(b"[]")
        parked = [await producer.take("q.parked", within=PATIENCE) for _ in range(2)]
        await eventually(lambda: running.tally().in_flight == 0, within=PATIENCE)

    assert [each.body for each in parked] == [b"{", b"[]"]
    assert calls.batches == [["a", "b"]]
    assert await names(database_url) == ["a", "b"]


@pytest.mark.parametrize("error", [ValueError("no"), Reject("no")])
async def test_only_the_guilty_one_is_retried_or_parked(
    producer: Producer, amqp_url: str, database_url: str, error: Exception
) -> None:
    async def fail(messages: list[Note], work: Work) -> None:
        await store(messages, work)
        if any(message.text == "bad" for message in messages):
            raise error

    calls = Calls(fail)
    with structlog.testing.capture_logs() as logs:
        async with consuming(
            calls.declared(retry=milliseconds(20), linger="1s"), amqp_url=amqp_url, database_url=database_url
        ) as running:
            for text in ("a", "b", "bad", "c"):
                await producer.send(text, message_id=text)
            await producer.take("q.parked", within=PATIENCE)
            await eventually(lambda: running.tally().in_flight == 0, within=PATIENCE)
            retries = 0 if isinstance(error, Reject) else 1
            assert (running.status().retried, running.status().parked) == (retries, 1)
            assert (running.tally().finished, running.tally().failed) == (3, 1 + retries)

    (event,) = [each for each in logs if each["event"] == "batch failed"]
    assert (event["messages"], event["then"]) == (4, "one by one")
    assert calls.batches == [["a", "b", "bad", "c"], ["a"], ["b"], ["bad"], ["c"]] + [["bad"]] * retries
    assert await names(database_url) == ["a", "b", "c"]
    assert await claims(database_url) == [("q", "a"), ("q", "b"), ("q", "c")]


async def test_a_database_that_goes_away_within_a_batch_burns_no_attempt(
    producer: Producer, amqp_url: str, database_url: str
) -> None:
    async def fail(messages: list[Note], work: Work) -> None:
        if len(calls.batches) < 4:
            raise DatabaseUnavailable("PostgreSQL: away")
        await store(messages, work)

    calls = Calls(fail)
    async with consuming(calls.declared(), amqp_url=amqp_url, database_url=database_url) as running:
        for text in "abcdefgh":
            await producer.send(text)
        await eventually(lambda: running.tally().finished == 8, within=PATIENCE)
        assert (running.status().retried, running.status().parked, running.status().reason) == (0, 0, None)

    assert calls.batches == [list("abcd"), ["a"], ["a"], ["a"], ["b"], ["c"], ["d"], list("efgh")]
    assert await names(database_url) == list("abcdefgh")


async def test_a_claim_that_is_held_elsewhere_holds_up_its_own_message(
    producer: Producer, amqp_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claim, "CLAIM_TIMEOUT", 0.05)
    monkeypatch.setattr(processor, "HELD_PAUSE", 0.05)
    calls = Calls()
    async with consuming(calls.declared(), amqp_url=amqp_url, database_url=database_url) as running:
        async with await psycopg.AsyncConnection.connect(database_url) as other:
            await other.execute("INSERT INTO inbox (queue, message_id) VALUES ('q', 'd')")
            for text in "abcd":
                await producer.send(text, message_id=text)
            await eventually(lambda: running.tally().finished == 3, within=PATIENCE)
            await other.commit()
        await eventually(lambda: running.tally().finished == 4, within=PATIENCE)
        assert (running.status().parked, running.status().duplicates) == (0, 1)

    assert await names(database_url) == ["a", "b", "c"]


async def test_a_batch_whose_acks_are_lost_is_applied_once(
    producer: Producer, amqp_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ack = Channel.ack
    async with proxied(amqp_url) as proxy:

        async def lose_the_first(channel: Channel, *deliveries: Delivery) -> None:
            if not deliveries[0].redelivered:
                await proxy.sever()
                await channel.lost.wait()
            await ack(channel, *deliveries)

        monkeypatch.setattr(Channel, "ack", lose_the_first)
        calls = Calls()
        async with consuming(calls.declared(), amqp_url=proxy.url, database_url=database_url) as running:
            for text in "abcd":
                await producer.send(text)
            await eventually(lambda: running.tally().finished == 4, within=PATIENCE)
            assert (running.tally().given_back, running.status().duplicates) == (4, 4)

    await producer.holds("q", 0)
    assert calls.batches == [list("abcd")]


async def test_batches_side_by_side_lose_nothing_and_repeat_nothing(
    producer: Producer, amqp_url: str, database_url: str
) -> None:
    """Acks come out of order, batches fail, messages come twice, and the connection is lost in the middle of it."""

    async def fail_sometimes(messages: list[Note], work: Work) -> None:
        await store(messages, work)
        await anyio.lowlevel.checkpoint()
        if any(message.text.endswith("77") for message in messages):
            raise Reject("sevens are parked")

    calls = Calls(fail_sometimes)
    async with proxied(amqp_url) as proxy:
        subject = calls.declared(concurrency=3, batch=10, linger="5ms")
        async with consuming(subject, amqp_url=proxy.url, database_url=database_url) as running:
            for number in range(600):
                for _ in range(1 + (number % 5 == 0)):
                    await producer.send(f"{number:03}", message_id=f"{number:03}")
                if number == 300:
                    await proxy.sever()
            expected = [f"{number:03}" for number in range(600) if number % 100 != 77]
            with anyio.fail_after(PATIENCE):  # acks may have come through although we were not told so
                while (  # noqa: ASYNC110 - it happens at the broker and in the database
                    await producer.count("q") or sorted(map(str, await names(database_url))) != expected
                ):
                    await anyio.sleep(0.05)
            await eventually(lambda: running.tally().in_flight == 0, within=PATIENCE)

    await producer.holds("q", 0)
    assert sorted(map(str, await names(database_url))) == expected
    assert await producer.count("q.parked") >= 6
