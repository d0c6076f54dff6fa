"""A server with an application of the test's own, and clients on raw sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import anyio
from anyio.abc import SocketStream, TaskStatus

from roles.tally import Tally
from roles.web.listener import address_of, listen
from roles.web.patience import PATIENCE, Patience
from roles.web.server import Certificate
from roles.web.server import server as server_named
from schema.settings import Address

LARGE = 32 * 1024 * 1024
"""Bytes."""

ServerName = Literal["hypercorn", "granian"]

StartServer = Callable[..., AbstractAsyncContextManager["Server"]]


async def eventually(condition: Callable[[], object], *, within: float = 60) -> None:
    """Waits until `condition()` is true, and fails if that takes too long."""
    with anyio.fail_after(within):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await anyio.sleep(0.005)


class Application:
    """Answers by path.

    `/` at once, `/large` with more than sockets take, `/slow` when `release` is set, `/bug` never, `/half` by half.
    `/endless` sends until it gives up after 0.3 s, `/read` when the body is there.
    """

    def __init__(self) -> None:
        self.release = anyio.Event()
        self.entered = anyio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        event = await receive()
        while scope["path"] == "/read" and event.get("more_body"):
            event = await receive()
        if event["type"] == "http.disconnect":
            return
        if scope["path"] == "/slow":
            self.entered.set()
            await self.release.wait()
        if scope["path"] == "/stubborn":
            self.entered.set()
            with anyio.CancelScope(shield=True):
                await self.release.wait()
        if scope["path"] == "/bug":
            raise RuntimeError("a bug of the application")
        if scope["path"] == "/half":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]})
            await send({"type": "http.response.body", "body": b"half", "more_body": True})
            raise RuntimeError("a bug of the application")
        if scope["path"] == "/endless":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            with anyio.move_on_after(0.3):
                while True:
                    await send({"type": "http.response.body", "body": bytes(2**16), "more_body": True})
            return
        body = b"OK" if scope["path"] != "/large" else bytes(LARGE)
        headers = [(b"content-length", str(len(body)).encode()), (b"content-type", b"text/plain")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})


@dataclass
class Client:
    """One connection."""

    stream: SocketStream
    buffer: bytearray = field(default_factory=bytearray)

    async def get(self, path: str = "/", headers: str = "") -> tuple[int, dict[str, str], bytes]:
        await self.send(path, headers)
        return await self.reply()

    async def send(self, path: str = "/", headers: str = "") -> None:
        await self.stream.send(f"GET {path} HTTP/1.1\r\nHost: test\r\n{headers}\r\n".encode())

    async def reply(self) -> tuple[int, dict[str, str], bytes]:
        """The next reply on this connection."""
        with anyio.fail_after(60):
            while b"\r\n\r\n" not in self.buffer:
                self.buffer += await self.stream.receive()
            head, _, rest = bytes(self.buffer).partition(b"\r\n\r\n")
            first, *lines = head.decode().split("\r\n")
            headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
            length = int(headers.get("content-length", 0))
            while len(rest) < length:
                rest += await self.stream.receive()
        self.buffer = bytearray(rest[length:])
        return int(first.split()[1]), headers, rest[:length]

    async def closed(self, *, within: float = 5.0) -> bool:
        """Whether the server closes this connection, without another word, in so many seconds."""
        with anyio.move_on_after(within):
            try:
                return not await self.stream.receive()
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                return True
        return False


@dataclass(frozen=True)
class Server:
    app: Application
    address: Address
    stop: anyio.Event
    stopped: anyio.Event
    scope: anyio.CancelScope
    tally: Tally

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        async with await anyio.connect_tcp(self.address.host, self.address.port) as stream:
            yield Client(stream)


@asynccontextmanager
async def running_server(
    name: ServerName = "hypercorn",
    *,
    patience: Patience = PATIENCE,
    log_requests: bool = True,
    tls: Certificate | None = None,
) -> AsyncIterator[Server]:
    listener = listen(Address("127.0.0.1:0"), setting="api.bind")
    app, stop, stopped, tally = Application(), anyio.Event(), anyio.Event(), Tally()
    scope = anyio.CancelScope()
    server = Server(app, address_of(listener), stop, stopped, scope, tally)

    async def run(*, task_status: TaskStatus[None]) -> None:
        with scope:
            await server_named(name).serve(
                app,
                listener,
                stop=stop,
                tally=tally,
                started=task_status.started,
                patience=patience,
                log_requests=log_requests,
                tls=tls,
            )
        stopped.set()

    async with anyio.create_task_group() as tasks:
        with anyio.fail_after(60):
            await tasks.start(run)
        yield server
        app.release.set()
        stop.set()
        with anyio.fail_after(60):
            await stopped.wait()
