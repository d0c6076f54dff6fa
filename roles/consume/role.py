"""The role that runs all consumers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import anyio
from anyio.abc import TaskStatus

from roles.amqp import Broker
from roles.board import ConsumerStatus
from roles.consume.archiver import Archiver, keep_counting
from roles.consume.declarations import Consumer
from roles.consume.handlers import CONSUMERS
from roles.consume.quarantine import Quarantine
from roles.consume.subscription import Subscription
from roles.consume.validation import validate
from roles.resources import Resources
from roles.timers import until
from schema.errors import ConfigurationError

GOODBYE = 2.0
"""Seconds that closing the connections may take when the role was cancelled or has failed."""


class ConsumeRole:
    """All consumers, each on a channel of its own; those of one broker share its connections.

    It has started when one consumer at least is subscribed: the others say on the board what they wait for.
    """

    def __init__(self, resources: Resources, consumers: Sequence[Consumer[Any]] = CONSUMERS) -> None:
        self._resources = resources
        self._consumers = consumers

    async def run(self, *, task_status: TaskStatus[None], stop: anyio.Event) -> None:
        """See `roles.role.Role`.

        Raises:
            ConfigurationError: a declaration is wrong, or the broker has queues that contradict one.
            BrokerUnavailable: no consumer could subscribe, for the brokers are away.
        """
        settings = self._resources.settings
        validate(self._consumers, settings)
        brokers = {
            name: Broker(name, self._resources.amqp_urls[name], settings.amqp[name])
            for name in {consumer.broker for consumer in self._consumers}
        }
        quarantine = Quarantine(clock=self._resources.clock, patience=settings.consume.quarantine)
        statuses = [self._status(consumer) for consumer in self._consumers]
        subscriptions = [
            Subscription(consumer, brokers[consumer.broker], status, self._resources, quarantine, stop)
            for consumer, status in zip(self._consumers, statuses, strict=True)
        ]
        failure: Exception | None = None
        try:
            async with quarantine.alive(), anyio.create_task_group() as group:
                for subscription in subscriptions:
                    group.start_soon(subscription.run)
                async with until(stop):
                    for subscription in subscriptions:
                        await subscription.tried.wait()
                    failure = _failure(subscriptions)
                if failure is None:
                    task_status.started()
                    if settings.consume.archive:
                        for consumer, status in zip(self._consumers, statuses, strict=True):
                            broker = brokers[consumer.broker]
                            group.start_soon(Archiver(consumer, broker, status, self._resources, stop).run)
                        group.start_soon(keep_counting, statuses, self._resources.clock, stop)
                else:
                    group.cancel_scope.cancel()
        finally:
            with anyio.move_on_after(GOODBYE, shield=True):
                for broker in brokers.values():
                    await broker.aclose()
            for broker in brokers.values():
                broker.cut()
        if failure is not None:
            raise failure

    def _status(self, consumer: Consumer[Any]) -> ConsumerStatus:
        status = self._resources.board.consumers.setdefault(
            consumer.queue, ConsumerStatus(consumer.queue, consumer.broker)
        )
        if status.subscribed or status.since is None:
            status.subscribed, status.since = False, self._resources.clock.now()
        return status


def _failure(subscriptions: Sequence[Subscription]) -> Exception | None:
    """What the role fails to start with, if it does."""
    failures = [subscription.failure for subscription in subscriptions if subscription.failure is not None]
    wrong = dict.fromkeys(str(failure) for failure in failures if isinstance(failure, ConfigurationError))
    if wrong:
        return ConfigurationError("\n".join(wrong))
    return failures[0] if failures and len(failures) == len(subscriptions) else None
