"""What every request goes through: its id, its count, its log line, and an answer in any case."""

from __future__ import annotations

import json
from datetime import timedelta

import anyio
import pytest
from structlog.testing import capture_logs

from roles.tally import Tally
from roles.web.patience import Patience
from tests.web.support import StartServer, eventually

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("sent", ["abc", "4bf92f3577b34da6a3ce929d0e0e4736", "a.b:c/d+e=f@g_h-i", "x" * 128])
async def test_the_callers_request_id_is_kept(start_server: StartServer, sent: str) -> None:
    async with start_server() as server, server.client() as client:
        _, headers, _ = await client.get(headers=f"X-Request-Id: {sent}\r\n")
    assert headers["x-request-id"] == sent


@pytest.mark.parametrize("sent", ["", "has space", "x" * 129, '<script>"', "a;b"])
async def test_what_is_no_request_id_is_replaced(start_server: StartServer, sent: str) -> None:
    async with start_server() as server, server.client() as client:
        _, headers, _ = await client.get(headers=f"X-Request-Id: {sent}\r\n")
        _, others, _ = await client.get()
    assert len(headers["x-request-id"]) == len(others["x-request-id"]) == 32
    assert headers["x-request-id"] != others["x-request-id"]


async def test_a_request_id_with_a_control_character_comes_back_from_nowhere(start_server: StartServer) -> None:
    async with start_server() as server, server.client() as client:
        status, headers, _ = await client.get(headers="X-Request-Id: a\x7fb\r\n")
    assert status == 400 or len(headers["x-request-id"]) == 32


async def test_each_request_is_one_event_in_the_log(start_server: StartServer) -> None:
    with capture_logs() as logs:
        async with start_server() as server, server.client() as client:
            await client.get("/a%0ab?secret=1", "X-Request-Id: abc\r\n")
    [entry] = [entry for entry in logs if entry["event"] == "request"]
    duration = entry.pop("duration_ms")
    assert 0 < duration < 5000
    expected = {"event": "request", "log_level": "info", "method": "GET", "path": "/a%0ab", "status": 200}
    assert entry == {**expected, "complete": True}


async def test_requests_need_not_be_logged(start_server: StartServer) -> None:
    with capture_logs() as logs:
        async with start_server(log_requests=False) as server, server.client() as client:
            await client.get()
    assert not [entry for entry in logs if entry["event"] == "request"]


async def test_nothing_says_what_the_server_is(start_server: StartServer) -> None:
    async with start_server() as server, server.client() as client:
        _, headers, _ = await client.get()
    assert not headers.get("server")


async def test_an_application_that_raises_is_answered_for(start_server: StartServer) -> None:
    with capture_logs() as logs:
        async with start_server() as server, server.client() as client:
            status, headers, body = await client.get("/bug", "X-Request-Id: abc\r\n")
            again, _, _ = await client.get()
    assert status == 500
    assert headers["content-type"] == "application/problem+json"
    assert json.loads(body)["type"] == "/problems/internal-error"
    assert json.loads(body)["request_id"] == headers["x-request-id"] == "abc"
    assert b"a bug of the application" not in body
    assert again == 200
    [failure] = [entry for entry in logs if entry["event"] == "request failed"]
    assert failure["exc_info"]


async def test_a_reply_that_breaks_off_is_not_taken_for_a_whole_one(start_server: StartServer) -> None:
    async with start_server() as server, server.client() as client:
        with pytest.raises(anyio.EndOfStream):
            await client.get("/half")
        assert server.tally == Tally(taken=1, failed=1)


async def test_requests_are_counted_by_how_they_end(start_server: StartServer) -> None:
    async with start_server() as server:
        async with server.client() as client:
            await client.get()
            await client.get()
            await client.get("/bug")
            await client.send("/slow")
            await server.app.entered.wait()
            assert server.tally == Tally(taken=4, finished=2, failed=1)
            server.app.release.set()
            await client.reply()
        await eventually(lambda: not server.tally.in_flight)
        assert server.tally == Tally(taken=4, finished=3, failed=1)


async def test_a_websocket_is_not_begun(start_server: StartServer) -> None:
    upgrade = (
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    )
    async with start_server() as server, server.client() as client:
        status, _, _ = await client.get("/", upgrade)
        assert status == 200, "as the plain request that it is too (RFC 9110 §7.8)"
        assert (await client.get())[0] == 200


async def test_an_idle_connection_is_closed_after_a_while(start_server: StartServer) -> None:
    async with (
        start_server(patience=Patience(keep_alive_timeout=timedelta(seconds=0.2))) as server,
        server.client() as silent,
        server.client() as client,
    ):
        await client.get()
        began = anyio.current_time()
        assert await client.closed()
        assert await silent.closed()
        assert anyio.current_time() - began < 20
