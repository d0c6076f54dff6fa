"""A thread that notices when the event loop no longer turns, and says what holds it up.

A handler that computes for a second, or calls something that blocks, stops every request, message, tick and
heartbeat of the process. Nothing inside the loop can report that while it lasts; this thread can.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from roles.events import Emit, LoopBlocked

BEATS = 5
"""Heartbeats of the loop in the time that it may be blocked: the precision is a fifth of that time."""


@contextmanager
def watchdog(emit: Emit, limit: timedelta) -> Iterator[None]:
    """Watches the running loop while the block lasts.

    A loop that is blocked for longer than `limit` gives two `LoopBlocked`: one while it lasts, with the stack
    that blocks it and the seconds so far; one when it is over, with the same stack and the seconds in total.

    Params:
        emit: called in the watchdog's thread.
        limit: `supervisor.blocked_loop`.
    """
    loop = asyncio.get_running_loop()
    watched = threading.get_ident()
    interval = limit.total_seconds() / BEATS
    beat = time.monotonic()
    timer: asyncio.TimerHandle
    over = threading.Event()

    def live() -> None:
        nonlocal beat, timer
        beat = time.monotonic()
        timer = loop.call_later(interval, live)

    def watch() -> None:
        stack, blocked_at = "", 0.0
        while not over.wait(interval):
            last = beat
            if stack and last != blocked_at:
                emit(LoopBlocked(last - blocked_at - interval, stack))
                stack = ""
            late = time.monotonic() - last - interval
            if not stack and late > limit.total_seconds():
                stack, blocked_at = _stack(watched), last
                emit(LoopBlocked(late, stack))

    live()
    thread = threading.Thread(target=watch, name="watchdog", daemon=True)
    thread.start()
    try:
        yield
    finally:
        timer.cancel()
        over.set()
        thread.join()


def _stack(thread: int) -> str:
    frame = sys._current_frames().get(thread)  # noqa: SLF001 - the documented way to another thread's stack
    return "".join(traceback.format_stack(frame)).rstrip() if frame is not None else "the thread has ended"
