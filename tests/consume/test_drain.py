"""Asked to stop: nothing new is taken, what was begun comes to its end, the rest goes back, and it adds up."""

from __future__ import annotations

import anyio
import pytest

from db.pool import Work
from roles.consume import Reject
from tests.amqp.support import eventually, proxied
from tests.consume.support import Calls, Note, Producer, Running, consuming, milliseconds

pytestmark = pytest.mark.anyio


def adds_up(running: Running) -> bool:
    tally, status = running.tally(), running.status().tally
    return tally.in_flight == status.in_flight == 0 and tally == status


async def test_handlers_at_work_finish_and_are_acked(producer: Producer, amqp_url: str, database_url: str) -> None:
    go_on = anyio.Event()

    async def wait(message: Note, work: Work) -> None:
        await go_on.wait()

    calls = Calls(wait)
    async with consuming(calls.declared(concurrency=3), amqp_url=amqp_url, database_url=database_url) as running:
        for number in range(10):
            await producer.send(str(number))
        await eventually(lambda: len(calls.texts) == 3)
        running.stop.set()
        await eventually(lambda: not running.status().subscribed)
        assert running.status().reason == "asked to stop"
        go_on.set()
        await running.drain()

    assert adds_up(running)
    assert (running.tally().taken, running.tally().finished) == (3, 3)
    await producer.holds("q", 7)
    assert len(calls.texts) == 3


async def test_under_load_every_message_is_acked_or_back_in_its_queue(
    producer: Producer, amqp_url: str, database_url: str
) -> None:
    async def work_a_little(message: Note, work: Work) -> None:
        await anyio.sleep(0.002)
        if message.text.endswith("7"):
            raise Reject("sevens are parked")

    calls = Calls(work_a_little)
    async with consuming(calls.declared(concurrency=10), amqp_url=amqp_url, database_url=database_url) as running:
        for number in range(300):
            await producer.send(str(number))
        await eventually(lambda: len(calls.texts) > 100)
        await running.drain()

    assert adds_up(running)
    tally = running.tally()
    assert tally.failed
    await producer.holds("q.parked", tally.failed)
    await producer.holds("q", 300 - tally.finished - tally.failed)
    assert len(calls.texts) == len(set(calls.texts)) == tally.finished + tally.failed


async def test_a_handler_that_fails_during_the_drain_is_still_retried(
    producer: Producer, amqp_url: str, database_url: str
) -> None:
    go_on = anyio.Event()

    async def fail(message: Note, work: Work) -> None:
        await go_on.wait()
        raise ValueError("late")

    calls = Calls(fail)
    ladder = milliseconds(60_000)
    async with consuming(calls.declared(retry=ladder), amqp_url=amqp_url, database_url=database_url) as running:
        await producer.send("x")
        await eventually(lambda: calls.texts)
        running.stop.set()
        go_on.set()
        await running.drain()

    assert adds_up(running)
    await producer.holds("q.retry.1m", 1)
    await producer.holds("q", 0)


async def test_a_handler_that_is_cut_off_gives_its_message_back(
    producer: Producer, amqp_url: str, database_url: str
) -> None:
    """When the time to drain is over, the role is cancelled."""

    async def hang(message: Note, work: Work) -> None:
        await anyio.sleep_forever()

    calls = Calls(hang)
    with anyio.CancelScope() as scope:
        async with consuming(calls.declared(), amqp_url=amqp_url, database_url=database_url) as running:
            await producer.send("x")
            await eventually(lambda: calls.texts)
            scope.cancel()
            await anyio.sleep_forever()

    assert adds_up(running)
    assert running.tally().given_back == 1
    assert not running.status().subscribed
    redelivered = await producer.take("q")
    assert redelivered.body == b'{"text": "x"}'


async def test_a_stop_while_the_broker_is_away(database_url: str, producer: Producer, amqp_url: str) -> None:
    async with (
        proxied(amqp_url) as proxy,
        consuming(Calls().declared(), amqp_url=proxy.url, database_url=database_url) as running,
    ):
        proxy.refusing = True
        await proxy.sever()
        await eventually(lambda: not running.status().subscribed)
        await running.drain(within=60)


async def test_a_role_without_consumers(amqp_url: str, database_url: str) -> None:
    async with consuming(amqp_url=amqp_url, database_url=database_url) as running:
        assert not running.board.consumers
