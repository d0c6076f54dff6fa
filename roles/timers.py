"""Two ways for a block to end early, on the injected clock."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta

import anyio

from roles.clock import Clock


@asynccontextmanager
async def after(clock: Clock, delay: timedelta, action: Callable[[], None]) -> AsyncIterator[None]:
    """Calls `action` if the block is still running after `delay`."""

    async def wait() -> None:
        await clock.sleep(delay.total_seconds())
        action()

    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        yield
        group.cancel_scope.cancel()


@asynccontextmanager
async def until(event: anyio.Event) -> AsyncIterator[None]:
    """Cancels the block when `event` is set."""

    async def wait(scope: anyio.CancelScope) -> None:
        await event.wait()
        scope.cancel()

    async with anyio.create_task_group() as group:
        group.start_soon(wait, group.cancel_scope)
        yield
        group.cancel_scope.cancel()
