"""The world is away: what is in hand stays there, unacked, and is tried again until the world is back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import psycopg
import structlog

from roles.backoff import Backoff
from roles.clock import Clock
from roles.consume.hold import Pause
from roles.timers import until
from schema.errors import ConfigurationError, DependencyUnavailable

log = structlog.get_logger(__name__)

_DOUBLINGS = 16


class Outage:
    """One thing that a consumer needs, and whether it is away.

    Consumption pauses by itself while it is: every message in hand waits here, and the broker hands out no more
    than the prefetch. The first try that succeeds ends the wait of all.

    Params:
        answers: asks the thing for a sign of life, and raises if there is none.
        patience: how long messages are held, in seconds.
        changed: called when `reason` has changed.
    """

    def __init__(
        self,
        queue: str,
        *,
        answers: Callable[[], Awaitable[None]],
        patience: float,
        clock: Clock,
        backoff: Backoff,
        changed: Callable[[], None],
    ) -> None:
        self.reason: str | None = None
        self._queue = queue
        self._answers = answers
        self._patience = patience
        self._clock = clock
        self._backoff = backoff
        self._changed = changed
        self._over = anyio.Event()
        self._began = 0.0
        self._recalls = 0

    async def wait(self, error: Exception, hold: Pause) -> None:
        """Returns when it is time to try again.

        Raises:
            GivenBack: the message must not be held any longer.
        """
        if self.reason is None:
            self._over = anyio.Event()
            self._began = self._clock.monotonic()
            log.warning("consumption paused", queue=self._queue, reason=str(error))
        self._say(str(error))
        await hold(self._pause)

    def over(self) -> None:
        """To be called after each success; free when nothing is wrong."""
        if self.reason is not None:
            took = self._clock.monotonic() - self._began
            log.info("consumption resumed", queue=self._queue, paused_for=round(took, 3), reason=self.reason)
            self._recalls = 0
            self._backoff.reset()
            self._over.set()
            self._say(None)

    async def seems_over(self) -> None:
        """Returns when there is a point in taking messages again, after all were given back.

        At once if it is not away. Otherwise when it gives a sign of life: an outage of a day costs a message no more
        deliveries than one of an hour. If messages have to be given back again all the same, the next sign of life
        is asked for after a wait that doubles each time.
        """
        if self.reason is None:
            return
        await self._clock.sleep(self._patience * (2.0 ** min(self._recalls, _DOUBLINGS) - 1))
        self._recalls += 1
        while True:
            try:
                await self._answers()
            except (DependencyUnavailable, ConfigurationError, psycopg.Error) as error:
                self._say(str(error))
            else:
                return
            await self._clock.sleep(self._backoff.next())

    def _say(self, reason: str | None) -> None:
        self.reason = reason
        self._changed()

    async def _pause(self) -> None:
        async with until(self._over):
            await self._clock.sleep(self._backoff.next())
