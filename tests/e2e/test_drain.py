"""The end of the process: what is in flight is finished or given back, within its time."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import anyio
import httpx
import psycopg
import pytest

from tests.e2e.support import FAULTY_APP, App, channel, publish, running

pytestmark = pytest.mark.anyio

PROMISED = 1.0
"""Seconds after `supervisor.drain_timeout` in which the process has ended."""

BUSY = 20.0
"""Seconds that a machine with more to do than it has cores may add to that."""

ORDERS: dict[str, Any] = {"exchange": "test.exchange", "queue": "test.orders"}


async def in_flight(app: App, role: str, count: int) -> None:
    """Waits until a role holds so many units of work."""

    async def holds() -> bool:
        return bool((await app.role(role))["counts"]["in_flight"] == count)

    await app.until(holds)


@pytest.mark.parametrize("server", ["hypercorn", "granian"])
async def test_sigterm_under_load_loses_nothing_and_the_receipt_adds_up(
    server: str, here: Path, services: dict[str, str]
) -> None:
    answers: list[int | str] = []
    messages = 300  # far more than can be handled until the signal comes
    async with running(here, environ={**services, "APP_API__SERVER": server}, script=FAULTY_APP) as app:
        url = services["APP_AMQP__EXAMPLE__URL"]
        base = str(app.api.base_url)

        async def ask() -> None:
            async with httpx.AsyncClient(base_url=base, timeout=20, trust_env=False) as client:
                answers.append((await client.get("/api/v1/faults/slow/5000")).status_code)

        async with channel(url) as producer, anyio.create_task_group() as clients:
            for number in range(messages):
                await publish(producer, {"seconds": 2}, message_id=f"m-{number}", **ORDERS)
            for _ in range(30):
                clients.start_soon(ask)
            await in_flight(app, "api", 30)
            app.kill(signal.SIGTERM)
            assert await app.exited() == 0
        assert answers == [200] * 30
        receipt = app.receipt()
        for line in receipt.values():
            assert line["in_flight"] == line["finished"] + line["failed"] + line["given_back"] + line["cut_off"]
        assert receipt["api"]["finished"] == 30
        assert receipt["consume"]["cut_off"] == 0

        with psycopg.connect(services["APP_DATABASE__URL"]) as conn:
            row = conn.execute("SELECT count(*) FROM student WHERE name = 'obeyed sleep'").fetchone()
        assert row is not None
        async with channel(url) as other:
            left = (await other.queue_declare("test.orders", passive=True)).message_count
        assert row[0] + (left or 0) == messages, "each message is applied and acked, or back in its queue"
        assert 0 < row[0] < messages


async def test_readiness_says_so_first(here: Path, services: dict[str, str]) -> None:
    environ = {**services, "APP_SUPERVISOR__DRAIN_DELAY": "2s"}
    async with running(here, "--roles", "api", environ=environ) as app:
        app.kill(signal.SIGTERM)
        reasons = await app.not_ready()
        assert reasons == {"draining": "the process is shutting down"}
        assert (await app.api.get("/api/v1/students")).status_code == 200
        assert await app.exited() == 0


@pytest.mark.parametrize("how", ["stubborn", "block"])
async def test_a_handler_that_will_not_stop_is_left_behind_in_time(
    here: Path, services: dict[str, str], how: str
) -> None:
    environ = {**services, "APP_SUPERVISOR__DRAIN_TIMEOUT": "1s"}
    async with running(here, "--roles", "consume", environ=environ, script=FAULTY_APP) as app:
        async with channel(services["APP_AMQP__EXAMPLE__URL"]) as producer:
            await publish(producer, {"seconds": 30, "how": how}, **ORDERS)
        if how == "stubborn":
            await in_flight(app, "consume", 1)
        else:
            await app.logged("event loop blocked")
        began = time.monotonic()
        app.kill(signal.SIGTERM)
        assert await app.exited() == 1
        assert time.monotonic() - began < 1 + PROMISED + BUSY


async def test_a_handler_that_outlasts_the_drain_is_cut_off_and_its_message_comes_back(
    here: Path, services: dict[str, str]
) -> None:
    environ = {**services, "APP_SUPERVISOR__DRAIN_TIMEOUT": "1s"}
    url = services["APP_AMQP__EXAMPLE__URL"]
    async with running(here, "--roles", "consume", environ=environ, script=FAULTY_APP) as app:
        async with channel(url) as producer:
            await publish(producer, {"seconds": 30}, **ORDERS)
        await in_flight(app, "consume", 1)
        began = time.monotonic()
        assert await app.stop() == 1
        assert time.monotonic() - began < 1 + PROMISED + BUSY
        assert "cut off after supervisor.drain_timeout = 1s: consume" in app.output
    async with channel(url) as other:
        assert (await other.queue_declare("test.orders", passive=True)).message_count == 1


@pytest.mark.parametrize("how", ["stubborn", "block"])
async def test_a_second_signal_exits_at_once(here: Path, services: dict[str, str], how: str) -> None:
    async with running(here, "--roles", "consume", environ=services, script=FAULTY_APP) as app:
        async with channel(services["APP_AMQP__EXAMPLE__URL"]) as producer:
            await publish(producer, {"seconds": 30, "how": how}, **ORDERS)
        if how == "stubborn":
            await in_flight(app, "consume", 1)
            app.kill(signal.SIGTERM)
            await app.logged("drain started")
        else:
            await app.logged("event loop blocked")
            app.kill(signal.SIGTERM)
            await anyio.sleep(0.1)  # two signals of one kind that are pending at once are one
        began = time.monotonic()
        app.kill(signal.SIGTERM)
        assert await app.exited() == 1
        assert time.monotonic() - began < BUSY


async def test_ctrl_c_drains_like_sigterm(here: Path, services: dict[str, str]) -> None:
    async with running(here, "--roles", "api", environ=services) as app:
        app.kill(signal.SIGINT)
        assert await app.exited() == 0
        assert app.receipt()["api"]["cut_off"] == 0
