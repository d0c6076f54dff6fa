"""A TCP proxy that can fall silent, a peer that never answers, and the time to wait for a condition."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
from anyio.abc import SocketStream
from yarl import URL

from roles.amqp.connection import Connection
from schema.settings import Amqp

FAST = Amqp.model_validate({"heartbeat": "1s", "timeout": "2s"})


async def eventually(condition: Callable[[], object], *, within: float = 60) -> None:
    """Returns when `condition()` is true."""
    with anyio.fail_after(within):
        while not condition():  # noqa: ASYNC110 - what is waited for happens elsewhere
            await anyio.sleep(0.01)


@asynccontextmanager
async def connected(
    url: str, *, settings: Amqp = FAST, purpose: str = "consume", broker: str = "example"
) -> AsyncIterator[Connection]:
    connection = await Connection.open(url, broker=broker, purpose=purpose, settings=settings)
    try:
        yield connection
    finally:
        await connection.aclose()


class Proxy:
    """Forwards to the broker of `url`, at its own `url`."""

    def __init__(self, url: str, port: int) -> None:
        self.url = str(URL(url).with_host("127.0.0.1").with_port(port))
        self.silent = False
        """Half-open: sockets stay, nothing is forwarded any more, in either direction."""
        self.refusing = False
        """New connections are closed at once."""
        self.most: float = math.inf
        """Bytes that a connection brings to the broker; what comes then gets lost."""
        self.swallowing: bytes | None = None
        """From where these bytes occur on, nothing of a connection is forwarded in that direction."""
        self.swallowed = 0
        """On how many connections that has happened."""
        self._target = URL(url)
        self._streams: set[SocketStream] = set()

    async def serve(self, stream: SocketStream) -> None:
        async with stream:
            if self.refusing:
                return
            async with await anyio.connect_tcp(str(self._target.host), self._target.port or 5672) as upstream:
                self._streams |= {stream, upstream}
                async with anyio.create_task_group() as group:
                    group.start_soon(self._pump, stream, upstream, group.cancel_scope, self.most)
                    group.start_soon(self._pump, upstream, stream, group.cancel_scope)
                self._streams -= {stream, upstream}

    async def sever(self) -> None:
        """Closes all connections."""
        for stream in list(self._streams):
            await stream.aclose()

    async def _pump(
        self, source: SocketStream, target: SocketStream, scope: anyio.CancelScope, most: float = math.inf
    ) -> None:
        sent = 0
        deaf = False
        try:
            while True:
                data = await source.receive()
                sent += len(data)
                if not deaf and self.swallowing is not None and self.swallowing in data:
                    deaf = True
                    self.swallowed += 1
                if not (self.silent or deaf) and sent <= most:
                    await target.send(data)
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            if self.silent:  # the other side is not told
                await anyio.sleep_forever()
            scope.cancel()


@asynccontextmanager
async def proxied(url: str) -> AsyncIterator[Proxy]:
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    proxy = Proxy(url, listener.extra(anyio.abc.SocketAttribute.local_port))
    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, proxy.serve)
        yield proxy
        group.cancel_scope.cancel()


@asynccontextmanager
async def mute_peer() -> AsyncIterator[str]:
    """The URL of a server that accepts and then says nothing."""

    async def hold(stream: SocketStream) -> None:
        async with stream:
            await anyio.sleep_forever()

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, hold)
        yield f"amqp://u:p@127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_port)}/"
        group.cancel_scope.cancel()
