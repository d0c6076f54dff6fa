"""The api role at work on a port of its own, and routes that fail on demand."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import anyio
import httpx
import psycopg
import pytest
import structlog
from anyio.abc import ByteReceiveStream, SocketStream
from pydantic import BaseModel, Field
from quart import Blueprint, Response, abort, request
from quart_schema import document_response, validate_querystring

from clients.cache import open_cache
from clients.errors import UpstreamInvalid, UpstreamTimeout, UpstreamUnavailable
from db.pool import Pool, connection
from roles.api.access import public, requires
from roles.api.pages import Page
from roles.api.replies import NoContent, reply
from roles.api.request import caller
from roles.api.role import ApiRole
from roles.clock import Clock, SystemClock
from roles.resources import Resources
from roles.tally import Tally
from schema.errors import DependencyUnavailable
from schema.pages import PageQuery
from schema.settings import Settings

BOTH = pytest.mark.parametrize("server_name", ["hypercorn", "granian"], indirect=True)
"""For modules whose tests depend on the server: each runs on each (see the fixture `server_name`)."""


@dataclass(frozen=True)
class RawReply:
    status: int
    headers: dict[str, str]
    body: bytes

    @staticmethod
    def parse(data: bytes) -> RawReply:
        head, _, body = data.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin1").split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        return RawReply(int(first.split()[1]), headers, body)

    def problem(self) -> Any:
        assert self.headers["content-type"] == "application/problem+json"
        return json.loads(self.body)


@dataclass(frozen=True)
class RunningApi:
    http: httpx.AsyncClient
    host: str
    port: int
    stop: anyio.Event
    tally: Tally

    async def connect(self) -> SocketStream:
        return await anyio.connect_tcp(self.host, self.port)

    async def raw(self, *parts: bytes) -> RawReply:
        """Sends bytes over a socket of its own, and reads what comes until the server closes it."""
        async with await self.connect() as stream:
            for part in parts:
                await stream.send(part)
            return RawReply.parse(await read_all(stream))


async def read_all(stream: ByteReceiveStream) -> bytes:
    data = b""
    with anyio.fail_after(60):
        try:
            while True:
                data += await stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return data


@asynccontextmanager
async def running_api(pool: Pool, settings: Settings, clock: Clock | None = None) -> AsyncIterator[RunningApi]:
    resources = Resources(settings=settings, pool=pool, amqp_urls={}, clock=clock or SystemClock())
    stop = anyio.Event()
    async with open_cache(settings.cache), anyio.create_task_group() as tasks:
        with anyio.fail_after(60):
            await tasks.start(partial(ApiRole(resources).run, stop=stop))
        address = resources.board.addresses["api"]
        async with httpx.AsyncClient(base_url=f"http://{address}", trust_env=False, verify=False, timeout=10) as http:
            yield RunningApi(http, address.host, address.port, stop, resources.board.tally("api"))
        stop.set()


StartApi = Callable[..., AbstractAsyncContextManager[RunningApi]]


class Named(BaseModel):
    """What has other names outside."""

    id: int
    full_name: str = Field(alias="fullName", examples=["Ada"])


class NamedPage(BaseModel):
    """Some of these."""

    items: list[Named]
    next: str | None = None


class NamedQuery(PageQuery):
    """Which of these."""

    full_name: str = Field("", alias="fullName")


@dataclass
class Faults:
    """Routes that fail: `/api/v1/faults/…`."""

    error: BaseException | None = None
    entered: anyio.Event = field(default_factory=anyio.Event)
    cancelled: anyio.Event = field(default_factory=anyio.Event)
    bound: dict[str, Any] = field(default_factory=dict)
    """What is bound to the logs of a request."""

    def blueprint(self) -> Blueprint:  # noqa: C901 - one route after the other
        blueprint = Blueprint("faults", __name__, url_prefix="/faults")

        @blueprint.get("/raise")
        @public
        @document_response(NoContent, 204)
        async def raise_error() -> Response:
            """Raises what the test wants."""
            assert self.error is not None
            raise self.error

        @blueprint.get("/abort/<int:status>")
        @public
        @document_response(NoContent, 204)
        async def abort_with(status: int) -> Response:
            """Aborts as Quart lets a route do."""
            abort(status)

        @blueprint.route("/slow", methods=["GET", "POST"])
        @public
        @document_response(NoContent, 204)
        async def slow() -> Response:
            """Takes for ever."""
            self.entered.set()
            try:
                await anyio.sleep_forever()
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
            return reply(status=204)

        @blueprint.get("/replaced")
        @public
        @document_response(NoContent, 204)
        async def replaced() -> Response:
            """Replaces the error that it is cancelled with, as some libraries do."""
            self.entered.set()
            with suppress(asyncio.CancelledError):
                await anyio.sleep_forever()
            raise asyncio.CancelledError("of a library")

        @blueprint.post("/silent")
        @public
        @document_response(NoContent, 204)
        async def silent() -> Response:
            """Takes JSON, if it is any."""
            return Response(str(await request.get_json(silent=True)))

        @blueprint.get("/stray")
        @public
        @document_response(NoContent, 204)
        async def stray() -> Response:
            """Ends in a cancellation that nobody asked for, as some libraries' calls do."""
            raise asyncio.CancelledError

        @blueprint.get("/group")
        @public
        @document_response(NoContent, 204)
        async def group() -> Response:
            """Fails in a child task, which leaves a count of cancellations behind before Python 3.13."""
            if self.error is None:
                async with connection() as conn:
                    await conn.execute("SELECT 1")
                return reply(status=204)
            with suppress(ExceptionGroup):
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(fail(self.error))
            self.error = None
            return await group()

        @blueprint.get("/slow-statement")
        @public
        @document_response(NoContent, 204)
        async def slow_statement() -> Response:
            """Runs into the statement timeout."""
            async with connection() as conn:
                await conn.execute("SELECT pg_sleep(10)")
            return reply(status=204)

        @blueprint.get("/caller")
        @requires()
        @document_response(NoContent, 204)
        async def say_caller() -> Response:
            """Says who calls."""
            self.bound = structlog.contextvars.get_contextvars()
            return Response(caller().name)

        @blueprint.get("/named")
        @public
        @validate_querystring(NamedQuery)
        @document_response(NamedPage)
        async def named(query_args: NamedQuery) -> Response:
            """An endless list, by the names that JSON has."""
            async with connection() as conn:
                page = await Page.open(conn, query_args)
            ids = range(page.after + 1, page.after + 1 + page.limit)
            return page.reply(NamedPage, [Named(id=each, fullName=query_args.full_name) for each in ids])

        @blueprint.post("/echo")
        @public
        @document_response(NoContent, 204)
        async def echo() -> Response:
            """Says how long the body was, whatever it is."""
            return Response(str(len(await request.get_data())))

        return blueprint


async def fail(error: BaseException) -> None:
    raise error


class Unspeakable(Exception):
    """What cannot be put into words."""

    def __str__(self) -> str:
        raise RuntimeError("secret")

    __repr__ = __str__


BUGS: list[BaseException] = [
    SystemExit("secret"),
    KeyboardInterrupt("secret"),
    GeneratorExit("secret"),
    BaseExceptionGroup("secret", [SystemExit("secret")]),
    Unspeakable(),
    RuntimeError("secret"),
    KeyError("secret"),
    RecursionError("secret"),
    ExceptionGroup("secret", [ValueError("secret")]),
    psycopg.errors.UniqueViolation("secret"),
]

FAILURES: list[tuple[Exception, int, str]] = [
    (DependencyUnavailable("secret"), 503, "/problems/unavailable"),
    (psycopg.errors.QueryCanceled("secret"), 503, "/problems/unavailable"),
    (psycopg.errors.DeadlockDetected("secret"), 503, "/problems/unavailable"),
    (psycopg.errors.SerializationFailure("secret"), 503, "/problems/unavailable"),
    (UpstreamUnavailable("secret"), 502, "/problems/upstream-failed"),
    (UpstreamInvalid("secret"), 502, "/problems/upstream-failed"),
    (UpstreamTimeout("secret"), 504, "/problems/upstream-timed-out"),
    (ExceptionGroup("secret", [ExceptionGroup("", [DependencyUnavailable()])]), 503, "/problems/unavailable"),
]
