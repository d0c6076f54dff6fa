"""SIGTERM, SIGINT and SIGHUP: the first drains, the second exits at once; a drain that hangs is ended by an alarm."""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import signal
from datetime import timedelta
from types import FrameType

import anyio

HARD_EXIT_DELAY = timedelta(seconds=0.8)
"""After the drain's deadline: by then even the cancelled roles have had their time to end."""


def drain_on_signals(stop: anyio.Event, limit: timedelta) -> None:
    """Sets `stop` at the first SIGTERM, SIGINT or SIGHUP, and exits with 1 at the second, from now on.

    The handlers are the interpreter's and not the loop's, so that they work in a process whose loop is blocked, or
    has ended and will not close. Embedded servers end with us: the kernel signals them when their parent dies.

    Params:
        limit: what the drain may take, after which the process exits even if its loop is blocked.
    """
    loop = asyncio.get_running_loop()
    received = False

    def on_signal(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the handler's signature
        nonlocal received
        if received or loop.is_closed():
            _exit_now(f"{signal.Signals(number).name} again: exits at once")
        received = True
        exit_after(limit)
        loop.call_soon_threadsafe(stop.set)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, on_signal)
    signal.signal(signal.SIGALRM, lambda *_: _exit_now("the drain did not end in its time: exits at once"))
    # The interpreter gives up its handlers at its very end, and an alarm would then kill it with the wrong exit code.
    atexit.register(signal.setitimer, signal.ITIMER_REAL, 0)


def exit_after(limit: timedelta) -> None:
    """Ends the process a little after `limit`, unless an earlier call has set an earlier end."""
    if not any(signal.getitimer(signal.ITIMER_REAL)):
        signal.setitimer(signal.ITIMER_REAL, (limit + HARD_EXIT_DELAY).total_seconds())


def _exit_now(reason: str) -> None:
    logging.getLogger(__name__).error(reason)
    for handler in logging.getLogger().handlers:
        handler.flush()
    os._exit(1)
