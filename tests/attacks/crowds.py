"""Many clients at once that keep a server busy, or hope to: slow ones, silent ones, and those that break off.

Each returns what it was answered when the server has ended its connection, and not before.
"""

from __future__ import annotations

import itertools
import socket
import struct
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field

import anyio
from anyio.abc import SocketAttribute, SocketStream

from tests.attacks.table import CHUNKED, STUDENTS, get, post
from tests.attacks.target import LONG, Target, received

DRIP = 0.1
"""Seconds between two bytes of a slow client; a tenth of what any timeout of the target is."""

LARGE = b"/openapi.json"
"""The longest reply there is. Two hundred of them are more than the buffers of a connection hold."""


@dataclass(frozen=True, kw_only=True)
class Crowd:
    """So many attackers of one kind.

    Params:
        answers: the status that each is answered with; None if its connection is just ended.
        differs: the same for servers that answer otherwise.
    """

    name: str
    attacker: Callable[[Target], Awaitable[bytes]]
    answers: int | None
    size: int = 40
    differs: Mapping[str, int | None] = field(default_factory=dict)

    def expected(self, server: str) -> int | None:
        return self.differs.get(server, self.answers)


def dripping(beginning: bytes, drops: Iterable[bytes]) -> Callable[[Target], Awaitable[bytes]]:
    """Sends the beginning, then drop by drop; without drops it is silent from then on."""

    async def attacker(target: Target) -> bytes:
        async with await target.connect() as stream, anyio.create_task_group() as tasks:

            async def drip() -> None:
                try:
                    if beginning:
                        await stream.send(beginning)
                    for drop in drops:
                        await anyio.sleep(DRIP)
                        await stream.send(drop)
                except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                    pass  # it is over

            tasks.start_soon(drip)
            data = await received(stream)
            tasks.cancel_scope.cancel()
        return data

    return attacker


async def not_reading(target: Target) -> bytes:
    """Asks for more than all buffers between here and there can hold, and takes nothing of it."""
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.setblocking(False)
    with raw:
        await _connected(raw, target)
        raw.send(KEPT % LARGE * 200)
        port = raw.getsockname()[1]
        with anyio.fail_after(LONG):
            while target.holds(port):  # noqa: ASYNC110 - it is another process
                await anyio.sleep(0.5)
    return b""


async def breaking_off(target: Target) -> bytes:
    """Resets a connection in the middle of its request, and one in the middle of the reply."""
    for request, begun in ((post(b"Content-Length: 100", body=b"half"), False), (get(LARGE), True)):
        async with await target.connect() as stream:
            await stream.send(request)
            if begun:
                await stream.receive(100)
            _reset_at_end(stream)
    return b""


def _reset_at_end(stream: SocketStream) -> None:
    raw = stream.extra(SocketAttribute.raw_socket)
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def _connected(raw: socket.socket, target: Target) -> None:
    try:
        raw.connect((target.host, target.port))
    except BlockingIOError:
        with anyio.fail_after(LONG):
            await anyio.wait_writable(raw)


ENDLESS = itertools.repeat(b"a")
SILENT: Mapping[str, int | None] = {"granian": None}
"""It closes the connection, and says nothing."""
KEPT = b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n"

SLOW = (
    Crowd(
        name="headers that drip", attacker=dripping(b"GET / HTTP/1.1\r\nX: ", ENDLESS), answers=408, differs=SILENT
    ),
    Crowd(name="half a request", attacker=dripping(b"GET / HTTP/1.1\r\nHost", ()), answers=408, differs=SILENT),
    Crowd(name="a body that drips", attacker=dripping(post(b"Content-Length: 1000"), ENDLESS), answers=408),
    Crowd(name="chunks that drip", attacker=dripping(post(CHUNKED), itertools.repeat(b"1\r\na\r\n")), answers=408),
    Crowd(name="a chunk that drips", attacker=dripping(post(CHUNKED, body=b"FFFFF\r\n"), ENDLESS), answers=408),
    Crowd(name="trailers that drip", attacker=dripping(post(CHUNKED, body=b"0\r\nX: "), ENDLESS), answers=408),
    Crowd(name="nothing at all", attacker=dripping(b"", ()), answers=None),
    Crowd(name="nothing after a reply", attacker=dripping(KEPT % STUDENTS, ()), answers=200),
)
"""All at once: each takes as long as the longest timeout."""

CROWDS = {
    "slow clients": SLOW,
    "replies that nobody reads": (Crowd(name="not reading", attacker=not_reading, answers=None, size=5),),
    "connections that are reset": (Crowd(name="breaking off", attacker=breaking_off, answers=None, size=100),),
}
"""What comes together."""
