"""The world is away: what is in hand stays there, unacked, and is tried again until the world is back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import structlog

from roles.amqp import Delivery
from roles.clock import Clock
from roles.consume.backoff import Backoff
from roles.timers import until

log = structlog.get_logger(__name__)


class GivenBack(Exception):
    """The message is not ours any more, or we are to stop: it stays unacked, and the broker delivers it again."""


class Outage:
    """One thing that a consumer needs, and whether it is away.

    Consumption pauses by itself while it is: every message in hand waits here, and the broker hands out no more
    than the prefetch. The first try that succeeds ends the wait of all.

    Params:
        stop: ends all waits.
        changed: called when `reason` has changed.
    """

    def __init__(
        self, queue: str, *, clock: Clock, backoff: Backoff, stop: anyio.Event, changed: Callable[[], None]
    ) -> None:
        self.reason: str | None = None
        self._queue = queue
        self._clock = clock
        self._backoff = backoff
        self._stop = stop
        self._changed = changed
        self._over = anyio.Event()
        self._began = 0.0

    async def wait(self, error: Exception, delivery: Delivery) -> None:
        """Returns when it is time to try again.

        Raises:
            GivenBack: the message was lost meanwhile, or we are to stop.
        """
        if self.reason is None:
            self._over = anyio.Event()
            self._began = self._clock.monotonic()
            log.warning("consumption paused", queue=self._queue, reason=str(error))
        self.reason = str(error)
        self._changed()
        await hold(delivery, self._pause, self._stop)

    def over(self) -> None:
        """To be called after each success; free when nothing is wrong."""
        if self.reason is not None:
            took = self._clock.monotonic() - self._began
            log.info("consumption resumed", queue=self._queue, paused_for=round(took, 3), reason=self.reason)
            self.reason = None
            self._backoff.reset()
            self._over.set()
            self._changed()

    async def _pause(self) -> None:
        async with until(self._over):
            await self._clock.sleep(self._backoff.next())


async def hold(delivery: Delivery, pause: Callable[[], Awaitable[None]], stop: anyio.Event) -> None:
    """Awaits `pause` with an unacked message in hand.

    Raises:
        GivenBack: the message was lost meanwhile, or we are to stop.
    """
    async with until(stop), until(delivery.channel.lost):
        await pause()
    if stop.is_set():
        raise GivenBack("asked to stop while the message had to wait")
    if delivery.channel.lost.is_set():
        raise GivenBack(delivery.channel.reason)
