"""A lane: ticks of one job that go one after the other, the earliest first."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from heapq import heapify, heappop, heappush
from itertools import count

import anyio


class Lane:
    """Lets one tick through at a time."""

    def __init__(self) -> None:
        self._waiting: list[tuple[datetime, int, anyio.Event]] = []
        self._order = count()
        self._taken = False

    @property
    def length(self) -> int:
        """How many wait."""
        return len(self._waiting)

    @asynccontextmanager
    async def turn(self, at: datetime) -> AsyncIterator[None]:
        """Waits until no other tick is on its way, and no earlier one waits."""
        if self._taken:
            entry = (at, next(self._order), anyio.Event())
            heappush(self._waiting, entry)
            try:
                await entry[2].wait()
            except BaseException:
                if entry in self._waiting:
                    self._waiting.remove(entry)
                    heapify(self._waiting)
                else:  # it had been given the turn already
                    self._pass_on()
                raise
        self._taken = True
        try:
            yield
        finally:
            self._pass_on()

    def _pass_on(self) -> None:
        if self._waiting:
            heappop(self._waiting)[2].set()
        else:
            self._taken = False
