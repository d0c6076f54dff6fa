"""`@consumer`: a handler and the queue that it takes messages from, declared as data and validated at boot."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from difflib import get_close_matches
from typing import Any, Generic, TypeVar, cast, get_type_hints

from pydantic import BaseModel

from db.pool import Work
from roles.consume.names import parked_queue, wait_queue
from roles.consume.retry import Ladder
from schema.duration import format_duration, parse_duration
from schema.errors import ConfigurationError
from schema.settings import LONGEST_HANDLER_TIMEOUT, Settings
from schema.topic import EXCHANGE_TYPES, MAX_NAME

Message = TypeVar("Message", bound=BaseModel)
Handler = Callable[[Message, Work], Awaitable[None]]

MAX_CONCURRENCY = 65535
MAX_DELAY = timedelta(milliseconds=2**32 - 1)
"""The longest `x-message-ttl` that RabbitMQ takes, 49 days."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Consumer(Generic[Message]):
    """A handler and its queue. Can be called as the handler itself, for tests."""

    handler: Handler[Message]
    queue: str
    exchange: str | None
    exchange_type: str
    routing_key: str | None
    retry: Ladder
    concurrency: int
    broker: str
    timeout: str | timedelta | None

    async def __call__(self, message: Message, work: Work) -> None:
        await self.handler(message, work)

    @property
    def binding_key(self) -> str:
        """The routing key that the queue is bound to its exchange with."""
        return self.queue if self.routing_key is None else self.routing_key

    def model(self) -> type[Message]:
        """The model of its messages: the annotation of the handler's first parameter.

        Raises:
            ValueError: the handler's signature is not `(message: <model>, work: Work)`.
        """
        try:
            hints = get_type_hints(self.handler)
        except Exception as error:
            raise ValueError(f"the handler's annotations cannot be resolved: {error}") from error
        names = list(inspect.signature(self.handler).parameters)
        annotations = [hints.get(name) for name in names]
        if len(names) != 2 or annotations[1] is not Work:  # noqa: PLR2004 - the message and the work
            raise ValueError(f"the handler takes ({', '.join(names)}) and not (message: <model>, work: Work)")
        model = annotations[0]
        if not (inspect.isclass(model) and issubclass(model, BaseModel)):
            raise ValueError(f"the message is annotated with {_name(model)}, which is no pydantic model")
        return cast("type[Message]", model)


def consumer(
    queue: str,
    *,
    exchange: str | None = None,
    exchange_type: str = "topic",
    routing_key: str | None = None,
    retry: Ladder = Ladder("5s", "30s", "5m"),  # noqa: B008 - a value
    concurrency: int = 10,
    broker: str = "example",
    timeout: str | timedelta | None = None,
) -> Callable[[Handler[Message]], Consumer[Message]]:
    """Declares an async function `(message: <model>, work: Work)` as the handler of a queue.

    What the declaration says is checked at boot, by `validate`.

    Params:
        exchange: a durable exchange to bind the queue to; messages that name the queue itself arrive without one.
        exchange_type: `direct`, `topic`, `fanout` or `headers`.
        routing_key: what to bind with; by default the queue's name.
        retry: the delays between attempts.
        concurrency: how many messages are handled at a time, in each process. It is also the prefetch: the
            broker hands out no more than can be worked on, and `1` keeps the queue's order until a retry.
        broker: the name of the connection in the settings, `[amqp.<name>]`.
        timeout: for one attempt, such as `"10s"`; by default `consume.handler_timeout`.
    """

    def declare(handler: Handler[Message]) -> Consumer[Message]:
        return Consumer(
            handler=handler,
            queue=queue,
            exchange=exchange,
            exchange_type=exchange_type,
            routing_key=routing_key,
            retry=retry,
            concurrency=concurrency,
            broker=broker,
            timeout=timeout,
        )

    return declare


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
        yield f"the handler {_name(consumer.handler)} is not an async function"
    try:
        consumer.model()
    except ValueError as error:
        yield str(error)
    if consumer.broker not in settings.amqp:
        yield f"unknown broker {consumer.broker!r}: {_hint(consumer.broker, list(settings.amqp))}"
    if consumer.exchange_type not in EXCHANGE_TYPES:
        yield f"unknown exchange type {consumer.exchange_type!r}: {_hint(consumer.exchange_type, EXCHANGE_TYPES)}"
    concurrency: object = consumer.concurrency
    if not (isinstance(concurrency, int) and 1 <= concurrency <= MAX_CONCURRENCY):
        yield f"concurrency {concurrency!r} is not a number between 1 and {MAX_CONCURRENCY}"
    yield from _bad_timeout(consumer.timeout)
    delays: list[timedelta] = []
    for delay in consumer.retry.delays:
        try:
            delays.append(_delay(delay))
        except ValueError as error:
            yield f"retry delay {error}"
    yield from _bad_names(consumer, delays)
    if (ladder := sum(delays, timedelta())) >= settings.consume.inbox_retention:
        yield (
            f"the delays of its ladder come to {format_duration(ladder)}, and consume.inbox_retention is "
            f"{format_duration(settings.consume.inbox_retention)}: a message could be forgotten before its last retry"
        )


def _bad_timeout(timeout: str | timedelta | None) -> Iterator[str]:
    if timeout is None:
        return
    try:
        value = parse_duration(timeout)
    except ValueError as error:
        yield f"timeout {error}"
        return
    if not timedelta(0) < value < LONGEST_HANDLER_TIMEOUT:
        yield f"timeout {format_duration(value)} is not between 0s and {format_duration(LONGEST_HANDLER_TIMEOUT)}"


def _delay(delay: str | timedelta) -> timedelta:
    value = parse_duration(delay)
    if not timedelta(milliseconds=1) <= value <= MAX_DELAY:
        raise ValueError(f"{delay!r} is not between 1ms and {format_duration(MAX_DELAY)}")
    return value


def _bad_names(consumer: Consumer[Any], delays: Sequence[timedelta]) -> Iterator[str]:
    queue = consumer.queue
    if not queue or queue.startswith("amq."):
        yield f"{queue!r} is no name for a queue (it is empty, or begins with the broker's own 'amq.')"
    names = {
        "queue": max((parked_queue(queue), *(wait_queue(queue, delay) for delay in delays)), key=len),
        "exchange": consumer.exchange or "",
        "routing key": consumer.binding_key,
    }
    for kind, name in names.items():
        if (size := len(name.encode())) > MAX_NAME:
            yield f"{kind} {name[:40] + '…'!r} has {size} bytes, and AMQP allows {MAX_NAME}"


def _conflicts(consumers: Sequence[Consumer[Any]]) -> Iterator[str]:
    for queue, count in Counter(each.queue for each in consumers).items():
        if count > 1:
            yield f"consumer {queue}: declared {count} times; one queue has one consumer"
    for each in consumers:
        for other in consumers:
            if other.queue == parked_queue(each.queue) or other.queue.startswith(f"{each.queue}.retry."):
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


def _hint(value: str, known: Sequence[str]) -> str:
    nearest = get_close_matches(value, known, n=1)
    return f"did you mean {nearest[0]!r}?" if nearest else f"known are {', '.join(known)}"


def _name(value: object) -> str:
    if value is None:
        return "nothing"
    return value.__qualname__ if inspect.isclass(value) or inspect.isfunction(value) else repr(value)
