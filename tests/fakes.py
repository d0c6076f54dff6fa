"""The only fake: time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from heapq import heappop, heappush
from itertools import count

import anyio
import anyio.lowlevel


class FakeClock:
    """A `Clock` that stands still until it is advanced; sleepers wake in order, each at its own moment."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC), *, chance: float = 1.0) -> None:
        self.elapsed = 0.0
        self.chance = chance
        self.sleeps: list[float] = []
        """What was asked for, in order."""
        self._start = start
        self._sleepers: list[tuple[float, int, anyio.Event]] = []
        self._order = count()

    def now(self) -> datetime:
        return self._start + timedelta(seconds=self.elapsed)

    def monotonic(self) -> float:
        return self.elapsed

    def random(self) -> float:
        return self.chance

    async def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        if seconds <= 0:
            await anyio.lowlevel.checkpoint()
            return
        wake = anyio.Event()
        heappush(self._sleepers, (self.elapsed + seconds, next(self._order), wake))
        await wake.wait()

    async def advance(self, seconds: float) -> None:
        """Lets so many seconds pass, and everything happen that is due in them."""
        await settle()
        end = self.elapsed + seconds
        while self._sleepers and self._sleepers[0][0] <= end:
            at, _, wake = heappop(self._sleepers)
            self.elapsed = max(self.elapsed, at)
            wake.set()
            await settle()
        self.elapsed = end
        await settle()


async def settle() -> None:
    """Lets the other tasks run until each waits for something (anyio's own way of asking polls every 100 ms)."""
    for _ in range(50):
        await anyio.lowlevel.checkpoint()
