"""What the login over AMQP makes of brokers that do not serve. (test_rabbitmq.py has one that does.)"""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream

from roles.embedded.amqp_probe import NotServing, log_in

pytestmark = pytest.mark.anyio


def method(method: int, arguments: bytes, kind: int = 1, end: int = 0xCE) -> bytes:
    payload = struct.pack(">HH", 10, method) + arguments
    return struct.pack(">BHI", kind, 0, len(payload)) + payload + bytes([end])


@asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[int]:
    """The port of a server that says one thing and hangs up."""

    async def serve(stream: SocketStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(answer or b"\0")

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, serve)
        yield listener.extra(SocketAttribute.local_port)
        group.cancel_scope.cancel()


async def refusal(answer: bytes) -> str:
    async with answering(answer) as port:
        with anyio.fail_after(60), pytest.raises(NotServing) as refused:
            await log_in(port=port, user="rolecall", password="secret")
    return str(refused.value)


async def test_nothing_listens(unused_port: int) -> None:
    with pytest.raises(NotServing, match=f"port {unused_port}"):
        await log_in(port=unused_port, user="rolecall", password="secret")


async def test_the_server_hangs_up() -> None:
    assert "port" in await refusal(b"")


async def test_the_server_speaks_something_else() -> None:
    assert "does not speak AMQP" in await refusal(method(10, b"", kind=8))
    assert "does not speak AMQP" in await refusal(method(10, b"", end=0))


async def test_the_server_answers_out_of_turn() -> None:
    assert "(10, 41)" in await refusal(method(41, b""))


async def test_the_server_refuses() -> None:
    text = b"NOT_ALLOWED - vhost x not found"
    assert await refusal(method(50, struct.pack(">HB", 530, len(text)) + text)) == f"530 {text.decode()}"


@pytest.fixture
def unused_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
