"""In which order messages are handled, and what that takes."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from db.pool import Work
from schema.errors import ConfigurationError
from tests.amqp.support import eventually, proxied
from tests.consume.support import Calls, Note, Producer, consuming

pytestmark = pytest.mark.anyio

PATIENCE = 30


async def test_one_at_a_time_is_in_the_order_of_the_queue_even_if_the_connection_is_lost(
    producer: Producer, amqp_url: str, database_url: str
) -> None:
    all_sent = anyio.Event()

    async def wait(message: Note, work: Work) -> None:
        await all_sent.wait()

    calls = Calls(wait)
    async with (
        proxied(amqp_url) as proxy,
        consuming(calls.declared(concurrency=1), amqp_url=proxy.url, database_url=database_url) as running,
    ):
        for number in range(200):
            await producer.send(f"{number:03}")
        all_sent.set()
        for cut in (50, 100):
            await eventually(lambda cut=cut: len(calls.texts) > cut, within=PATIENCE)  # type: ignore[misc]
            await proxy.sever()
        await eventually(lambda: len(set(calls.texts)) == 200, within=PATIENCE)
        await eventually(lambda: running.tally().in_flight == 0, within=PATIENCE)

    assert calls.texts == sorted(calls.texts)


async def test_of_two_processes_the_broker_feeds_one_until_it_is_gone(
    producer: Producer, amqp_url: str, database_url: str
) -> None:
    first, second = Calls(), Calls()
    options: dict[str, Any] = {"concurrency": 1, "single_active": True}
    where = {"amqp_url": amqp_url, "database_url": database_url}
    async with (
        consuming(first.declared(**options), **where) as one,
        consuming(second.declared(**options), **where) as other,
    ):
        assert other.status().subscribed
        for number in range(20):
            await producer.send(f"{number:03}")
        await eventually(lambda: one.tally().finished == 20, within=PATIENCE)
        await one.drain(within=PATIENCE)
        for number in range(20, 40):
            await producer.send(f"{number:03}")
        await eventually(lambda: other.tally().finished == 20, within=PATIENCE)

    handled = first.texts + second.texts
    assert handled == [f"{number:03}" for number in range(40)]


async def test_a_queue_that_was_declared_for_all_cannot_become_single_active(
    producer: Producer, amqp_url: str, database_url: str
) -> None:
    async with consuming(Calls().declared(), amqp_url=amqp_url, database_url=database_url):
        pass

    with pytest.raises(ExceptionGroup) as caught:
        async with consuming(Calls().declared(single_active=True), amqp_url=amqp_url, database_url=database_url):
            pass

    (error,) = caught.value.exceptions
    assert isinstance(error, ConfigurationError)
    assert "'q'" in str(error)
    assert "x-single-active-consumer" in str(error)
