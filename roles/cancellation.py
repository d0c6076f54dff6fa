"""Stray cancellations: a `CancelledError` that nobody in this program asked for.

aiormq raises them when a connection dies. Inside an anyio task group one would cancel all siblings and end the
group without an error, so it is turned into an ordinary exception wherever a library could let one out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class StrayCancellation(Exception):
    """A library ended a call with `CancelledError` although nothing had been cancelled."""


@contextmanager
def stray_cancellation_as(error: type[Exception] = StrayCancellation, message: str = "") -> Iterator[None]:
    """Turns a `CancelledError` that nobody delivered into `error`; a delivered one passes through.

    asyncio counts the cancellations that were requested of a task and not yet handled
    (`Task.cancelling()`); anyio's scopes use the same counter. Zero means that the error is a stray.
    """
    try:
        yield
    except asyncio.CancelledError as stray:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise error(message or "a library cancelled a call that nobody had cancelled") from stray
