"""What is wrong with declared consumers, found at boot and by `check`."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

from roles.consume.breaker import Breaker
from roles.consume.declarations import Consumer, name_of
from roles.consume.names import moving_queue, parked_queue, wait_queue
from roles.consume.retry import Ladder
from schema.duration import format_duration, parse_duration
from schema.errors import ConfigurationError
from schema.routing import routing_findings
from schema.settings import LONGEST_HANDLER_TIMEOUT, Settings

MAX_PREFETCH = 65535
"""Messages that AMQP lets a broker leave in a consumer's hands."""
LONGEST_LINGER = timedelta(minutes=1)
MAX_DELAY = timedelta(milliseconds=2**32 - 1)
"""The longest `x-message-ttl` that RabbitMQ takes, 49 days."""


def validate(consumers: Sequence[Consumer[Any]], settings: Settings) -> None:
    """Checks all declarations.

    Raises:
        ConfigurationError: one line per finding, with the consumer and the offending value.
    """
    findings = [f"consumer {each.queue}: {finding}" for each in consumers for finding in _findings(each, settings)]
    findings += _conflicts(consumers)
    if findings:
        raise ConfigurationError("\n".join(findings))


def _findings(consumer: Consumer[Any], settings: Settings) -> Iterator[str]:
    if not inspect.iscoroutinefunction(consumer.handler):
        yield f"the handler {name_of(consumer.handler)} is not an async function"
    try:
        consumer.model()
    except ValueError as error:
        yield str(error)
    concurrency: object = consumer.concurrency
    if not (isinstance(concurrency, int) and 1 <= concurrency <= MAX_PREFETCH):
        yield f"concurrency {concurrency!r} is not a number between 1 and {MAX_PREFETCH}"
    else:
        yield from _bad_batch(consumer)
    yield from _bad_timeout(consumer.timeout, settings)
    yield from _bad_breaker(consumer.breaker)
    yield from _bad_key(consumer.key)
    delays: list[timedelta] = []
    retry: object = consumer.retry
    if not isinstance(retry, Ladder):
        yield f"retry {retry!r} is no ladder (try Ladder('5s', '30s'))"
    for delay in retry.delays if isinstance(retry, Ladder) else ():
        try:
            delays.append(_delay(delay))
        except ValueError as error:
            yield f"retry delay {error}"
    yield from _bad_routing(consumer, delays, settings)
    if (ladder := sum(delays, timedelta())) >= settings.consume.inbox_retention:
        yield (
            f"the delays of its ladder come to {format_duration(ladder)}, and consume.inbox_retention is "
            f"{format_duration(settings.consume.inbox_retention)}: a message could be forgotten before its last retry"
        )


def _bad_batch(consumer: Consumer[Any]) -> Iterator[str]:
    batch: object = consumer.batch
    if batch is not None:
        if not (isinstance(batch, int) and batch >= 1):
            yield f"batch {batch!r} is not a number of messages"
            return
        if not consumer.transaction:
            yield "batch and transaction=False do not go together: a batch is one transaction"
        if consumer.key is not None:
            yield "batch and key do not go together: with concurrency=1, batches are in the queue's order"
        try:
            if not timedelta(0) <= (linger := parse_duration(consumer.linger)) <= LONGEST_LINGER:
                yield f"linger {format_duration(linger)} is not between 0s and {format_duration(LONGEST_LINGER)}"
        except ValueError as error:
            yield f"linger {error}"
    if consumer.prefetch > MAX_PREFETCH:
        yield f"its concurrency needs {consumer.prefetch} messages in hand, and AMQP allows {MAX_PREFETCH}"


def _bad_breaker(breaker: object) -> Iterator[str]:
    if isinstance(breaker, Breaker):
        yield from breaker.findings()
    elif breaker is not None:
        yield f"breaker {breaker!r} is no Breaker(…), nor None"


def _bad_key(key: object) -> Iterator[str]:
    if key is not None and not callable(key):
        yield f"key {key!r} is no function of the message (try lambda message: message.student_id)"
    elif inspect.iscoroutinefunction(key):
        yield f"key {name_of(key)} is an async function: a message's key is known at once, or it keeps no order"


def _bad_timeout(timeout: str | timedelta | None, settings: Settings) -> Iterator[str]:
    if timeout is None:
        return
    try:
        value = parse_duration(timeout)
    except ValueError as error:
        yield f"timeout {error}"
        return
    if not timedelta(0) < value < LONGEST_HANDLER_TIMEOUT:
        yield f"timeout {format_duration(value)} is not between 0s and {format_duration(LONGEST_HANDLER_TIMEOUT)}"
    elif value + settings.consume.give_back_after >= LONGEST_HANDLER_TIMEOUT:
        yield (
            f"timeout {format_duration(value)} and consume.give_back_after = "
            f"{format_duration(settings.consume.give_back_after)} together are not shorter than "
            f"{format_duration(LONGEST_HANDLER_TIMEOUT)}, after which RabbitMQ closes the channel"
        )


def _delay(delay: str | timedelta) -> timedelta:
    value = parse_duration(delay)
    if not timedelta(milliseconds=1) <= value <= MAX_DELAY:
        raise ValueError(f"{delay!r} is not between 1ms and {format_duration(MAX_DELAY)}")
    return value


def _bad_routing(consumer: Consumer[Any], delays: Sequence[timedelta], settings: Settings) -> Iterator[str]:
    queue = consumer.queue
    if not queue or queue.startswith("amq."):
        yield f"{queue!r} is no name for a queue (it is empty, or begins with the broker's own 'amq.')"
    yield from routing_findings(
        broker=consumer.broker,
        brokers=settings.amqp,
        exchange_type=consumer.exchange_type,
        names={
            "queue": max((parked_queue(queue), *(wait_queue(queue, delay) for delay in delays)), key=len),
            "exchange": consumer.exchange or "",
            "routing key": consumer.binding_key,
        },
    )


def _conflicts(consumers: Sequence[Consumer[Any]]) -> Iterator[str]:
    for queue, count in Counter(each.queue for each in consumers).items():
        if count > 1:
            yield f"consumer {queue}: declared {count} times; one queue has one consumer"
    for each in consumers:
        for other in consumers:
            taken = {parked_queue(each.queue), moving_queue(each.queue)}
            if other.queue in taken or other.queue.startswith(f"{each.queue}.retry."):
                yield f"consumer {other.queue}: the name is one that consumer {each.queue} has for a queue of its own"
    types: dict[tuple[str, str], str] = {}
    for each in consumers:
        if each.exchange:
            known = types.setdefault((each.broker, each.exchange), each.exchange_type)
            if known != each.exchange_type:
                yield (
                    f"consumer {each.queue}: exchange {each.exchange!r} is of type {each.exchange_type!r} here "
                    f"and {known!r} for another consumer"
                )
