"""What serves HTTP in this process: `hypercorn` by default, or `granian`, behind one small interface.

A server is given a socket that listens already, serves an application on it until it is asked to stop, and drains. It
owns no signal, no lifespan and no log of requests: these are the process's, the role's and the gate's
(`roles.web.gate`), which is the same for both. What the two differ in is in docs/adr/0031.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib.util import find_spec
from socket import socket
from typing import Final, Literal

import anyio
from hypercorn.typing import ASGIFramework

from roles.tally import Tally
from roles.web.gate import Gate
from roles.web.listener import give_up_after
from roles.web.patience import PATIENCE, Patience
from schema.errors import ConfigurationError

LINGER: Final = 0.1
"""Seconds between the first replies that end their connection and the end of the connections that are idle.

A client that keeps its connection busy learns in that time that it ends, and sends its next request elsewhere;
cut off at once, it could have just sent one that nobody would answer.
"""

CUT_OFF_TIMEOUT: Final = 2.0
"""Seconds that requests have to end in after they were cancelled."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """What to serve HTTPS with: TLS 1.2 or newer, HTTP/2 where the client speaks it.

    Params:
        chain: a PEM file, with the chain that leads to its authority.
        key: the PEM file of its private key.
    """

    chain: str
    key: str

    def unusable(self, error: Exception) -> ConfigurationError:
        """What to raise when the files cannot be read, or do not belong together."""
        return ConfigurationError(
            f"api.tls_certificate = {self.chain!r} and api.tls_key = {self.key!r}: cannot be used: {error}"
        )


@dataclass(frozen=True, slots=True)
class Serving:
    """What a server is to serve, where, and how.

    Params:
        gate: with the application behind it.
        listener: it is closed in the end.
        stop: once set, what is in flight is ended, and nothing new begun.
        started: called once connections are accepted.
    """

    gate: Gate
    listener: socket
    stop: anyio.Event
    started: Callable[[], None]
    patience: Patience
    tls: Certificate | None


@dataclass(frozen=True, slots=True)
class Server:
    """One of the two, which differ in how they converse with clients."""

    converse: Callable[[Serving], Awaitable[None]]

    async def serve(
        self,
        app: ASGIFramework,
        listener: socket,
        *,
        stop: anyio.Event,
        tally: Tally,
        started: Callable[[], None] = lambda: None,
        patience: Patience = PATIENCE,
        log_requests: bool = True,
        tls: Certificate | None = None,
    ) -> None:
        """Serves `app` on `listener` until `stop` is set, then ends what is in flight and returns.

        The drain: nothing new is accepted, replies end their connections, idle connections are closed. It takes as
        long as the longest request; cancel it, and those that are left are cut off: cancelled, and answered with 503.

        Params:
            app: an ASGI application; its lifespan is its owner's.
            listener: it is closed in the end.
            started: called once connections are accepted.
            patience: how many connections there may be, and what each of them may take.
            tls: the certificate to serve with, for HTTP/2 as well; None serves without TLS.

        Raises:
            ConfigurationError: the certificate cannot be used.
        """
        gate = Gate(app, tally=tally, log_requests=log_requests)
        give_up_after(listener, patience.keep_alive_timeout)
        await self.converse(Serving(gate, listener, stop, started, patience, tls))


def server(name: Literal["hypercorn", "granian"]) -> Server:
    """The server that `api.server` names.

    Raises:
        ConfigurationError: it is not installed.
    """
    if name == "hypercorn":
        from roles.web import hypercorn  # noqa: PLC0415 - one is used, and one is loaded

        return Server(hypercorn.converse)
    if find_spec("granian") is None:
        raise ConfigurationError(
            'api.server = "granian" (APP_API__SERVER) needs the extra `granian`: install it '
            '(`uv sync --extra granian`), or set api.server = "hypercorn"'
        )
    from roles.web import granian  # noqa: PLC0415

    return Server(granian.converse)
