from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any, cast

import psycopg
import pytest

from clients.cache import open_cache
from db.pool import Pool, create_pool, current_pool
from roles.api.routes import ROUTES
from roles.clock import Clock
from schema.settings import Cache, Database, Settings
from tests.api.support import Faults, RunningApi, StartApi, running_api
from tests.services import PostgresServer
from tests.web.support import ServerName


@pytest.fixture(autouse=True)
def no_linger(monkeypatch: pytest.MonkeyPatch) -> None:
    """There are many roles to stop here, and no busy clients to be nice to."""
    monkeypatch.setattr("roles.web.hypercorn.LINGER", 0.0)
    monkeypatch.setattr("roles.web.granian.LINGER", 0.0)


@pytest.fixture(autouse=True)
def server_name(request: pytest.FixtureRequest) -> ServerName:
    """The server of the API: the default one, or both in turn where a module says so (`tests.api.support.BOTH`)."""
    return cast("ServerName", getattr(request, "param", "hypercorn"))


@pytest.fixture(scope="session")
def shared_database_url(postgres: PostgresServer) -> Iterator[str]:
    """One database for all tests of the API; `pool` empties it."""
    with postgres.database() as url:
        yield url


@pytest.fixture
async def pool(shared_database_url: str) -> AsyncIterator[Pool]:
    """An open pool on an empty database, and the current one. It is small, and has little patience."""
    settings = Database.model_validate({"pool_max_size": 4, "pool_timeout": "2s", "statement_timeout": "2s"})
    async with await psycopg.AsyncConnection.connect(shared_database_url, autocommit=True) as conn:
        await conn.execute("TRUNCATE student, api_key, idempotency_key, outbox RESTART IDENTITY")
    async with open_cache(Cache()), create_pool(shared_database_url, settings) as pool:
        token = current_pool.set(pool)
        yield pool
        current_pool.reset(token)


@pytest.fixture
def start_api(pool: Pool, server_name: ServerName) -> StartApi:
    """Starts the role with other settings: `async with start_api(debug=True, api={…}) as api`."""

    def start(
        *, api: dict[str, Any] | None = None, clock: Clock | None = None, **settings: Any
    ) -> AbstractAsyncContextManager[RunningApi]:
        values = {"api": {"bind": "127.0.0.1:0", "server": server_name, **(api or {})}, **settings}
        return running_api(pool, Settings.model_validate(values), clock)

    return start


@pytest.fixture
async def api(start_api: StartApi) -> AsyncIterator[RunningApi]:
    async with start_api() as api:
        yield api


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Faults:
    """Adds routes that fail; ask for it before `api`."""
    faults = Faults()
    monkeypatch.setattr("roles.api.app.ROUTES", (*ROUTES, faults.blueprint()))
    return faults
