"""Open connections: how many there may be, how long each may wait, and that each of them ends.

A connection without a request says nothing, for `keep_alive_timeout` at the most, or the headers of one are arriving,
for `headers_timeout` from their first byte on, however steadily they drip. A request is under the deadline of whoever
handles it. A connection that is to end has `CLOSE_TIMEOUT` for the client to take what was sent to it. So a slow
client holds nothing but its socket, and that not for long. When there are as many sockets as there may be, a new one
takes the place of the one that has been without a request for longest.

This replaces `hypercorn.asyncio.tcp_server`, which has a task for the idleness of each connection, no limit to their
number, and waits for ever for a client to read what it was sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus

import anyio
from hypercorn.asyncio.task_group import TaskGroup
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.typing import AppWrapper, ConnectionState
from hypercorn.utils import parse_socket_addr

from roles.web.http1 import Http1
from roles.web.http2 import Http2
from roles.web.patience import Patience

READ_SIZE = 2**16
"""Bytes that are read at a time."""

CLOSE_TIMEOUT = 2.0
"""Seconds that a client has to take the last words that it was sent, and to stop sending."""


class Connections:
    """Those of one listener."""

    def __init__(self, app: AppWrapper, config: Config, context: WorkerContext, patience: Patience) -> None:
        self.app, self.config, self.context, self.patience = app, config, context, patience
        self._open: set[OpenConnection] = set()
        self._idle: dict[OpenConnection, None] = {}
        """Those without a request, in the order in which that began."""

    def admit(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> OpenConnection | None:
        """The new connection; None if all others have requests, or the server drains: it was cut off."""
        while len(self._open) >= self.patience.connections and self._idle:
            next(iter(self._idle)).abort()
        if len(self._open) >= self.patience.connections or self.context.terminated.is_set():
            writer.transport.abort()
            return None
        connection = OpenConnection(self, reader, writer)
        self._open.add(connection)
        return connection

    def close_idle(self) -> None:
        """Ends those that have no request."""
        for connection in tuple(self._idle):
            connection.close()

    def spare(self, connection: OpenConnection) -> None:
        """Notes that it has no request, and may go when there are too many."""
        if connection in self._open:
            self._idle[connection] = None

    def keep(self, connection: OpenConnection) -> None:
        """Notes that it has one."""
        self._idle.pop(connection, None)

    def forget(self, connection: OpenConnection) -> None:
        """Gives its place away."""
        self._idle.pop(connection, None)
        self._open.discard(connection)


class OpenConnection:
    """One connection, from when it was accepted until it is gone."""

    def __init__(self, others: Connections, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._others, self._reader, self._writer = others, reader, writer
        self._loop = asyncio.get_running_loop()
        self._tasks = TaskGroup(self._loop)
        self._sending = asyncio.Lock()
        self._protocol: Http1 | Http2
        self._timer: asyncio.TimerHandle | None = None
        self._idle = True
        self._arriving = False
        """Whether the beginning of a request is here, and the end of its headers is not."""
        self._closing = False
        self._listening = anyio.CancelScope()

    async def run(self) -> None:
        """Converses until one side ends the connection, and the requests on it have ended too."""
        try:
            with suppress(OSError):  # it is gone already
                self._protocol = self._speak()
                async with self._tasks:
                    await self._protocol.initiate()
                    self._rest()
                    await self._listen()
        finally:
            self.close()
            try:
                with suppress(OSError):
                    await self._writer.wait_closed()
            finally:
                self.abort()

    def close(self) -> None:
        """Ends the connection when the client has taken what was sent to it, or has had the time to."""
        self._begin_closing()
        self._listening.cancel()  # Hypercorn may be waiting for the end of a reply that will not come
        self._writer.close()

    def abort(self) -> None:
        """Ends the connection at once."""
        self._closing = True
        self._others.forget(self)
        self._set_timer(None)
        self._listening.cancel()
        self._writer.transport.abort()

    def _speak(self) -> Http1 | Http2:
        socket, tls = self._writer.get_extra_info("socket"), self._writer.get_extra_info("ssl_object")
        kind = Http2 if tls is not None and tls.selected_alpn_protocol() == "h2" else Http1
        return kind(
            self._others.app,
            self._others.config,
            self._others.context,
            self._tasks,
            ConnectionState({}),
            tls is not None,
            parse_socket_addr(socket.family, socket.getpeername()),
            parse_socket_addr(socket.family, socket.getsockname()),
            self._send,
        )

    async def _listen(self) -> None:
        with suppress(OSError), self._listening:
            while data := await self._reader.read(READ_SIZE):
                if self._closing:
                    continue  # the client has not noticed yet
                await self._protocol.handle(RawData(data))
                self._expect_the_rest()
        self._idle = False
        await self._protocol.handle(Closed())

    async def _send(self, event: Event) -> None:
        match event:
            case RawData():
                async with self._sending:
                    try:
                        self._writer.write(event.data)
                        await self._writer.drain()
                    except (OSError, RuntimeError):  # it was reset, or timed out, or is closed
                        await self._protocol.handle(Closed())
            case Updated(idle=True):
                self._rest()
            case Updated() if not self._closing:
                self._idle = False
                self._others.keep(self)
                self._set_timer(None)
            case Closed():
                self._end()

    def _rest(self) -> None:
        if self._closing:
            return
        if self._others.context.terminated.is_set():
            self.close()
            return
        self._idle, self._arriving = True, False
        self._others.spare(self)
        self._set_timer(self._others.patience.keep_alive_timeout.total_seconds(), self.close)

    def _expect_the_rest(self) -> None:
        if self._idle and not self._arriving and not self._closing and isinstance(self._protocol, Http1):
            self._arriving = True
            seconds = self._others.patience.headers_timeout.total_seconds()
            self._set_timer(seconds, lambda: self._tasks.spawn(self._give_up))

    async def _give_up(self) -> None:
        if self._idle and isinstance(self._protocol, Http1):
            await self._protocol.refuse(HTTPStatus.REQUEST_TIMEOUT)

    def _end(self) -> None:
        """Ends the connection. A client that was refused may still be sending.

        If what it sends met a closed socket, it would be told of that in place of why it was refused.
        """
        if isinstance(self._protocol, Http1) and self._protocol.refused and self._writer.can_write_eof():
            self._begin_closing()
            with suppress(OSError, RuntimeError):  # it is closed already
                self._writer.write_eof()
        else:
            self.close()

    def _begin_closing(self) -> None:
        if not self._closing:
            self._closing = True
            self._others.spare(self)
            self._set_timer(CLOSE_TIMEOUT, self.abort)

    def _set_timer(self, seconds: float | None, action: Callable[[], None] = lambda: None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if seconds is None else self._loop.call_later(seconds, action)
