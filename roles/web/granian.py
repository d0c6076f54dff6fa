"""Granian's HTTP as a part of this process: Rust reads and writes in a thread of its own, and this loop handles.

Granian's embedded server drains well once it was told to stop. What it lacks is put around it here:

- it binds for itself: here it is given a copy of a socket that listens already;
- it stops accepting and closes idle connections in one moment: here its copy is exchanged, before that, for one that
  nobody knows;
- it waits without end for a client that has sent half a request, keeps a silent one where it speaks HTTP/2, and lets
  nobody in while there are as many as there may be: some are shut down then (`roles.web.accepted`).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from socket import socket
from ssl import SSLError
from typing import Any, Final, cast

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
from hypercorn.typing import ASGIFramework, ASGIReceiveEvent

from roles.web.accepted import Accepted, Client
from roles.web.gate import STATE_KEY, Gate, new_request_id
from roles.web.headers import complete, problem_reply
from roles.web.listener import BACKLOG
from roles.web.patience import Patience
from roles.web.server import CUT_OFF_TIMEOUT, LINGER, Certificate, Serving
from schema.problems import MALFORMED, Problem, untyped

PLACE_INTERVAL: Final = 1.0
"""Seconds after which a connection that waits for a place gets that of one that is idle."""

SMALLEST_BUFFER: Final = 8192
"""Bytes that Granian reads at once, at least; a request's line and headers have to fit in."""

QUIET: Final = timedelta(seconds=2)
"""A connection without a request on which nothing was sent for so long does not hold up the drain."""

RSA_SIZES: Final = range(2048, 8192 + 1)
"""Bits that an RSA key of a certificate may have."""

GONE_AFTER: Final = 0.05
"""Seconds after which a request that is still being handled is worth the question whether its client is there."""

EMPTY: Final[ASGIReceiveEvent] = {"type": "http.request", "body": b"", "more_body": False}

GONE: Final[ASGIReceiveEvent] = {"type": "http.disconnect"}

UNNAMED: Final = (b"server", b"")
"""Granian says its name where there is no such header, and there is no other way to keep it from that."""

LOGGING: Final[dict[str, Any]] = {"incremental": True, "formatters": {}, "handlers": {}, "loggers": {}}
"""Granian's records go where all others do; without this it would set up handlers of its own, and close ours."""

log = structlog.get_logger(__name__)


async def converse(serving: Serving) -> None:
    """Serves with Granian; see `roles.web.server.Server.serve`."""
    gate, patience = serving.gate, serving.patience
    ended = anyio.Event()
    accepted = Accepted(serving.listener)
    with socket() as spare:
        server = _Granian(_for_granian(gate), serving.listener, spare, patience, serving.tls)

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


def _for_granian(gate: Gate) -> ASGIFramework:
    """The gate as Granian calls it."""

    async def app(scope: Any, receive: Callable[[], Any], send: Any) -> None:
        problem, has_body = _look_at(scope)
        incoming = _Incoming(receive, has_body=has_body)
        answered = False

        async def send_unnamed(event: Any) -> None:
            nonlocal answered
            if event["type"] == "http.response.start":
                answered = True
                event["headers"].append(UNNAMED)
            await send(event)

        if problem is None:
            with suppress(asyncio.CancelledError):  # it was cut off, and is answered; nobody awaits its task
                await gate(scope, incoming.next_event, send_unnamed)
            if not (answered or incoming.arrived):  # to Granian, who sends a body that is none has gone
                problem = MALFORMED("The body of the request breaks off, or is none.")
        if problem is not None:
            await _refuse(problem, scope, send_unnamed)

    return app


class _Incoming:
    """What the client has to say. Each question to Granian is a journey to its thread and back, so few are asked.

    That there is no body is known without one, and whether the client has gone is asked once a request takes long.
    """

    __slots__ = ("_receive", "_whole", "arrived")

    def __init__(self, receive: Callable[[], Any], *, has_body: bool) -> None:
        self._receive, self._whole = receive, not has_body
        self.arrived = False
        """Whether the whole body was handed on."""

    async def next_event(self) -> ASGIReceiveEvent:
        if self.arrived:
            return await self._disconnect()
        if self._whole:
            self.arrived = True
            return EMPTY
        try:
            event: Any = await self._receive()
        except asyncio.CancelledError:
            if cast("asyncio.Task[Any]", asyncio.current_task()).cancelling():
                raise
            return GONE  # Granian gives questions up that nobody is left to answer
        self.arrived = self._whole = not event.get("more_body", True)
        return cast("ASGIReceiveEvent", event)

    async def _disconnect(self) -> ASGIReceiveEvent:
        loop = asyncio.get_running_loop()
        gone: asyncio.Future[ASGIReceiveEvent] = loop.create_future()  # what `roles.api.client_watch` waits for
        asked: list[Any] = []

        def ask(_: object = None) -> None:
            if asked and _answer(asked[-1])["type"] == "http.disconnect":
                gone.set_result(GONE)
                return
            asked.append(self._receive())
            asked[-1].add_done_callback(ask)

        timer = loop.call_later(GONE_AFTER, ask)
        try:
            return await gone
        finally:
            timer.cancel()
            if asked:
                asked[-1].remove_done_callback(ask)
                asked[-1].cancel()


def _answer(question: Any) -> Any:
    try:
        return question.result()
    except asyncio.CancelledError:
        return GONE


def _look_at(scope: Any) -> tuple[Problem | None, bool]:
    """What speaks against a request that hyper lets pass, and others could read in another way (RFC 9112 §11.2).

    Returns:
        The problem, if there is one; and whether the request may have a body.
    """
    if scope["http_version"] >= "2":
        return None, True
    hosts, codings, has_length = [], [], False
    for name, value in scope["headers"]:
        if name == b"host":
            hosts.append(value)
        elif name == b"content-length":
            has_length = True
        elif name == b"transfer-encoding":
            codings.append(value)
    problem = None
    if codings and codings != [b"chunked"]:
        problem = untyped(501, "The only transfer coding is `chunked`.")
    elif len(hosts) > 1 or (not hosts[0] and scope["http_version"] == "1.1"):  # Granian adds an empty one to none
        problem = MALFORMED("A request has one `Host`.")
    return problem, has_length or bool(codings)


async def _refuse(problem: Problem, scope: Any, send: Any) -> None:
    """Answers for the application, which has no part in it, and ends the connection."""
    request_id = scope["state"].get(STATE_KEY) or new_request_id()
    headers, body = problem_reply(problem, request_id)
    complete(headers, request_id, secure=scope["scheme"] == "https")
    if scope["http_version"] < "2":
        headers.append((b"connection", b"close"))
    log.info(
        "request refused",
        request_id=request_id,
        status=problem.status,
        client=scope["client"][0],
        reason=problem.detail,
    )
    await send({"type": "http.response.start", "status": problem.status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
