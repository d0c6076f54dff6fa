"""Most messages fail: consumption pauses and tries one at a time, and the rest of the queue stays where it is."""

from __future__ import annotations

from typing import Any

import pytest
import structlog
from pydantic import BaseModel

from db.pool import Work
from roles.consume import Breaker, Consumer, Reject, consumer
from tests.amqp.support import eventually
from tests.consume.support import Calls, Note, Producer, Running, consuming, milliseconds

pytestmark = pytest.mark.anyio

QUICK = Breaker(window="20s", failure_rate=0.5, min_messages=6, pause="300ms")


class Deploy:
    """A handler that fails until it is repaired."""

    def __init__(self, error: Exception) -> None:
        self.broken = True
        self.calls = Calls(self._handle)
        self._error = error

    def declared(self, **options: Any) -> Consumer[Note]:
        return self.calls.declared(**{"breaker": QUICK, "retry": milliseconds(*[500] * 20), **options})

    async def _handle(self, message: Note, work: Work) -> None:
        if self.broken:
            raise self._error


def is_open(running: Running) -> bool:
    status = running.status()
    return not status.subscribed and (status.reason or "").startswith("the breaker is open")


@pytest.mark.parametrize("concurrency", [1, 5])
async def test_a_bad_deploy_pauses_consumption_until_it_is_repaired(
    producer: Producer, amqp_url: str, database_url: str, concurrency: int
) -> None:
    deploy = Deploy(ValueError("a bug"))
    subject = deploy.declared(concurrency=concurrency)
    with structlog.testing.capture_logs() as logs:
        async with consuming(subject, amqp_url=amqp_url, database_url=database_url) as running:
            for number in range(60):
                await producer.send(str(number))
            await eventually(lambda: is_open(running))
            tried = [each for each in logs if each["event"] == "breaker opened"]
            await eventually(lambda: len([each for each in logs if each["event"] == "breaker stays open"]) == 3)
            assert len(deploy.calls.texts) <= 6 + concurrency + 4
            deploy.broken = False
            await eventually(lambda: running.tally().finished == 60)
            status = running.status()
            assert (status.reason, status.subscribed, status.parked) == (None, True, 0)

    assert len(tried) == 1
    assert (tried[0]["queue"], tried[0]["failed"], tried[0]["of"], tried[0]["error"]) == (
        "q",
        6,
        6,
        "ValueError: a bug",
    )
    assert [each["event"] for each in logs if each["event"] == "breaker closed"] == ["breaker closed"]
    assert running.tally().given_back <= concurrency


class Narrow(BaseModel):
    number: int


async def test_a_model_that_accepts_nothing_pauses_consumption(
    producer: Producer, amqp_url: str, database_url: str
) -> None:
    @consumer("q", retry=milliseconds(), concurrency=2, breaker=QUICK)
    async def take(message: Narrow, work: Work) -> None:
        raise AssertionError("never called")

    async with consuming(take, amqp_url=amqp_url, database_url=database_url) as running:
        for number in range(40):
            await producer.send(str(number))
        await eventually(lambda: is_open(running))

        assert running.status().parked <= 12
        assert "number: Field required" in (running.status().reason or "")


async def test_garbage_among_good_messages_does_not(producer: Producer, amqp_url: str, database_url: str) -> None:
    async with consuming(
        Calls().declared(breaker=QUICK, concurrency=1), amqp_url=amqp_url, database_url=database_url
    ) as running:
        await producer.send("good")
        for _ in range(30):
            await producer.raw(b"garbage")
        await eventually(lambda: running.status().parked == 30)

        assert running.status().reason is None
    await producer.holds("q.parked", 30)


async def test_without_a_breaker_all_messages_are_tried(producer: Producer, amqp_url: str, database_url: str) -> None:
    deploy = Deploy(Reject("no"))
    async with consuming(deploy.declared(breaker=None), amqp_url=amqp_url, database_url=database_url) as running:
        for number in range(60):
            await producer.send(str(number))
        await eventually(lambda: running.status().parked == 60)


async def test_a_consumer_that_waits_for_a_message_to_try_is_subscribed(
    producer: Producer, amqp_url: str, database_url: str
) -> None:
    """An empty queue does not keep the process from being ready."""
    deploy = Deploy(Reject("no"))
    async with consuming(deploy.declared(concurrency=1), amqp_url=amqp_url, database_url=database_url) as running:
        for number in range(6):
            await producer.send(str(number))
        await eventually(lambda: is_open(running))
        await eventually(lambda: running.status().subscribed)
        assert (running.status().reason or "").startswith("the breaker is open")

        deploy.broken = False
        await producer.send("good")
        await eventually(lambda: running.tally().finished == 1)
        await eventually(lambda: running.status().reason is None)
        await producer.send("next")
        await eventually(lambda: running.tally().finished == 2)


async def test_a_drain_while_the_breaker_is_open(producer: Producer, amqp_url: str, database_url: str) -> None:
    deploy = Deploy(Reject("no"))
    async with consuming(
        deploy.declared(breaker=Breaker(min_messages=2, pause="1h")), amqp_url=amqp_url, database_url=database_url
    ) as running:
        for number in range(10):
            await producer.send(str(number))
        await eventually(lambda: is_open(running))
        await running.drain(within=5)

    tally = running.tally()
    assert tally.in_flight == 0
    await producer.holds("q", 10 - tally.failed)
