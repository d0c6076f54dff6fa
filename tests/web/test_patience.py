"""What a client costs that does nothing: a connection, for a time, and nobody else anything."""

from __future__ import annotations

import logging
import signal
import ssl
from contextlib import AsyncExitStack
from datetime import timedelta

import anyio
import pytest

from roles.web.patience import Patience
from roles.web.server import Certificate
from tests.clients.stub import PEM
from tests.web.support import StartServer, eventually

pytestmark = pytest.mark.anyio

IMPATIENT = Patience(keep_alive_timeout=timedelta(seconds=0.5))

CERTIFICATE = Certificate(str(PEM), str(PEM))


@pytest.mark.parametrize("protocol", ["http/1.1", "h2"])
async def test_a_client_that_agrees_on_tls_and_says_nothing_is_let_go(
    start_server: StartServer, protocol: str
) -> None:
    context = ssl.create_default_context(cafile=PEM)
    context.check_hostname = False
    context.set_alpn_protocols([protocol])
    async with start_server(patience=IMPATIENT, tls=CERTIFICATE) as server:
        stream = await anyio.connect_tcp(
            server.address.host, server.address.port, ssl_context=context, tls_standard_compatible=False
        )
        async with stream:
            with anyio.fail_after(60), pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                while True:  # HTTP/2 has something to say before it ends
                    await stream.receive()


async def test_who_does_not_read_a_reply_is_let_go(start_server: StartServer) -> None:
    async with start_server(patience=IMPATIENT) as server, server.client() as client:
        await client.send("/large")
        await eventually(lambda: server.tally.taken)
        server.stop.set()
        with anyio.fail_after(60):
            await server.stopped.wait()


async def test_connections_that_ask_nothing_shut_nobody_out(start_server: StartServer) -> None:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(start_server(patience=Patience(connections=1000)))
        for _ in range(300):
            await stack.enter_async_context(server.client())
        async with server.client() as client:
            assert (await client.get())[0] == 200


async def test_when_all_places_are_taken_the_longest_idle_connection_makes_place(start_server: StartServer) -> None:
    async with start_server(patience=Patience(connections=3)) as server, AsyncExitStack() as stack:
        first, second, third = [await stack.enter_async_context(server.client()) for _ in range(3)]
        for client in (second, first, third):
            await client.get()
            await anyio.sleep(0.01)
        fourth = await stack.enter_async_context(server.client())
        assert (await fourth.get())[0] == 200
        assert await second.closed()
        for client in (first, third):
            assert (await client.get())[0] == 200


async def test_a_server_leaves_signals_and_logs_alone(start_server: StartServer) -> None:
    def state() -> object:
        loggers = [
            logging.getLogger(),
            *(logging.getLogger(name) for name in ("_granian", "granian", "hypercorn.error")),
        ]
        return [signal.getsignal(number) for number in signal.Signals], [logger.handlers[:] for logger in loggers]

    before = state()
    async with start_server() as server, server.client() as client:
        await client.get()
        assert state() == before
    assert state() == before
