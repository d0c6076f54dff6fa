"""A message in hand that has to wait: unacked, and not for ever."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial

import anyio

from roles.amqp import Delivery
from roles.clock import Clock
from schema.duration import format_duration

Pause = Callable[[Callable[[], Awaitable[None]]], Awaitable[None]]
"""Awaits something while the message stays in hand; raises `GivenBack` if it must not stay there any longer."""


class GivenBack(Exception):
    """The message is not ours any more, or must not be: it stays unacked, and the broker delivers it again."""


class Hold:
    """How long the messages of one consumer may be kept waiting.

    RabbitMQ closes the channel of a consumer that keeps a message for longer than its `consumer_timeout`. So who
    has waited for too long has all of them recalled: the subscription ends, and begins again when that makes sense.

    Params:
        limit: how long a message may wait.
        stop: ends all waits.
    """

    def __init__(self, *, clock: Clock, limit: timedelta, stop: anyio.Event) -> None:
        self.recalled = anyio.Event()
        self.reason = ""
        self._clock = clock
        self._limit = limit
        self._stop = stop

    @property
    def ended(self) -> bool:
        """Whether messages that are not being handled yet have to go back."""
        return self._stop.is_set() or self.recalled.is_set()

    def recall(self, reason: str) -> None:
        """Ends all waits, and asks for the end of the subscription."""
        if not self.recalled.is_set():
            self.reason = reason
            self.recalled.set()

    def renew(self) -> None:
        """There is a new subscription."""
        self.recalled = anyio.Event()

    def of(self, delivery: Delivery) -> Pause:
        """For a message that has just come into our hands."""
        return partial(self._wait, delivery, self._clock.monotonic())

    async def _wait(self, delivery: Delivery, since: float, pause: Callable[[], Awaitable[None]]) -> None:
        left = since + self._limit.total_seconds() - self._clock.monotonic()
        if left > 0:
            async with anyio.create_task_group() as group:
                for event in (self._stop, self.recalled, delivery.channel.lost):
                    group.start_soon(_cancel_at, event, group.cancel_scope)
                group.start_soon(self._cancel_after, left, group.cancel_scope)
                await pause()
                group.cancel_scope.cancel()
        if self._stop.is_set():
            raise GivenBack("asked to stop while the message had to wait")
        if delivery.channel.lost.is_set():
            raise GivenBack(delivery.channel.reason)
        if self._clock.monotonic() - since >= self._limit.total_seconds():
            self.recall(f"held for consume.give_back_after = {format_duration(self._limit)}")
        if self.recalled.is_set():
            raise GivenBack(self.reason)

    async def _cancel_after(self, seconds: float, scope: anyio.CancelScope) -> None:
        await self._clock.sleep(seconds)
        scope.cancel()


async def _cancel_at(event: anyio.Event, scope: anyio.CancelScope) -> None:
    await event.wait()
    scope.cancel()
