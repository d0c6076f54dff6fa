from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio
import httpx
import pytest

from db.pool import Pool, create_pool, current_pool
from roles.api.role import ApiRole
from roles.resources import Resources
from roles.tally import Tally
from schema.settings import Database, Settings


@dataclass(frozen=True)
class RunningApi:
    """The role at work on a port of its own."""

    http: httpx.AsyncClient
    host: str
    port: int
    stop: anyio.Event
    tally: Tally

    async def connect(self) -> anyio.abc.SocketStream:
        return await anyio.connect_tcp(self.host, self.port)

    async def raw(self, request: bytes) -> RawReply:
        """Sends bytes over a socket of its own, and reads what comes until the server closes it."""
        async with await self.connect() as stream:
            await stream.send(request)
            return RawReply.parse(await read_all(stream))


@dataclass(frozen=True)
class RawReply:
    status: int
    headers: dict[str, str]
    body: bytes

    @staticmethod
    def parse(data: bytes) -> RawReply:
        head, _, body = data.partition(b"\r\n\r\n")
        status, *lines = head.decode("latin1").split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        return RawReply(int(status.split()[1]), headers, body)

    def json(self) -> Any:
        return json.loads(self.body)


async def read_all(stream: anyio.abc.ByteReceiveStream) -> bytes:
    data = b""
    with anyio.fail_after(10):
        try:
            while True:
                data += await stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return data


@asynccontextmanager
async def running_api(pool: Pool, settings: Settings) -> AsyncIterator[RunningApi]:
    resources = Resources(settings=settings, pool=pool, amqp_urls={})
    role = ApiRole(resources)
    stop = anyio.Event()
    async with anyio.create_task_group() as tasks:
        with anyio.fail_after(10):
            await tasks.start(partial(role.run, stop=stop))
        address = resources.board.addresses["api"]
        host, port = address.host, address.port
        async with httpx.AsyncClient(base_url=f"http://{host}:{port}", trust_env=False, timeout=10) as http:
            yield RunningApi(http, host, port, stop, resources.board.tally("api"))
        stop.set()


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[Pool]:
    """An open pool on a fresh database, and the current one."""
    async with create_pool(database_url, Database()) as pool:
        token = current_pool.set(pool)
        yield pool
        current_pool.reset(token)


StartApi = Callable[..., AbstractAsyncContextManager[RunningApi]]


@pytest.fixture
def start_api(pool: Pool) -> StartApi:
    """Starts the role with other settings: `async with start_api(debug=True, api={…}) as api`."""

    def start(*, api: dict[str, Any] | None = None, **settings: Any) -> AbstractAsyncContextManager[RunningApi]:
        values = {"api": {"bind": "127.0.0.1:0", **(api or {})}, **settings}
        return running_api(pool, Settings.model_validate(values))

    return start


@pytest.fixture
async def api(start_api: StartApi) -> AsyncIterator[RunningApi]:
    async with start_api() as api:
        yield api
