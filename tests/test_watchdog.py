"""The watchdog sees a loop that is blocked, names what blocks it, and keeps quiet otherwise."""

from __future__ import annotations

import threading
import time
from datetime import timedelta
from functools import partial
from queue import SimpleQueue

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from roles.events import Event, LoopBlocked
from roles.watchdog import watchdog

pytestmark = pytest.mark.anyio

LIMIT = timedelta(seconds=0.2)


@pytest.fixture(params=[True, False], ids=["uvloop", "asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return ("asyncio", {"use_uvloop": request.param})


class Reports:
    """What was emitted, with the seconds since the start; `next` waits without blocking the loop."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._queue: SimpleQueue[tuple[float, Event]] = SimpleQueue()

    def emit(self, event: Event) -> None:
        self._queue.put((time.monotonic() - self._began, event))

    async def next(self) -> tuple[float, LoopBlocked]:
        at, event = await anyio.to_thread.run_sync(partial(self._queue.get, timeout=5))
        assert isinstance(event, LoopBlocked)
        return at, event

    def empty(self) -> bool:
        return self._queue.empty()


def compute_for_too_long(seconds: float) -> None:
    time.sleep(seconds)  # noqa: TID251 - blocking is the point


async def test_a_blocked_loop_is_reported_while_it_lasts_and_again_when_it_is_over() -> None:
    reports = Reports()
    with watchdog(reports.emit, LIMIT):
        compute_for_too_long(2)
        during, first = await reports.next()
        _, second = await reports.next()

    assert during < 2
    assert "compute_for_too_long" in first.stack
    assert second.stack == first.stack
    assert 0.2 < first.seconds < 2
    assert 1.6 < second.seconds < 20


async def test_each_block_is_reported_for_itself() -> None:
    reports = Reports()
    with watchdog(reports.emit, LIMIT):
        for _ in range(2):
            compute_for_too_long(0.5)
            await reports.next()
            await reports.next()
    assert reports.empty()


async def test_a_busy_loop_that_turns_is_not_reported() -> None:
    reports = Reports()
    with watchdog(reports.emit, timedelta(seconds=1)):
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            compute_for_too_long(0.05)
            await anyio.lowlevel.checkpoint()
    assert reports.empty()


async def test_the_thread_ends_with_the_block() -> None:
    with watchdog(Reports().emit, LIMIT):
        assert "watchdog" in [thread.name for thread in threading.enumerate()]
    assert "watchdog" not in [thread.name for thread in threading.enumerate()]
