"""Requests that others could read in another way: they are refused by both servers, and end the connection."""

from __future__ import annotations

import json

import pytest
from structlog.testing import capture_logs

from tests.web.support import StartServer

pytestmark = pytest.mark.anyio

NEXT = b"GET /smuggled HTTP/1.1\r\nHost: test\r\n\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
POST = b"POST /read HTTP/1.1\r\n"
HOST = b"Host: test\r\n"
BODY = b"\r\n3\r\nabc\r\n0\r\n\r\n"


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        pytest.param(POST + HOST + b"Host: other\r\n" + CHUNKED + BODY, 400, id="two hosts"),
        pytest.param(POST + CHUNKED + BODY, 400, id="no host"),
        pytest.param(POST + HOST + b"Transfer-Encoding: gzip, chunked\r\n" + BODY, 501, id="two codings"),
        pytest.param(POST + HOST + CHUNKED + CHUNKED + BODY, 501, id="chunked twice"),
        pytest.param(POST + HOST + CHUNKED + b"\r\n3x\r\nabc\r\n0\r\n\r\n", 400, id="a size that is none"),
        pytest.param(POST + HOST + CHUNKED + b"\r\n3\r\nabcd\r\n0\r\n\r\n", 400, id="a chunk that is longer"),
    ],
)
async def test_a_doubtful_request_is_refused_with_a_problem_and_nothing_after_it_is_read(
    start_server: StartServer, sent: bytes, status: int
) -> None:
    with capture_logs() as logs:
        async with start_server() as server, server.client() as client:
            await client.stream.send(sent + NEXT)
            found, headers, body = await client.reply()
            assert await client.closed(within=60)
            assert not client.buffer
    problem = json.loads(body)
    assert found == problem["status"] == status
    assert headers["content-type"] == "application/problem+json"
    assert headers["connection"] == "close"
    assert headers["x-content-type-options"] == "nosniff"
    assert problem["request_id"] == headers["x-request-id"]
    [refused] = [entry for entry in logs if entry["event"] == "request refused"]
    assert (refused["request_id"], refused["status"]) == (problem["request_id"], status)
    assert not [entry for entry in logs if entry.get("path") == "/smuggled"]


@pytest.mark.parametrize("order", [1, -1])
async def test_of_a_length_and_a_coding_nothing_is_smuggled(start_server: StartServer, order: int) -> None:
    both = [b"Content-Length: 4\r\n", CHUNKED][::order]
    with capture_logs() as logs:
        async with start_server() as server, server.client() as client:
            await client.stream.send(POST + HOST + b"".join(both) + BODY + NEXT)
            status, _, _ = await client.reply()
            assert await client.closed(within=60)
            assert not client.buffer
    assert status in (400, 200)  # refused, or read as the coding says and nothing after it (RFC 9112 §6.1)
    assert not [entry for entry in logs if entry.get("path") == "/smuggled"]
