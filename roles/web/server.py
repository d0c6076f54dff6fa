"""Hypercorn, as a part of this process: it owns no signal, binds nothing itself, and drains when it is asked to."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from socket import socket

import anyio
from hypercorn.asyncio import serve as serve_with_hypercorn
from hypercorn.config import Config, Sockets
from hypercorn.typing import ASGIFramework

from roles.cancellation import isolated
from roles.tally import Tally
from roles.web.gate import Gate
from roles.web.listener import BACKLOG

LINGER = 0.1
"""Seconds between the first replies that end their connection and the end of the connections that are idle.

A client that keeps its connection busy learns in that time that it ends, and sends its next request elsewhere;
cut off at once, it could have just sent one that nobody would answer.
"""

NO_LIMIT = 24 * 3600.0
"""Seconds. Hypercorn wants a deadline for the drain; the one that counts is the supervisor's, by cancellation."""

CUT_OFF_TIMEOUT = 2.0
"""Seconds that requests have to end in after they were cancelled."""


class _Config(Config):
    """Hypercorn's settings, with a socket that is there already.

    Hypercorn asks for its sockets when the application has started up, right before it accepts connections.
    """

    def __init__(self, listener: socket, started: Callable[[], None]) -> None:
        super().__init__()
        self._listener, self._started = listener, started

    def create_sockets(self) -> Sockets:
        self._started()
        return Sockets(secure_sockets=[], insecure_sockets=[self._listener], quic_sockets=[])


async def serve(
    app: ASGIFramework,
    listener: socket,
    *,
    stop: anyio.Event,
    tally: Tally,
    started: Callable[[], None] = lambda: None,
    keep_alive_timeout: timedelta = timedelta(seconds=75),
    log_requests: bool = True,
) -> None:
    """Serves `app` on `listener` until `stop` is set, then ends what is in flight and returns.

    The drain: replies end their connections, nothing new is accepted, idle connections are closed. It takes as
    long as the longest request; cancel it, and those that are left are cut off: cancelled, and answered with 503.
    The listener is closed in any case.

    Params:
        started: called once the application has started up; connections are accepted from then on.
        keep_alive_timeout: after that long an idle connection is closed.
    """
    draining, closing = anyio.Event(), anyio.Event()
    gate = Gate(app, tally=tally, draining=draining, log_requests=log_requests)

    async def drain() -> None:
        try:
            await stop.wait()
            draining.set()
            await anyio.sleep(LINGER)
            closing.set()
            await anyio.sleep_forever()
        finally:  # cancelled, because Hypercorn has ended, or because the time to drain is over
            draining.set()
            closing.set()
            gate.cut_off()
            hypercorn.deadline = anyio.current_time() + CUT_OFF_TIMEOUT

    config = _Config(listener, started)
    config.include_server_header = False
    config.accesslog = None
    config.errorlog = logging.getLogger("hypercorn.error")
    config.errorlog.setLevel(logging.WARNING)  # what it says below that, we say better
    config.backlog = BACKLOG
    config.keep_alive_timeout = keep_alive_timeout.total_seconds()
    config.graceful_timeout = NO_LIMIT
    with listener:
        async with anyio.create_task_group() as tasks:
            # Cancelling Hypercorn cuts its connections off mid-sentence: it is asked to end, in either case.
            with anyio.CancelScope(shield=True) as hypercorn:
                tasks.start_soon(drain)
                await isolated(partial(serve_with_hypercorn, gate, config, shutdown_trigger=closing.wait))
            tasks.cancel_scope.cancel()
