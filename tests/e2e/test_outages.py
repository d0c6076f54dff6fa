"""What a night brings: crashed roles, brokers and databases that go away, sockets that fall silent."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import anyio
import psycopg
import pytest

from roles.consume.handlers import CONSUMERS
from roles.embedded.postgres import Postgres
from roles.embedded.rabbitmq import RabbitMQ
from tests.amqp.support import proxied
from tests.e2e.support import FAULTY_APP, App, channel, publish, running
from tests.services import SOURCES, RabbitServer
from tests.services import running as serving

pytestmark = [pytest.mark.anyio, pytest.mark.early]

CONSUMER_CHECKS = {f"consumer:{each.queue}" for each in CONSUMERS}

QUICK = {"APP_SUPERVISOR__BACKOFF_MAX": "2s"}
"""For what is not about the backoff: less waiting."""

FAST = {"APP_AMQP__EXAMPLE__HEARTBEAT": "1s", "APP_AMQP__EXAMPLE__TIMEOUT": "2s"}


async def names(app: App, beginning: str) -> list[str]:
    items = (await app.api.get("/api/v1/students", params={"limit": 100})).json()["items"]
    return [student["name"] for student in items if student["name"].startswith(beginning)]


async def test_a_role_that_crashes_is_restarted_and_its_sibling_does_not_notice(
    here: Path, services: dict[str, str]
) -> None:
    environ = {**services, "CRASHES": "4", "APP_SUPERVISOR__BACKOFF_INITIAL": "200ms"}
    async with running(here, "--roles", "api,schedule", environ=environ, script=FAULTY_APP, wait=False) as app:
        await app.connect()
        codes = [(await app.api.get("/api/v1/students")).status_code for _ in range(500)]
        assert codes == [200] * 500

        async def has_recovered() -> bool:
            """For good: between two crashes it runs for a moment, too."""
            schedule = await app.role("schedule")
            return (schedule["restarts"], schedule["state"]) == (4, "running")

        await app.until(has_recovered)
        await app.ready()
        schedule = await app.role("schedule")
        assert schedule["last_error"] == "RuntimeError: told to crash"
        assert (await app.role("api"))["restarts"] == 0
        failures = [each for each in app.records if each["event"] == "role failed"]
        assert len(failures) == 4
        assert all("told to crash" in failure["exception"] for failure in failures)
        assert await app.stop() == 0


async def test_rabbitmq_goes_away_and_comes_back_and_nothing_published_is_lost(
    here: Path, tmp_path: Path, database_url: str
) -> None:
    node = RabbitMQ(tmp_path / "services", source_directory=SOURCES)
    environ = {"APP_DATABASE__URL": database_url, "APP_AMQP__EXAMPLE__URL": node.url, **QUICK}

    async def published(beginning: str, count: int) -> None:
        async with channel(node.url) as producer:
            for number in range(count):
                name = f"{beginning} {number}"
                await publish(producer, {"name": name}, message_id=name)

    async def all_stored(app: App, beginning: str, count: int) -> None:
        async def stored() -> bool:
            return len(set(await names(app, f"{beginning} "))) == count

        await app.until(stored)

    async with AsyncServer(node) as server:
        async with running(here, environ=environ) as app:
            await server.stop()
            reasons = await app.not_ready()
            assert reasons.keys() <= {"role:consume", *CONSUMER_CHECKS}
            assert (await app.api.get("/api/v1/students")).status_code == 200
            assert (await app.ops.get("/health/live")).status_code == 200
            await server.start()
            await published("during", 20)
            await app.ready()
            await all_stored(app, "during", 20)
            assert await app.stop() == 0

        await published("before", 50)
        await server.stop()
        async with running(here, environ=environ, wait=False) as app:
            await app.connect()
            failed = await app.logged("role failed", role="consume")
            assert failed["failure"] == "unavailable"
            assert "exception" not in failed, "no traceback: nothing of ours is broken"

            async def only_the_consumers_are_not() -> bool:
                return (await app.reasons()).keys() == {"role:consume", *CONSUMER_CHECKS}

            await app.until(only_the_consumers_are_not)
            await server.start()
            await app.ready()
            await all_stored(app, "before", 50)
            assert await app.stop() == 0


async def test_postgresql_goes_away_and_comes_back(here: Path, tmp_path: Path, amqp_url: str) -> None:
    database = Postgres(tmp_path / "services")
    environ = {
        "APP_DATABASE__URL": database.url,
        "APP_DATABASE__MIGRATE": "true",
        "APP_AMQP__EXAMPLE__URL": amqp_url,
        **QUICK,
    }
    async with AsyncServer(database) as server, running(here, environ=environ) as app:
        for number in range(10):
            await app.api.post("/api/v1/students", json={"name": f"before {number}"})
        await server.stop()
        await app.not_ready("database")
        for _ in range(3):
            with anyio.fail_after(60):
                refused = await app.api.get("/api/v1/students")
            assert refused.status_code == 503
            assert refused.headers["content-type"] == "application/problem+json"
            assert int(refused.headers["retry-after"]) > 0
        assert (await app.ops.get("/health/live")).status_code == 200
        async with channel(amqp_url) as producer:
            await publish(producer, {"name": "during"}, message_id="m-1")
        await server.start()
        await app.ready()
        codes = [(await app.api.get("/api/v1/students")).status_code for _ in range(50)]
        assert codes == [200] * 50

        async def stored() -> bool:
            return await names(app, "during") != []

        await app.until(stored)
        assert (await app.consumer())["parked"] == 0
        assert (await app.consumer())["retried"] == 0
        assert await app.stop() == 0


async def test_a_database_that_is_behind_is_said_and_waited_for(here: Path, services: dict[str, str]) -> None:
    with psycopg.connect(services["APP_DATABASE__URL"], autocommit=True) as admin:
        admin.execute("UPDATE alembic_version SET version_num = '0001'")
        async with running(here, environ=services, wait=False) as app:
            await app.connect()
            reasons = await app.not_ready("schema", "role:consume")
            assert "run `python app.py migrate`" in reasons["schema"]
            assert "waits for database" in reasons["role:consume"]
            row = admin.execute("SELECT max(version_num) FROM alembic_version").fetchone()
            assert row == ("0001",)


async def test_a_deleted_queue_is_declared_and_consumed_again(
    here: Path, services: dict[str, str], rabbitmq: RabbitServer
) -> None:
    async with running(here, environ=services) as app:
        url = services["APP_AMQP__EXAMPLE__URL"]
        vhost = url.rpartition("/")[2]
        before = len(app.records)
        rabbitmq.api.delete(f"/queues/{vhost}/example.main").raise_for_status()
        await app.logged("not subscribed", since=before)
        await consumes_again(app, url)


async def test_a_connection_that_the_broker_closes_is_opened_again(
    here: Path, services: dict[str, str], rabbitmq: RabbitServer
) -> None:
    async with running(here, environ=services) as app:
        url = services["APP_AMQP__EXAMPLE__URL"]
        vhost = url.rpartition("/")[2]

        async def closed() -> bool:
            """The broker's list of connections lags by some seconds."""
            found = [each["name"] for each in rabbitmq.api.get("/connections").json() if each["vhost"] == vhost]
            for name in found:
                rabbitmq.api.delete(f"/connections/{name}")
            return bool(found)

        await app.until(closed)
        await consumes_again(app, url)


@pytest.mark.parametrize("settings", [FAST, {}], ids=["fast heartbeat", "default settings"])
async def test_a_half_open_socket_is_noticed_and_replaced(
    here: Path, services: dict[str, str], settings: dict[str, str]
) -> None:
    url = services["APP_AMQP__EXAMPLE__URL"]
    async with proxied(url) as proxy:
        environ = {**services, **settings, "APP_AMQP__EXAMPLE__URL": proxy.url}
        async with running(here, "--roles", "api,consume", environ=environ) as app:
            proxy.silent = True
            await app.not_ready("consumer:example.main", within=40)
            proxy.silent = False
            await app.ready(within=40)
            await consumes_again(app, url)


async def consumes_again(app: App, url: str) -> None:
    await app.ready(within=40)
    async with channel(url) as producer:
        await publish(producer, {"name": "again"})

    async def stored() -> bool:
        return await names(app, "again") != []

    await app.until(stored)


class AsyncServer:
    """A server that a test stops and starts, without blocking its loop."""

    def __init__(self, server: Postgres | RabbitMQ) -> None:
        self._server = server
        self._running: Any = None

    async def start(self) -> None:
        self._running = serving(self._server)
        await anyio.to_thread.run_sync(self._running.__enter__)

    async def stop(self) -> None:
        if self._running is not None:
            await anyio.to_thread.run_sync(self._running.__exit__, None, None, None)
            self._running = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        with anyio.CancelScope(shield=True):
            await self.stop()
