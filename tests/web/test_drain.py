"""The end of a server: nothing that was accepted is lost, and nothing is waited for that need not be."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import cast

import anyio
import pytest
from structlog.testing import capture_logs

from roles.tally import Tally
from roles.web.hypercorn import _converse
from roles.web.open_connections import OpenConnection
from tests.web.support import Client, Server, StartServer, eventually

pytestmark = pytest.mark.anyio


async def test_a_request_in_flight_is_finished_and_told_that_the_connection_ends(start_server: StartServer) -> None:
    async with start_server() as server, server.client() as client:
        await client.send("/slow")
        await server.app.entered.wait()
        server.stop.set()
        await anyio.sleep(0.3)  # longer than the server lingers
        assert not server.stopped.is_set()
        server.app.release.set()
        status, headers, body = await client.reply()
        assert (status, body, headers["connection"]) == (200, b"OK", "close")
        assert await client.closed()
        with anyio.fail_after(60):
            await server.stopped.wait()
        assert server.tally == Tally(taken=1, finished=1)


async def test_nothing_new_is_accepted_while_requests_are_finished(start_server: StartServer) -> None:
    async with start_server() as server, server.client() as client:
        await client.send("/slow")
        await server.app.entered.wait()
        server.stop.set()
        with anyio.fail_after(60):
            while True:
                try:
                    async with server.client():
                        await anyio.sleep(0.01)
                except OSError:
                    break
        assert not server.stopped.is_set()


async def test_idle_connections_do_not_hold_the_drain_up(start_server: StartServer) -> None:
    async with start_server() as server, server.client() as idle, server.client() as silent:
        await idle.get()
        began = anyio.current_time()
        server.stop.set()
        assert await idle.closed()
        assert await silent.closed()
        await server.stopped.wait()
        assert anyio.current_time() - began < 20


async def test_a_body_that_is_still_arriving_may_go_on_arriving(start_server: StartServer) -> None:
    async with start_server() as server, server.client() as client, server.client() as announced:
        await client.stream.send(b"POST /read HTTP/1.1\r\nHost: test\r\nContent-Length: 6\r\n\r\nabc")
        await announced.stream.send(b"POST /read HTTP/1.1\r\nHost: test\r\nContent-Length: 3\r\n\r\n")
        await eventually(lambda: server.tally.in_flight == 2)
        server.stop.set()
        await anyio.sleep(0.5)  # longer than the server lingers
        await client.stream.send(b"def")
        assert (await client.reply())[0] == 200
        await anyio.sleep(2.5)  # and than it bears half a request
        await announced.stream.send(b"abc")
        assert (await announced.reply())[0] == 200
        with anyio.fail_after(60):
            await server.stopped.wait()
        assert server.tally == Tally(taken=2, finished=2)


async def test_half_a_request_does_not_hold_the_drain_up(start_server: StartServer) -> None:
    async with start_server() as server, server.client() as half:
        await half.stream.send(b"GET / HTTP/1.1\r\nHost: te")
        async with server.client() as other:
            await other.get()
        server.stop.set()
        assert await half.closed(within=60)
        with anyio.fail_after(60):
            await server.stopped.wait()


async def test_busy_clients_get_an_answer_to_every_request_that_was_accepted(start_server: StartServer) -> None:
    answered = 0

    async def keep_asking(server: Server) -> None:
        nonlocal answered
        while True:
            try:
                async with server.client() as client:
                    await ask_until_told_to_leave(client)
            except OSError:
                return  # refused: nothing listens any more
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                continue  # closed before a request was read

    async def ask_until_told_to_leave(client: Client) -> None:
        nonlocal answered
        while True:
            status, headers, _ = await client.get()
            assert status == 200
            answered += 1
            if headers.get("connection") == "close":
                return

    async with start_server(log_requests=False) as server, anyio.create_task_group() as tasks:
        for _ in range(32):
            tasks.start_soon(keep_asking, server)
        await eventually(lambda: answered >= 500)
        server.stop.set()
        with anyio.fail_after(60):
            await server.stopped.wait()
        assert server.tally.failed == server.tally.in_flight == 0
    assert answered == server.tally.finished


async def test_when_the_time_to_drain_is_over_what_is_left_is_cut_off_and_answered(
    start_server: StartServer, caplog: pytest.LogCaptureFixture
) -> None:
    others = asyncio.all_tasks()
    with caplog.at_level(logging.WARNING):
        async with start_server() as server, server.client() as client, server.client() as idle:
            await idle.get()
            await client.send("/slow", "X-Request-Id: abc\r\n")
            await server.app.entered.wait()
            server.stop.set()
            await anyio.sleep(0.2)
            began = anyio.current_time()
            server.scope.cancel()
            status, headers, body = await client.reply()
            assert status == 503
            assert headers["retry-after"]
            assert json.loads(body)["request_id"] == "abc"
            await server.stopped.wait()
            assert anyio.current_time() - began < 20
            assert server.tally == Tally(taken=2, finished=1, failed=1)
    assert not caplog.records
    assert asyncio.all_tasks() <= others


async def test_a_server_that_is_cancelled_without_a_drain_ends_as_cleanly(
    start_server: StartServer, caplog: pytest.LogCaptureFixture
) -> None:
    others = asyncio.all_tasks()
    with caplog.at_level(logging.WARNING):
        async with start_server() as server, server.client() as client, server.client() as silent:
            await client.send("/slow")
            await server.app.entered.wait()
            server.scope.cancel()
            assert (await client.reply())[0] == 503
            assert await silent.closed()
            await server.stopped.wait()
    assert not caplog.records
    assert asyncio.all_tasks() <= others


async def test_a_request_that_will_not_end_does_not_hold_the_process_up(start_server: StartServer) -> None:
    async with start_server() as server, server.client() as client:
        await client.send("/stubborn")
        await server.app.entered.wait()
        server.stop.set()
        began = anyio.current_time()
        server.scope.cancel()
        with anyio.fail_after(60, shield=True):
            await server.stopped.wait()
        assert anyio.current_time() - began < 20
        server.app.release.set()


async def test_a_connection_that_fails_takes_no_other_along() -> None:
    class Broken:
        async def run(self) -> None:
            raise RuntimeError("a bug of Hypercorn")

    with capture_logs() as logs:
        await _converse(cast("OpenConnection", Broken()))
    assert [entry["event"] for entry in logs] == ["connection failed"]


async def test_a_connection_that_its_client_closed_is_not_kept(start_server: StartServer) -> None:
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    async with start_server() as server:
        async with server.client() as client:
            await client.get()
        before = descriptors()
        for _ in range(20):
            async with server.client() as client:
                await client.get()
            async with server.client():
                pass  # says nothing
        await eventually(lambda: descriptors() <= before, within=60)
