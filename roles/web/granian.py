"""Granian's HTTP as a part of this process: Rust reads and writes in a thread of its own, and this loop handles.

Granian's embedded server drains well once it was told to stop. What it lacks is put around it here:

- it binds for itself: here it is given a copy of a socket that listens already;
- it stops accepting and closes idle connections in one moment: here its copy is exchanged, before that, for one that
  nobody knows;
- it waits without end for a client that has sent half a request, keeps a silent one where it speaks HTTP/2, and lets
  nobody in while there are as many as there may be: some are shut down then (`roles.web.accepted`).

What it calls for a request is in `roles.web.granian_requests`.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from socket import socket
from ssl import SSLError
from typing import Any, Final

import anyio
import structlog
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, SECP384R1, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from granian.constants import HTTPModes, Interfaces, SSLProtocols
from granian.http import HTTP1Settings, HTTP2Settings
from granian.log import LogLevels
from granian.net import SocketHolder  # type: ignore[attr-defined]  # its stubs do not say that it is there
from granian.server.embed import Server
from hypercorn.typing import ASGIFramework

from roles.web.accepted import Accepted, Client
from roles.web.gate import Gate
from roles.web.granian_requests import for_granian
from roles.web.listener import BACKLOG
from roles.web.patience import Patience
from roles.web.server import CUT_OFF_TIMEOUT, LINGER, Certificate, Serving

PLACE_INTERVAL: Final = 1.0
"""Seconds after which a connection that waits for a place gets that of one that is idle."""

SMALLEST_BUFFER: Final = 8192
"""Bytes that Granian reads at once, at least; a request's line and headers have to fit in."""

QUIET: Final = timedelta(seconds=2)
"""A connection without a request on which nothing was sent for so long does not hold up the drain."""

RSA_SIZES: Final = range(2048, 8192 + 1)
"""Bits that an RSA key of a certificate may have."""

LOGGING: Final[dict[str, Any]] = {"incremental": True, "formatters": {}, "handlers": {}, "loggers": {}}
"""Granian's records go where all others do; without this it would set up handlers of its own, and close ours."""

log = structlog.get_logger(__name__)


async def converse(serving: Serving) -> None:
    """Serves with Granian; see `roles.web.server.Server.serve`."""
    gate, patience = serving.gate, serving.patience
    ended = anyio.Event()
    accepted = Accepted(serving.listener)
    with socket() as spare:
        server = _Granian(for_granian(gate), serving.listener, spare, patience, serving.tls)

        async def drain() -> None:
            try:
                await serving.stop.wait()
                server.refuse()
                gate.draining.set()
                await anyio.sleep(LINGER)
                server.stop()
                await _end_idle(accepted, gate, QUIET, QUIET)
            finally:  # cancelled, because all connections have ended, or because the time for that is over
                if not ended.is_set():
                    server.refuse()
                    gate.draining.set()
                    server.stop()
                    gate.cut_off()
                    with anyio.move_on_after(CUT_OFF_TIMEOUT, shield=True):
                        await ended.wait()
                    shield.deadline = anyio.current_time() + CUT_OFF_TIMEOUT
                    accepted.end()

        async with anyio.create_task_group() as tasks:
            # Its own clean-up must run to its end: cancelled, it would leave its thread behind.
            with anyio.CancelScope(shield=True) as shield:
                tasks.start_soon(drain)
                tasks.start_soon(_make_place, accepted, gate, patience.connections)
                if serving.tls is not None:
                    keep_alive = patience.keep_alive_timeout
                    tasks.start_soon(_end_idle, accepted, gate, keep_alive, keep_alive / 2)
                serving.started()
                await server.serve()
            ended.set()
            tasks.cancel_scope.cancel()
        if shield.cancelled_caught:
            log.error("granian did not stop", waited_seconds=2 * CUT_OFF_TIMEOUT)
        elif not server.interrupt_signal:
            raise RuntimeError("Granian has stopped by itself; what it logged before says why")


async def _make_place(accepted: Accepted, gate: Gate, most: int) -> None:
    while True:
        await anyio.sleep(PLACE_INTERVAL)
        accepted.make_place(most, busy=_busy(gate))


async def _end_idle(accepted: Accepted, gate: Gate, since: timedelta, interval: timedelta) -> None:
    while True:
        await anyio.sleep(interval.total_seconds())
        accepted.end_idle(since, busy=_busy(gate))


def _busy(gate: Gate) -> set[Client]:
    """Whose requests are in flight; Granian's ports are text."""
    return {(client[0], int(client[1])) for client in gate.clients() if client is not None}


class _Granian(Server):
    def __init__(
        self,
        app: ASGIFramework,
        listener: socket,
        spare: socket,
        patience: Patience,
        tls: Certificate | None,
    ) -> None:
        self._listener, self._spare = listener, spare
        if tls is not None:
            _ensure_known(tls)
        try:
            super().__init__(
                app,
                interface=Interfaces.ASGINL,  # no lifespan
                http=HTTPModes.http1 if tls is None else HTTPModes.auto,
                websockets=False,  # there are none; a handshake is the plain request that it is too
                backpressure=patience.connections,
                http1_settings=HTTP1Settings(
                    header_read_timeout=round(patience.keep_alive_timeout.total_seconds() * 1000),
                    max_buffer_size=max(patience.headers_length, SMALLEST_BUFFER),
                ),
                http2_settings=HTTP2Settings(max_headers_size=patience.headers_length),
                log_level=LogLevels.error,
                log_dictconfig=LOGGING,
                ssl_cert=None if tls is None else Path(tls.chain),
                ssl_key=None if tls is None else Path(tls.key),
                ssl_protocol_min=SSLProtocols.tls12,
            )
        except (OSError, SSLError) as error:
            if tls is None:
                raise
            raise tls.unusable(error) from error

    def startup(self, *arguments: Any) -> None:
        """Has its threads inherit a policy by which they do not interrupt this one when they are woken (SCHED_BATCH).

        Where they share a core, each reply would be followed by a switch to them and back, with the lock of the
        interpreter held here. So they have their turn when this thread waits, or has had its time, and find several.
        """
        usual = hasattr(os, "SCHED_BATCH") and os.sched_getscheduler(0) == os.SCHED_OTHER  # policies are Linux's
        if usual:
            _schedule(os.SCHED_BATCH)
        try:
            super().startup(*arguments)  # type: ignore[no-untyped-call]
        finally:
            if usual:  # once the tasks have run that start the threads
                asyncio.get_running_loop().call_soon(_schedule, os.SCHED_OTHER)

    def refuse(self) -> None:
        """Lets nobody connect any more.

        Granian goes on accepting until it is told to stop, and takes a socket that was shut down for an error that
        will pass. With the last copy of its socket the kernel closes it; in its place is one that nobody knows.
        """
        if self._listener.fileno() == -1:
            return
        if os.path.sameopenfile(self._listener.fileno(), self._copy):
            self._spare.bind(("127.0.0.1", 0))  # it was made before, for now there may be no descriptor left
            self._spare.listen()
            self._spare.setblocking(False)
            os.dup2(self._spare.fileno(), self._copy, inheritable=False)
        self._listener.close()

    def stop(self) -> None:
        """Lets what is in flight end, and closes idle connections; `serve` returns then."""
        super().stop()  # type: ignore[no-untyped-call]

    def _init_shared_socket(self) -> None:
        self._copy = os.dup(self._listener.fileno())  # which Granian will close
        self._shd = SocketHolder(self._copy, False, BACKLOG)  # type: ignore[assignment,call-arg]


def _schedule(policy: int) -> None:
    with suppress(PermissionError):  # then it takes more time, and nothing else
        os.sched_setscheduler(0, policy, os.sched_param(0))


def _ensure_known(tls: Certificate) -> None:
    """Granian's TLS (rustls) knows fewer kinds of keys than OpenSSL, and aborts the process for one that it does not.

    Raises:
        ConfigurationError: it is one of those, or cannot be read.
    """
    try:
        match load_pem_private_key(Path(tls.key).read_bytes(), password=None):
            case RSAPrivateKey(key_size=size) if size in RSA_SIZES:
                pass
            case EllipticCurvePrivateKey(curve=SECP256R1() | SECP384R1()) | Ed25519PrivateKey():
                pass
            case _:
                raise ValueError(
                    "granian takes RSA keys of 2048 bits and more, EC keys on P-256 or P-384, and Ed25519"
                )
    except (OSError, TypeError, ValueError) as error:  # TypeError is said of a key with a password
        raise tls.unusable(error) from error
