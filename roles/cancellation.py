"""Stray cancellations: a `CancelledError` that nobody in this program asked for.

aiormq raises them when a connection dies. Inside an anyio task group one would cancel all siblings and end the
group without an error, so it is turned into an ordinary exception wherever a library could let one out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import anyio

from roles.failures import contained


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


async def isolated(call: Callable[[], Awaitable[None]]) -> None:
    """Awaits `call` in a task of its own, so that no trace of a cancellation inside it is left on the caller's.

    Before Python 3.13 an `asyncio.TaskGroup` whose child fails cancels the task that waits for it, and leaves it
    counted as cancelled. The next of anyio's scopes that such a task leaves takes that for a cancellation of all
    that is around it.
    """
    failure: BaseException = StrayCancellation("a library cancelled a task that nobody had cancelled")
    done = False

    async def run() -> None:
        nonlocal failure, done
        try:
            with contained():
                await call()
            done = True
        except Exception as error:  # noqa: BLE001 - raised below, where no group can wrap it
            failure = error

    async with anyio.create_task_group() as group:
        group.start_soon(run)
    if not done:
        raise failure
