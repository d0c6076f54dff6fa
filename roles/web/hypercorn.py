"""Hypercorn's HTTP as a part of this process: it owns no signal, binds nothing, and drains when it is asked to.

Hypercorn's `serve()` is made to be a whole process. Here its protocols run on connections of ours
(`roles.web.open_connections`) in a task group of ours, so that the order of the drain is ours, and its end certain.
"""

from __future__ import annotations

import asyncio
import logging
from ssl import SSLContext, SSLError
from time import time

import anyio
import structlog
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config

from roles.cancellation import stray_cancellation_as
from roles.web.listener import BACKLOG
from roles.web.open_connections import Connections, OpenConnection
from roles.web.patience import Patience
from roles.web.server import CUT_OFF_TIMEOUT, LINGER, Certificate, Serving

TLS_HANDSHAKE_TIMEOUT = 10.0
"""Seconds that a client has to agree with us on TLS."""

log = structlog.get_logger(__name__)


async def converse(serving: Serving) -> None:
    """Serves with Hypercorn; see `roles.web.server.Server.serve`."""
    gate, patience = serving.gate, serving.patience
    config, context = _config(patience), WorkerContext(None)
    secure = None if serving.tls is None else _tls_context(serving.tls)
    open_connections = Connections(ASGIWrapper(gate), config, context, patience)

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if (connection := open_connections.admit(reader, writer)) is not None:
            connections.start_soon(_converse, connection)

    async def terminate() -> None:
        await context.terminated.set()
        open_connections.close_idle()

    async def drain() -> None:
        try:
            await serving.stop.wait()
            server.close()
            gate.draining.set()
            await anyio.sleep(LINGER)
            await terminate()
            await anyio.sleep_forever()
        finally:  # cancelled, because all connections have ended, or because the time for that is over
            server.close()
            gate.draining.set()
            await terminate()
            gate.cut_off()
            shield.deadline = anyio.current_time() + CUT_OFF_TIMEOUT

    async with anyio.create_task_group() as tasks:
        handshake = None if secure is None else TLS_HANDSHAKE_TIMEOUT
        server = await asyncio.start_server(
            accept, sock=serving.listener, backlog=BACKLOG, ssl=secure, ssl_handshake_timeout=handshake
        )
        # A connection that is cancelled ends in the middle of a reply. Only requests are, and by the gate.
        with anyio.CancelScope(shield=True) as shield:
            async with anyio.create_task_group() as connections:
                tasks.start_soon(drain)
                connections.start_soon(context.terminated.wait)
                serving.started()
        tasks.cancel_scope.cancel()


async def _converse(connection: OpenConnection) -> None:
    try:
        with stray_cancellation_as(message="Hypercorn ended a connection with a cancellation of its own"):
            await connection.run()
    except Exception:
        log.exception("connection failed")


class _Config(Config):
    """Hypercorn's, which says the date anew when it is another one."""

    def __init__(self) -> None:
        super().__init__()
        self._second = 0
        self._headers: list[tuple[bytes, bytes]] = []

    def response_headers(self, protocol: str) -> list[tuple[bytes, bytes]]:
        second = int(time())
        if second != self._second:
            self._second, self._headers = second, super().response_headers(protocol)
        return self._headers


def _config(patience: Patience) -> Config:
    config = _Config()
    config.include_server_header = False
    config.accesslog = None  # the gate's
    config.errorlog = logging.getLogger("hypercorn.error")
    config.h11_max_incomplete_size = patience.headers_length
    return config


def _tls_context(certificate: Certificate) -> SSLContext:
    config = Config()
    config.certfile, config.keyfile = certificate.chain, certificate.key
    try:
        context = config.create_ssl_context()
    except (OSError, SSLError) as error:
        raise certificate.unusable(error) from error
    assert context is not None
    return context
