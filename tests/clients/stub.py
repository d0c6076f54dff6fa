"""Another service, on a real socket: it plays a script, one step per request, and remembers what it was asked."""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio
from anyio.abc import SocketAttribute
from anyio.streams.tls import TLSListener

PEM = Path(__file__).parent / "stub.pem"

MOSCOW = (
    b'{"abbreviation":"MSK","client_ip":"192.0.2.1","datetime":"2026-01-31T15:00:00.123456+03:00","day_of_week":6,'
    b'"dst":false,"dst_from":null,"dst_offset":0,"raw_offset":10800,"timezone":"Europe/Moscow","unixtime":1769860800,'
    b'"utc_datetime":"2026-01-31T12:00:00.123456+00:00","utc_offset":"+03:00","week_number":5}'
)
"""What worldtimeapi.org answers, fields that we do not know included."""

Stream = anyio.abc.ByteStream
Step = Callable[[Stream], Awaitable[None]]


@dataclass
class Request:
    method: str
    target: str
    headers: dict[str, str]
    at: float


@dataclass
class Stub:
    url: str
    script: list[Step] = field(default_factory=list)
    """What comes next; the last step is repeated."""
    requests: list[Request] = field(default_factory=list)

    def plays(self, *steps: Step) -> None:
        self.script[:] = steps

    async def handle(self, stream: Stream) -> None:
        async with stream:
            data = b""
            while b"\r\n\r\n" not in data:
                try:
                    data += await stream.receive()
                except (anyio.EndOfStream, anyio.BrokenResourceError):
                    return
            first, *lines = data.partition(b"\r\n\r\n")[0].decode().split("\r\n")
            method, target, _ = first.split()
            headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
            self.requests.append(Request(method, target, headers, anyio.current_time()))
            step = self.script[0] if len(self.script) == 1 else self.script.pop(0)
            await step(stream)


def answer(status: int, body: bytes = b"", **headers: str) -> Step:
    """The whole of a reply; `retry_after="1"` becomes a header."""

    async def step(stream: Stream) -> None:
        lines = [f"HTTP/1.1 {status} Because", f"Content-Length: {len(body)}", "Connection: close"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        await stream.send("\r\n".join(lines).encode() + b"\r\n\r\n" + body)

    return step


async def reset(stream: Stream) -> None:
    """The connection breaks."""
    raw: socket.socket = stream.extra(SocketAttribute.raw_socket)
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def silence(_stream: Stream) -> None:
    """Nothing, for as long as the caller waits."""
    await anyio.sleep_forever()


async def gibberish(stream: Stream) -> None:
    """No HTTP."""
    await stream.send(b"SSH-2.0-OpenSSH_9.2p1\r\n")


@asynccontextmanager
async def running_stub(*, tls: bool = False) -> AsyncIterator[Stub]:
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
    scheme = "https" if tls else "http"
    stub = Stub(f"{scheme}://127.0.0.1:{listener.extra(SocketAttribute.local_port)}")
    serving: anyio.abc.Listener[Stream] = listener
    if tls:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(PEM)
        # A handshake that the client breaks off is what some tests are about, and no failure of the stub.
        serving = TLSListener(listener, context, standard_compatible=False)
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(serving.serve, stub.handle)
        yield stub
        tasks.cancel_scope.cancel()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
