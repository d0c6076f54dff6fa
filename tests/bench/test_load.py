"""The load generator counts replies that came whole, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import cast

import pytest

from bench.load import drive, get, post

pytestmark = pytest.mark.anyio


class Server(asyncio.Protocol):
    """Answers each request with the same pieces of a reply; ends each connection after some requests."""

    def __init__(self, pieces: Sequence[bytes], seen: list[bytes], requests: int) -> None:
        self._pieces, self._seen, self._left = pieces, seen, requests

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._seen.append(data)
        self._left -= 1
        loop = asyncio.get_running_loop()
        for number, piece in enumerate(self._pieces):
            last = self._left == 0 and number == len(self._pieces) - 1
            text = piece.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") if self._left == 0 else piece
            loop.call_later(0.001 * number, self._transport.write, text)
            if last:
                loop.call_later(0.001 * number, self._transport.close)


@asynccontextmanager
async def serving(*pieces: bytes, seen: list[bytes] | None = None, requests: int = 2**31) -> AsyncIterator[int]:
    """The port of a server."""
    found: list[bytes] = [] if seen is None else seen
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Server(pieces, found, requests), "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def test_replies_in_pieces_are_counted_once_they_are_whole() -> None:
    seen: list[bytes] = []
    async with serving(b"HTTP/1.1 200 OK\r\nContent-Le", b"ngth: 4\r\n\r\n{", b'""}', seen=seen) as port:
        outcome = await drive(port, [get("/a"), get("/b")], status=200, connections=2, seconds=0.1)

    assert outcome.answered == len(seen) > 0
    assert outcome.rate == outcome.answered / outcome.seconds
    assert {request.split()[1] for request in seen} == {b"/a", b"/b"}


async def test_a_connection_that_the_server_ends_is_replaced() -> None:
    seen: list[bytes] = []
    async with serving(b"HTTP/1.1 201 Created\r\ncontent-length: 2\r\n\r\n{}", seen=seen, requests=3) as port:
        outcome = await drive(port, [post("/", b"{}")], status=201, connections=1, seconds=0.1)

    assert outcome.answered == len(seen) > 3


@pytest.mark.parametrize(
    "reply", [b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n"]
)
async def test_another_reply_than_expected_ends_the_measurement(reply: bytes) -> None:
    async with serving(reply) as port:
        with pytest.RaisesGroup(pytest.RaisesExc(RuntimeError, match="expected HTTP/1.1 200")):
            await drive(port, [get("/")], status=200, connections=1, seconds=5)
