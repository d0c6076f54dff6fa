"""Open connections: bounded in number, in time and in what they say, whatever their clients do."""

from __future__ import annotations

import json
import resource
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path

import anyio
import pytest
from structlog.testing import capture_logs

from roles.web.descriptors import RESERVED, make_room
from roles.web.patience import Patience
from tests.web.support import Client, Server, eventually, running_server

pytestmark = pytest.mark.anyio

GET = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    """It has room for three, and takes a quarter of a second for headers."""
    patience = Patience(connections=3, headers_timeout=timedelta(seconds=0.25), headers_length=1000)
    async with running_server(patience=patience) as server:
        yield server


async def test_headers_that_drip_are_answered_with_408_however_steadily(server: Server) -> None:
    async with server.client() as client:
        await client.get()  # on a connection that has proved itself

        async def drip() -> None:
            for byte in GET * 100:
                await client.stream.send(bytes([byte]))
                await anyio.sleep(0.02)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(drip)
            status, headers, body = await client.reply()
            tasks.cancel_scope.cancel()
        assert status == 408
        assert headers["connection"] == "close"
        assert json.loads(body)["type"] == "/problems/slow-request"
        assert await client.closed()


async def test_headers_that_come_in_time_may_come_in_pieces(server: Server) -> None:
    async with server.client() as client:
        for byte in GET + GET:
            await client.stream.send(bytes([byte]))
        assert (await client.reply())[0] == (await client.reply())[0] == 200


async def test_a_connection_with_a_request_makes_no_place(server: Server) -> None:
    async with AsyncExitStack() as stack:
        busy = [await stack.enter_async_context(server.client()) for _ in range(3)]
        for client in busy:
            await client.send("/slow")
        await eventually(lambda: server.tally.in_flight == 3)
        refused = await stack.enter_async_context(server.client())
        assert await refused.closed()
        server.app.release.set()
        for client in busy:
            assert (await client.reply())[0] == 200
        again = await stack.enter_async_context(server.client())
        assert (await again.get())[0] == 200


async def test_what_is_no_request_is_answered_with_a_problem_that_the_logs_know() -> None:
    with capture_logs() as logs:
        async with running_server() as server, server.client() as client:
            await client.stream.send(b"NONSENSE\r\n\r\n")
            status, headers, body = await client.reply()
    problem = json.loads(body)
    assert (status, headers["content-type"]) == (400, "application/problem+json")
    assert problem["type"] == "/problems/malformed-request"
    assert problem["request_id"] == headers["x-request-id"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    [record] = [entry for entry in logs if entry["event"] == "request refused"]
    assert (record["request_id"], record["status"], record["client"]) == (problem["request_id"], 400, "127.0.0.1")


async def test_a_refusal_is_read_by_a_client_that_has_not_stopped_sending(server: Server) -> None:
    """Closed at once, the socket would answer what comes with a reset, and the client would see that instead."""
    async with server.client() as client:
        await client.stream.send(b"X" * 1_000_000)
        await client.stream.send(b"X" * 1_000_000)
        assert (await client.reply())[0] == 414


async def test_a_client_that_does_not_read_does_not_keep_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("roles.web.open_connections.CLOSE_TIMEOUT", 0.1)

    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    async with running_server() as server, server.client() as client:
        await client.get()
        before = descriptors()
        await client.send("/endless")
        await eventually(lambda: server.tally.failed)
        await eventually(lambda: descriptors() < before)


async def test_idle_connections_have_no_tasks_of_their_own_beside_the_one_that_reads() -> None:
    async with running_server() as server, AsyncExitStack() as stack:
        clients: list[Client] = []
        before = len(anyio.get_running_tasks())
        for _ in range(20):
            clients.append(await stack.enter_async_context(server.client()))
            await clients[-1].get()
        await eventually(lambda: len(anyio.get_running_tasks()) <= before + 20)


def test_the_limit_of_descriptors_is_raised_as_far_as_it_may_be() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (RESERVED, hard))
        assert make_room(300) == 300
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (RESERVED + 300, hard)
        assert make_room(100) == 100
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_where_there_are_too_few_descriptors_there_are_fewer_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = [RESERVED // 2, 1024]
    monkeypatch.setattr(resource, "getrlimit", lambda _: tuple(limits))
    monkeypatch.setattr(resource, "setrlimit", lambda _, new: limits.__setitem__(slice(None), new))
    with capture_logs() as logs:
        assert make_room(4000) == 1024 - RESERVED
    assert [entry["event"] for entry in logs] == ["fewer connections than configured"]
