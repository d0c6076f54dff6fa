"""Time, as something that is handed in: the supervisor's and the scheduler's tests take no wall-clock time."""

from __future__ import annotations

import random
import time
from datetime import UTC, datetime
from typing import Protocol

import anyio


class Clock(Protocol):
    """Where now, sleep and chance come from."""

    def now(self) -> datetime:
        """The wall-clock time, aware, in UTC."""

    def monotonic(self) -> float:
        """Seconds from an arbitrary start, never backwards."""

    def random(self) -> float:
        """A number in [0, 1), for jitter."""

    async def sleep(self, seconds: float) -> None:
        """Returns after so many seconds; at once (but through the loop) for zero or less."""


class SystemClock:
    """The real one."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    def random(self) -> float:
        return random.random()  # noqa: S311 - jitter, not a secret

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(max(0.0, seconds))
