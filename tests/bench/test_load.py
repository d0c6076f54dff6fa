"""The load generator counts replies that came whole, and nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from itertools import cycle, repeat

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream

from bench.load import drive, get, post

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def serving(*pieces: bytes, seen: list[bytes] | None = None, requests: int = 2**31) -> AsyncIterator[int]:
    """The port of a server that answers each request with the same pieces, and ends a connection after so many."""

    async def serve(stream: SocketStream) -> None:
        async with stream:
            with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                for left in range(requests - 1, -1, -1):
                    request = await stream.receive()
                    if seen is not None:
                        seen.append(request)
                    for piece in pieces:
                        last = b"\r\nConnection: close\r\n\r\n"
                        await stream.send(piece if left else piece.replace(b"\r\n\r\n", last))
                        await anyio.sleep(0.001)  # so that pieces do not arrive as one

    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as group,
    ):
        group.start_soon(listener.serve, serve)
        yield listener.extra(SocketAttribute.local_port)
        group.cancel_scope.cancel()


async def test_replies_in_pieces_are_counted_once_they_are_whole() -> None:
    seen: list[bytes] = []
    async with serving(b"HTTP/1.1 200 OK\r\nContent-Le", b"ngth: 4\r\n\r\n{", b'""}', seen=seen) as port:
        outcome = await drive(port, cycle([get("/a"), get("/b")]), status=200, connections=2, seconds=0.1)

    assert outcome.answered == len(seen) > 0
    assert outcome.rate == outcome.answered / outcome.seconds
    assert {request.split()[1] for request in seen} == {b"/a", b"/b"}


async def test_a_connection_that_the_server_ends_is_replaced() -> None:
    seen: list[bytes] = []
    async with serving(b"HTTP/1.1 201 Created\r\ncontent-length: 2\r\n\r\n{}", seen=seen, requests=3) as port:
        outcome = await drive(port, repeat(post("/", b"{}", {"X-Key": "1"})), status=201, connections=1, seconds=0.1)

    assert outcome.answered == len(seen) > 3
    head, _, body = seen[0].partition(b"\r\n\r\n")
    assert head.split(b"\r\n")[0] == b"POST / HTTP/1.1"
    assert {b"Content-Length: 2", b"X-Key: 1"} <= {*head.split(b"\r\n")}
    assert body == b"{}"


@pytest.mark.parametrize(
    "reply", [b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n"]
)
async def test_another_reply_than_expected_ends_the_measurement(reply: bytes) -> None:
    async with serving(reply) as port:
        with pytest.RaisesGroup(pytest.RaisesExc(RuntimeError, match="expected HTTP/1.1 200")):
            await drive(port, repeat(get("/")), status=200, connections=1, seconds=5)
