"""The ladder and the parking lot, as a producer sees them."""

from __future__ import annotations

from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import anyio
import psycopg
import pytest
from aiormq.abc import DeliveredMessage

from tests.e2e.support import FAULTY_APP, channel, publish, running

pytestmark = pytest.mark.anyio

ORDERS: dict[str, Any] = {"exchange": "test.exchange", "queue": "test.orders"}
PROPERTIES: dict[str, Any] = {
    "message_id": "m-1",
    "correlation_id": "c-1",
    "reply_to": "somewhere",
    "app_id": "producer",
    "message_type": "order",
    "priority": 3,
    "headers": {"tenant": "t-7", "depth": 4},
}


async def parked(url: str, queue: str, *, within: float = 60) -> DeliveredMessage:
    """The message that is found in the parking lot."""
    async with channel(url) as other:
        with anyio.fail_after(within):
            while True:
                message = await other.basic_get(f"{queue}.parked", no_ack=True)
                if message.body or message.header.properties.headers:
                    return message
                await anyio.sleep(0.05)


async def test_a_message_whose_handler_always_fails_is_tried_as_often_as_the_ladder_says_then_parked(
    here: Path, services: dict[str, str]
) -> None:
    url = services["APP_AMQP__EXAMPLE__URL"]
    environ = {**services, "APP_CONSUME__ARCHIVE": "false"}
    async with running(here, "--roles", "consume", environ=environ, script=FAULTY_APP) as app:
        async with channel(url) as producer:
            await publish(producer, {"how": "fail"}, **ORDERS, **PROPERTIES)
        found = await parked(url, "test.orders")
        tries = [record for record in app.records if record["event"] in ("message retried", "message parked")]
        assert [record["event"] for record in tries] == ["message retried"] * 3 + ["message parked"]
        consumer = await app.consumer("test.orders")
        assert (consumer["retried"], consumer["parked"]) == (3, 1)
        assert await app.stop() == 0

    # Between the calls: a retry is logged after its wait began.
    times = [datetime.fromisoformat(each["timestamp"]) for each in app.records if each["event"] == "told"]
    delays = [(later - earlier).total_seconds() for earlier, later in pairwise(times)]
    for delay, rung in zip(delays, (0.2, 0.4, 0.8), strict=True):
        assert rung <= delay < rung + 20
    properties = found.header.properties
    assert found.body == b'{"how": "fail"}'
    assert {name: getattr(properties, name) for name in PROPERTIES if name != "headers"} == {
        name: value for name, value in PROPERTIES.items() if name != "headers"
    }
    assert properties.delivery_mode == 2
    headers = dict(properties.headers or {})
    assert (headers["tenant"], headers["depth"]) == ("t-7", 4)
    assert headers["x-attempt"] == 4
    assert "RuntimeError: as ordered" in str(headers["x-error"])
    assert headers["x-failed-at"]


@pytest.mark.parametrize(
    ("body", "reason"),
    [(b"\xff\xfenot json", "JSON"), (b"", "JSON"), (b'{"name": ""}', "name"), (b"[1, 2]", "object")],
)
async def test_a_message_that_cannot_be_read_is_parked_at_once_with_the_reason(
    here: Path, services: dict[str, str], body: bytes, reason: str
) -> None:
    url = services["APP_AMQP__EXAMPLE__URL"]
    async with running(here, "--roles", "consume", environ={**services, "APP_CONSUME__ARCHIVE": "false"}) as app:
        async with channel(url) as producer:
            await publish(producer, body, message_id="m-1", headers={"tenant": "t-7"})
        found = await parked(url, "example.main")
        assert found.body == body
        headers = dict(found.header.properties.headers or {})
        assert reason.lower() in str(headers["x-error"]).lower()
        assert headers["tenant"] == "t-7"
        assert found.header.properties.message_id == "m-1"
        assert (await app.consumer())["retried"] == 0


async def test_two_schedulers_run_each_tick_once(here: Path, services: dict[str, str]) -> None:
    async with (
        running(here, "--roles", "schedule", environ=services, script=FAULTY_APP) as one,
        running(here, "--roles", "schedule", environ=services, script=FAULTY_APP) as two,
    ):

        async def enough() -> bool:
            with psycopg.connect(services["APP_DATABASE__URL"]) as conn:
                row = conn.execute("SELECT count(*) FROM cron_run WHERE job = 'tick'").fetchone()
            return row is not None and row[0] >= 8

        await two.until(enough)
        assert await one.stop() == 0
        assert await two.stop() == 0
    with psycopg.connect(services["APP_DATABASE__URL"]) as conn:
        book = conn.execute(
            "SELECT scheduled_at, status, host FROM cron_run WHERE job = 'tick' ORDER BY 1"
        ).fetchall()
        effects = conn.execute("SELECT name, count(*) FROM student WHERE name LIKE 'tick %' GROUP BY 1").fetchall()
    assert {status for _, status, _ in book} <= {"finished", "skipped"}  # on a busy machine a tick meets the next
    book = [row for row in book if row[1] == "finished"]
    assert sum(count for _, count in effects) == len(book)
    by_host: dict[str, int] = {}
    for _, _, host in book:
        pid = host.rpartition(":")[2]
        by_host[f"tick {pid}"] = by_host.get(f"tick {pid}", 0) + 1
    assert by_host == dict(effects)
