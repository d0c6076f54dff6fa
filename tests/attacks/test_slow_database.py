"""A database that does not answer, because somebody holds a lock: what needs it is told so in time, all else lives.

Both ways out are looked at: the statement's own timeout ends it, or the request's does.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

import anyio
import httpx
import psycopg
import pytest

from tests.attacks.target import LONG, Target, attacked
from tests.clients.stub import MOSCOW, answer, running_stub

pytestmark = pytest.mark.anyio

STUDENTS = "/api/v1/students"
MOSCOW_TIME = "/api/v1/timezone?area=Europe&city=Moscow"
POOL = 4

ENDED_BY = {
    "the statement": {"APP_DATABASE__STATEMENT_TIMEOUT": "1s"},
    "the request": {
        "APP_API__REQUEST_TIMEOUT": "2s",
        "APP_DATABASE__CLIENT_CONNECTION_CHECK_INTERVAL": "200ms",
    },
}


@pytest.fixture(scope="module", params=ENDED_BY)
async def target(
    request: pytest.FixtureRequest, shared_database_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Target]:
    async with running_stub() as timezones:
        timezones.plays(answer(200, MOSCOW, content_type="application/json"))
        environ = {
            "APP_CLIENTS__TIMEZONE__URL": timezones.url,
            "APP_CLIENTS__TIMEZONE__LIFETIME": "1ms",
            "APP_CLIENTS__TIMEZONE__STALE_FOR": "1ms",
            "APP_DATABASE__POOL_MAX_SIZE": str(POOL),
            "APP_DATABASE__POOL_TIMEOUT": "500ms",
            **ENDED_BY[request.param],
        }
        async with attacked(tmp_path_factory.mktemp("attacked"), shared_database_url, environ) as target:
            yield target


@asynccontextmanager
async def locked(target: Target) -> AsyncIterator[None]:
    """Somebody holds a lock on the table of students, within the block."""
    async with await psycopg.AsyncConnection.connect(target.database_url) as conn:
        await conn.execute("LOCK TABLE student IN ACCESS EXCLUSIVE MODE")
        yield
        await conn.rollback()


async def together(*calls: tuple[str, str], target: Target) -> list[httpx.Response]:
    """All of these at once, over a connection each; what is not a GET has a body and a key."""
    answers: list[httpx.Response] = []

    async def call(method: str, path: str) -> None:
        body = {"name": "Edsger"} if method != "GET" else None
        key = {"Idempotency-Key": str(uuid4())}
        answers.append(await target.app.api.request(method, path, json=body, headers=key, timeout=LONG))

    async with anyio.create_task_group() as tasks:
        for each in calls:
            tasks.start_soon(call, *each)
    return answers


async def recovered(target: Target) -> None:
    """Returns when all connections of the pool are back, and there are no more of them than there may be."""

    async def whole() -> bool:
        pool = (await target.app.status())["pool"]
        return bool(pool["waiting"] == 0 and 0 < pool["available"] == pool["size"] <= POOL)

    await target.app.until(whole, within=LONG)


async def test_what_needs_the_table_is_told_to_come_back_and_nothing_else_notices(target: Target) -> None:
    needing = [("GET", f"{STUDENTS}/1"), ("GET", STUDENTS), ("POST", STUDENTS), ("PATCH", f"{STUDENTS}/1")] * POOL
    others = [("GET", "/openapi.json"), ("GET", MOSCOW_TIME), ("GET", "/problems/unavailable"), ("GET", "/docs")]
    async with locked(target):
        refused: list[httpx.Response] = []

        async def need() -> None:
            refused.extend(await together(*needing, target=target))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(need)
            while len(refused) < len(needing):
                assert [reply.status_code for reply in await together(*others, target=target)] == [200] * len(others)
                assert (await target.app.ops.get("/health/live")).status_code == 200
                await anyio.sleep(0.05)
        # All of them came while the lock was held.
        assert {reply.status_code for reply in refused} == {503}
        assert all(reply.headers["Retry-After"] for reply in refused)
        assert {reply.json()["type"] for reply in refused} <= {"/problems/unavailable", "/problems/timed-out"}
        assert len({reply.json()["detail"] for reply in refused}) > 1, "some waited for the table, some for the pool"
    assert {reply.status_code for reply in await together(*[("GET", STUDENTS)] * POOL, target=target)} == {200}
    await recovered(target)


async def test_a_post_that_was_given_up_has_no_effect_and_once_it_is_sent_again_one(target: Target) -> None:
    key = {"Idempotency-Key": str(uuid4())}
    name = f"Barbara {uuid4()}"

    async def post() -> httpx.Response:
        return await target.app.api.post(STUDENTS, json={"name": name}, headers=key, timeout=LONG)

    async with locked(target):
        for _ in range(2):
            given_up = await post()
            assert given_up.status_code in (409, 503)
            assert given_up.headers["Retry-After"]
    with anyio.fail_after(LONG):
        while (applied := await post()).status_code == 409:  # noqa: ASYNC110 - it is being undone by the server
            await anyio.sleep(float(applied.headers["Retry-After"]))
    again = await post()
    assert (applied.status_code, again.status_code) == (201, 201)
    assert again.json() == applied.json()
    assert "Idempotency-Replayed" not in applied.headers
    assert again.headers["Idempotency-Replayed"] == "true"
    assert len((await target.app.api.get(STUDENTS, params={"name": name})).json()["items"]) == 1
    await recovered(target)


async def test_requests_that_were_given_up_leave_no_statement_behind(target: Target) -> None:
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'rolecall' AND wait_event_type = 'Lock'"
    async with locked(target), await psycopg.AsyncConnection.connect(target.database_url, autocommit=True) as conn:
        await together(*[("GET", STUDENTS)] * 2 * POOL, target=target)
        with anyio.fail_after(LONG):
            while (await (await conn.execute(waiting)).fetchone()) != (0,):  # noqa: ASYNC110 - it is the server
                await anyio.sleep(0.05)
