"""A consumer's breaker at work: it has the messages in hand recalled, waits, and says what it does."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from roles.clock import Clock
from roles.consume.breaker import Breaker, Outcome, State, Switch
from roles.consume.hold import Hold

log = structlog.get_logger(__name__)


class KillSwitch:
    """Opens and closes by what it is told of the messages; without a breaker it stays closed.

    Params:
        hold: what is asked to end the subscription.
        changed: called when `reason` has changed.
    """

    def __init__(
        self, queue: str, breaker: Breaker | None, *, clock: Clock, hold: Hold, changed: Callable[[], None]
    ) -> None:
        self.reason: str | None = None
        self._queue = queue
        self._switch = None if breaker is None else Switch(breaker)
        self._clock = clock
        self._hold = hold
        self._changed = changed

    @property
    def probing(self) -> bool:
        """Whether a single message is to be taken."""
        return self._switch is not None and self._switch.state is State.PROBING

    def record(self, outcome: Outcome, messages: int, error: str) -> None:
        """Takes note of what became of messages."""
        if self._switch is None or not messages:
            return
        now = self._clock.monotonic()
        before = self._switch.state
        if not self._switch.record(outcome, now, messages=messages):
            return
        fields = {"queue": self._queue, "error": error, "next_try_in": round(self._switch.left(now), 3)}
        if self._switch.state is State.CLOSED:
            log.info("breaker closed", queue=self._queue)
            self._say(None)
        elif before is State.PROBING:
            log.warning("breaker stays open", **fields)
            self._say(f"the breaker is open: one message was tried and failed: {error}")
        else:
            failed, counted = self._switch.counts(now)
            log.error("breaker opened", failed=failed, of=counted, **fields)
            self._say(f"the breaker is open: {failed} of the last {counted} messages failed, this one last: {error}")
            self._hold.recall("the breaker has opened")

    async def pause(self) -> None:
        """Returns when messages may be taken, or one, if it is `probing` then."""
        if self._switch is not None and self._switch.state is State.OPEN:
            await self._clock.sleep(self._switch.left(self._clock.monotonic()))
            self._switch.probe()

    def _say(self, reason: str | None) -> None:
        self.reason = reason
        self._changed()
