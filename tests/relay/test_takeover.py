"""One relay at a time, whoever it is: nothing is sent twice by two of them, and none is missed when it dies."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import anyio
import psycopg
import pytest

from db.pool import Pool, connection, create_pool, unit_of_work
from schema.settings import Database
from schema.steps import Step, observe
from tests.amqp.support import eventually, proxied
from tests.consume.support import Producer
from tests.e2e.support import running
from tests.relay.support import NOTED, Note, bodies, left, note, outbox, relaying

pytestmark = pytest.mark.anyio


async def holders() -> int:
    """How many transactions hold an advisory lock in this database."""
    async with connection() as conn:
        row = await (
            await conn.execute(
                "SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = pg_locks.database"
                " WHERE locktype = 'advisory' AND granted AND datname = current_database()"
            )
        ).fetchone()
    assert row is not None
    return int(row[0])


async def held() -> None:
    """Returns when a relay is at it."""
    with anyio.fail_after(60):
        while not await holders():  # noqa: ASYNC110 - it happens in the database
            await anyio.sleep(0.01)


async def test_two_relays_send_each_message_once_and_in_order(pool: Pool, broker: Producer, amqp_url: str) -> None:
    async with (
        relaying(pool, amqp_url, relay={"batch": 7}) as one,
        relaying(pool, amqp_url, relay={"batch": 7}) as other,
    ):
        for start in range(0, 200, 5):
            await note(*map(str, range(start, start + 5)))
        assert await bodies(broker, 200) == list(map(str, range(200)))
        await left(0)
    assert one.tally().finished + other.tally().finished == 200
    assert await broker.count("q") == 0


@asynccontextmanager
async def proxied_database(url: str, directory: Path) -> AsyncIterator[tuple[str, anyio.Event]]:
    """The database's URL through a socket of ours, and an event: once it is set, nothing is forwarded any more."""
    host = psycopg.conninfo.conninfo_to_dict(url)["host"]
    silent = anyio.Event()

    async def pump(source: anyio.abc.ByteStream, target: anyio.abc.ByteStream) -> None:
        try:
            async for data in source:
                if silent.is_set():
                    await anyio.sleep_forever()
                await target.send(data)
            if not silent.is_set():
                await target.send_eof()
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            return

    async def serve(client: anyio.abc.ByteStream) -> None:
        upstream = await anyio.connect_unix(f"{host}/.s.PGSQL.5432")
        async with client, upstream as server, anyio.create_task_group() as group:
            group.start_soon(pump, client, server)
            group.start_soon(pump, server, client)

    listener = await anyio.create_unix_listener(directory / ".s.PGSQL.5432")
    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, serve)
        yield url.replace(str(host).replace("/", "%2F"), str(directory).replace("/", "%2F")), silent
        group.cancel_scope.cancel()


async def test_a_relay_keeps_its_lock_while_it_waits_and_loses_it_with_its_machine(
    pool: Pool, broker: Producer, amqp_url: str, database_url: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("roles.relay.round.LEASE", timedelta(seconds=1))
    monkeypatch.setattr("roles.relay.round.BEAT", timedelta(milliseconds=100))
    slow = {"amqp": {"example": {"timeout": "60s"}}}
    async with proxied_database(database_url, here) as (url, silent), proxied(amqp_url) as proxy:
        far_pool = create_pool(url, Database(pool_min_size=1))
        await far_pool.open(wait=True)
        async with anyio.create_task_group() as group:

            async def far() -> None:
                async with relaying(far_pool, proxy.url, **slow) as running_far:  # type: ignore[arg-type]
                    await eventually(lambda: running_far.status().connected)
                    connected.set()
                    await anyio.sleep_forever()

            connected = anyio.Event()
            group.start_soon(far)
            await connected.wait()
            proxy.silent = True
            await note("a")
            await held()
            async with relaying(pool, amqp_url):
                await anyio.sleep(2.5)
                assert await broker.count("q") == 0, "its transaction lives as long as it says that it does"
                silent.set()
                assert await bodies(broker, 1) == ["a"]
                await left(0)
            group.cancel_scope.cancel()
        with anyio.CancelScope(shield=True):
            await far_pool.close(0.1)


async def test_a_relay_that_is_killed_leaves_its_messages_to_the_next(
    pool: Pool, broker: Producer, amqp_url: str, database_url: str, here: Path
) -> None:
    async with proxied(amqp_url) as proxy:
        environ = {"APP_DATABASE__URL": database_url, "APP_AMQP__EXAMPLE__URL": proxy.url}
        async with running(here, "--roles", "schedule", environ=environ) as app:

            async def connected() -> bool:
                return bool((await app.status())["outbox"][0]["connected"])

            await app.until(connected)
            proxy.silent = True
            async with unit_of_work() as work:
                await work.publish(NOTED, Note(text="a"))
            await held()
            app.kill(signal.SIGKILL)
            await app.exited()
            async with relaying(pool, amqp_url):
                assert await bodies(broker, 1) == ["a"]
                await left(0)


async def test_what_the_broker_has_is_not_sent_again_when_the_database_forgot(
    pool: Pool, broker: Producer, amqp_url: str, database_url: str
) -> None:
    """The connection breaks between the confirm and the deletion."""
    killed = 0

    def kill(step: Step) -> None:
        nonlocal killed
        if step is Step.RELAY_CONFIRMED and not killed:
            with psycopg.connect(database_url, autocommit=True) as admin:
                row = admin.execute(
                    "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND state = 'idle in transaction'"
                ).fetchone()
            assert row is not None
            killed = row[0]

    observe(kill)
    try:
        async with relaying(pool, amqp_url) as relay:
            await note("a", "b")
            assert await bodies(broker, 2) == ["a", "b"]
            await left(0)
            assert relay.tally().finished == 2
    finally:
        observe(None)
    assert killed
    assert await broker.count("q") == 0


async def test_a_drain_does_not_wait_for_a_broker_that_is_away(pool: Pool, broker: Producer, amqp_url: str) -> None:
    async with proxied(amqp_url) as proxy:
        proxy.refusing = True
        async with relaying(pool, proxy.url) as relay:
            await note("a")
            await eventually(lambda: relay.status().reason)
    assert [row["attempts"] for row in await outbox()] == [0]


async def test_steps_come_in_their_order(pool: Pool, broker: Producer, amqp_url: str) -> None:
    seen: list[Step] = []
    observe(seen.append)
    try:
        async with relaying(pool, amqp_url):
            async with unit_of_work() as work:
                await work.publish(NOTED, Note(text="a"))
                await work.connection.execute("SELECT 1")  # without it the message would travel with the commit
            await bodies(broker, 1)
            await left(0)
            await eventually(lambda: Step.RELAY_DELETED in seen)
    finally:
        observe(None)
    assert seen == [
        Step.OUTBOX_INSERTED,
        Step.OUTBOX_COMMITTED,
        Step.RELAY_PUBLISHED,
        Step.RELAY_CONFIRMED,
        Step.RELAY_DELETED,
    ]
