"""What becomes of a message whose handler fails."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import anyio
import pytest
import structlog

from db.pool import Work
from roles.consume import Reject
from tests.amqp.support import eventually
from tests.consume.support import Calls, Note, Producer, consuming, milliseconds, sealed

pytestmark = pytest.mark.anyio


async def fail(message: Note, work: Work) -> None:
    raise ValueError(f"not {message.text}")


async def test_the_ladder_is_used_up_exactly(producer: Producer, amqp_url: str, database_url: str) -> None:
    calls = Calls(fail)
    ladder = milliseconds(100, 300, 600)
    async with consuming(calls.declared(retry=ladder), amqp_url=amqp_url, database_url=database_url) as running:
        await producer.send("again")
        parked = await producer.take("q.parked")

    assert len(calls.texts) == 4
    gaps = [later - earlier for earlier, later in pairwise(calls.times)]
    for gap, delay in zip(gaps, (0.1, 0.3, 0.6), strict=True):
        assert delay <= gap < delay + 20
    assert parked.headers["x-attempt"] == 4
    assert parked.headers["x-error"] == "ValueError: not again"
    failed_at = datetime.fromisoformat(str(parked.headers["x-failed-at"]))
    assert abs((datetime.now(UTC) - failed_at).total_seconds()) < 60
    assert (running.status().retried, running.status().parked) == (3, 1)
    assert (running.tally().taken, running.tally().failed, running.tally().in_flight) == (4, 4, 0)


async def test_a_limit_of_three_attempts_gives_three(producer: Producer, amqp_url: str, database_url: str) -> None:
    calls = Calls(fail)
    ladder = milliseconds(20, 20)
    async with consuming(calls.declared(retry=ladder), amqp_url=amqp_url, database_url=database_url):
        await producer.send("x")
        await producer.take("q.parked")

    assert len(calls.texts) == 3


async def test_a_handler_that_recovers_ends_the_ladder(producer: Producer, amqp_url: str, database_url: str) -> None:
    async def fail_once(message: Note, work: Work) -> None:
        if len(calls.texts) == 1:
            raise ValueError("not yet")

    calls = Calls(fail_once)
    ladder = milliseconds(20, 20)
    async with consuming(calls.declared(retry=ladder), amqp_url=amqp_url, database_url=database_url) as running:
        await producer.send("x")
        await eventually(lambda: running.tally().finished == 1)

        assert await producer.count("q.parked") == 0
    assert len(calls.texts) == 2


PROPERTIES: dict[str, Any] = {
    "content_type": "application/json",
    "content_encoding": "utf-8",
    "priority": 3,
    "correlation_id": "correlation",
    "reply_to": "reply",
    "message_id": "the id",
    "timestamp": datetime(2026, 1, 31, tzinfo=UTC),
    "message_type": "note",
    "app_id": "app",
}


async def test_a_parked_message_has_all_that_it_came_with(
    producer: Producer, amqp_url: str, database_url: str
) -> None:
    headers = {"trace": "t", "n": 2**40, "x": 1.5, "list": ["a", {"b": True}], "nothing": None}
    calls = Calls(fail)
    ladder = milliseconds(20, 20)
    async with consuming(calls.declared(retry=ladder), amqp_url=amqp_url, database_url=database_url):
        await producer.send("x", headers=headers, **PROPERTIES)
        parked = await producer.take("q.parked")

    assert parked.body == b'{"text": "x"}'
    kept = {name: getattr(parked.properties, name) for name in PROPERTIES}
    assert kept == PROPERTIES
    assert parked.properties.delivery_mode == 2
    assert {name: parked.headers[name] for name in headers} == headers
    assert "x-death" not in parked.headers


async def test_a_transient_message_with_an_expiration_is_not_lost_on_the_way(
    producer: Producer, amqp_url: str, database_url: str
) -> None:
    calls = Calls(fail)
    async with consuming(
        calls.declared(retry=milliseconds(300)), amqp_url=amqp_url, database_url=database_url
    ) as running:
        await producer.send("x", delivery_mode=1, expiration="100")
        await eventually(lambda: running.status().parked == 1)
        await anyio.sleep(0.3)
        parked = await producer.take("q.parked")

    assert calls.times[1] - calls.times[0] >= 0.3
    assert parked.headers["x-expiration"] == "100"
    assert parked.properties.delivery_mode == 2


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"", "body: Invalid JSON: EOF"),
        (b"\xff\xfe", "body: Invalid JSON"),
        (b"[]", "body: Input should be an object"),
        (b'{"text": 1}', "text: Input should be a valid string"),
        (b'{"text": "x"', "body: Invalid JSON: EOF"),
    ],
)
async def test_an_undecodable_body_is_parked_at_once(
    producer: Producer, amqp_url: str, database_url: str, body: bytes, error: str
) -> None:
    calls = Calls()
    ladder = milliseconds(60_000)
    async with consuming(calls.declared(retry=ladder), amqp_url=amqp_url, database_url=database_url) as running:
        await producer.raw(body, app_id="app")
        parked = await producer.take("q.parked", within=60)

    assert parked.body == body
    assert str(parked.headers["x-error"]).startswith(error)
    assert parked.headers["x-attempt"] == 1
    assert parked.properties.app_id == "app"
    assert (running.status().parked, running.status().retried) == (1, 0)
    assert not calls.texts


async def test_a_rejected_message_is_parked_at_once(producer: Producer, amqp_url: str, database_url: str) -> None:
    async def reject(message: Note, work: Work) -> None:
        raise Reject("no such course")

    calls = Calls(reject)
    ladder = milliseconds(60_000)
    with structlog.testing.capture_logs() as logs:
        async with consuming(calls.declared(retry=ladder), amqp_url=amqp_url, database_url=database_url):
            await producer.send("x", message_id="m")
            parked = await producer.take("q.parked", within=60)

    assert parked.headers["x-error"] == "no such course"
    (event,) = [each for each in logs if each["event"] == "message parked"]
    assert (event["queue"], event["message_id"], event["attempt"]) == ("q", "m", 1)
    assert len(calls.texts) == 1


async def test_messages_without_an_id_are_counted_and_climb_the_ladder(
    producer: Producer, amqp_url: str, database_url: str
) -> None:
    calls = Calls(fail)
    async with consuming(
        calls.declared(retry=milliseconds(20)), amqp_url=amqp_url, database_url=database_url
    ) as running:
        await producer.channel.basic_publish(b'{"text": "x"}', routing_key="q", properties=sealed())
        await producer.take("q.parked")

    assert len(calls.texts) == 2
    assert running.status().unidentified == 1


@pytest.mark.parametrize("garbage", ["two", -7, 10**12, [1], {"a": 1}, bytearray(b"\xff"), None, 1.5])
async def test_garbage_in_our_own_headers(producer: Producer, amqp_url: str, database_url: str, garbage: Any) -> None:
    calls = Calls(fail)
    headers = {"x-attempt": garbage, "x-error": garbage, "x-failed-at": garbage, "x-death": garbage}
    async with consuming(calls.declared(retry=milliseconds(20)), amqp_url=amqp_url, database_url=database_url):
        await producer.send("x", headers=headers)
        await producer.take("q.parked")

    assert 1 <= len(calls.texts) <= 2


async def test_a_wait_queue_that_was_deleted_is_declared_again(
    producer: Producer, amqp_url: str, database_url: str
) -> None:
    calls = Calls(fail)
    ladder = milliseconds(20, 40)
    async with consuming(calls.declared(retry=ladder), amqp_url=amqp_url, database_url=database_url) as running:
        await producer.channel.queue_delete("q.retry.40ms")
        await producer.send("first")
        await producer.take("q.parked")
        await producer.channel.queue_delete("q.parked")
        await producer.send("second")
        await eventually(lambda: running.status().parked == 2)
        await producer.take("q.parked")

    assert calls.texts == ["first"] * 3 + ["second"] * 3


async def test_what_cannot_be_published_again_is_parked_by_the_broker(
    producer: Producer, amqp_url: str, database_url: str
) -> None:
    calls = Calls(fail)
    with structlog.testing.capture_logs() as logs:
        async with consuming(calls.declared(), amqp_url=amqp_url, database_url=database_url) as running:
            await producer.send("large", headers={"x": "x" * 130_950}, message_id="m")
            parked = await producer.take("q.parked")
            await producer.send("small")
            await producer.take("q.parked")

    assert parked.body == b'{"text": "large"}'
    assert parked.headers["x"] == "x" * 130_950
    (event,) = [each for each in logs if each["event"].startswith("message cannot be published again")]
    assert (event["message_id"], event["error"]) == ("m", "ValueError: not large")
    assert running.status().parked == 2
