"""`@consumer`: a handler and the queue that it takes messages from, declared as data."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Generic, Protocol, TypeVar, cast, get_args, get_origin, get_type_hints, overload

from pydantic import BaseModel

from db.pool import Work
from roles.consume.breaker import Breaker
from roles.consume.delivery import Delivery
from roles.consume.retry import Ladder

Message = TypeVar("Message", bound=BaseModel)
Handler = Callable[..., Awaitable[None]]

LANES_PER_WORKER = 10
"""Messages in hand for each worker of a consumer with a key: so many may have the same key and no worker be idle."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Consumer(Generic[Message]):
    """A handler and its queue. Can be called as the handler itself, for tests."""

    handler: Handler
    queue: str
    exchange: str | None
    exchange_type: str
    routing_key: str | None
    retry: Ladder
    concurrency: int
    broker: str
    timeout: str | timedelta | None
    transaction: bool
    batch: int | None
    linger: str | timedelta
    key: Callable[[Message], Hashable] | None
    single_active: bool
    breaker: Breaker | None

    async def __call__(self, message: Message | list[Message], second: Work | Delivery) -> None:
        await self.handler(message, second)

    @property
    def binding_key(self) -> str:
        """The routing key that the queue is bound to its exchange with."""
        return self.queue if self.routing_key is None else self.routing_key

    @property
    def prefetch(self) -> int:
        """How many messages the broker leaves in our hands: enough for all workers, and for what fills up meanwhile
        the next batch, or has another key than those that wait.
        """
        if self.batch is not None:
            return self.batch * (self.concurrency + 1)
        return self.concurrency if self.key is None else self.concurrency * LANES_PER_WORKER

    def alone(self, message: Message) -> Message | list[Message]:
        """What the handler is given when it is to handle this one message."""
        return message if self.batch is None else [message]

    def model(self) -> type[Message]:
        """The model of its messages, as the handler's first parameter is annotated.

        Raises:
            ValueError: the handler's signature is not the one that goes with the options.
        """
        try:
            hints = get_type_hints(self.handler)
        except Exception as error:
            raise ValueError(f"the handler's annotations cannot be resolved: {error}") from error
        names = list(inspect.signature(self.handler).parameters)
        annotations = [hints.get(name) for name in names]
        second = Work if self.transaction else Delivery
        if len(names) != 2 or annotations[1] is not second:  # noqa: PLR2004 - the message, and the work or the delivery
            raise ValueError(f"the handler takes ({_parameters(names, annotations)}) and not {self._signature()}")
        model = annotations[0]
        if self.batch is not None:
            if get_origin(model) is not list:
                raise ValueError(f"the messages are annotated with {name_of(model)}: a batch is a list[<model>]")
            (model,) = get_args(model)
        if not (inspect.isclass(model) and issubclass(model, BaseModel)):
            raise ValueError(f"the message is annotated with {name_of(model)}, which is no pydantic model")
        return cast("type[Message]", model)

    def _signature(self) -> str:
        if not self.transaction:
            return "(message: <model>, delivery: Delivery), as it must with transaction=False"
        if self.batch is not None:
            return "(messages: list[<model>], work: Work), as it must with batch"
        return "(message: <model>, work: Work)"


class Declare(Protocol):
    """What `consumer` returns: the decorator."""

    @overload
    def __call__(self, handler: Callable[[Message, Work], Awaitable[None]], /) -> Consumer[Message]: ...
    @overload
    def __call__(self, handler: Callable[[Message, Delivery], Awaitable[None]], /) -> Consumer[Message]: ...
    @overload
    def __call__(self, handler: Callable[[list[Message], Work], Awaitable[None]], /) -> Consumer[Message]: ...


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
    transaction: bool = True,
    batch: int | None = None,
    linger: str | timedelta = "20ms",
    key: Callable[[Any], Hashable] | None = None,
    single_active: bool = False,
    breaker: Breaker | None = Breaker(),  # noqa: B008 - a value
) -> Declare:
    """Declares an async function as the handler of a queue.

    Its signature is `(message: <model>, work: Work)`; with `transaction=False` it is `(message: <model>, delivery:
    Delivery)`, with `batch` it is `(messages: list[<model>], work: Work)`. What the declaration says is checked at
    boot, by `roles.consume.validation`.

    Params:
        exchange: a durable exchange to bind the queue to; messages that name the queue itself arrive without one.
        exchange_type: `direct`, `topic`, `fanout` or `headers`.
        routing_key: what to bind with; by default the queue's name.
        retry: the delays between attempts.
        concurrency: how many messages, or batches, are handled at a time, in each process. `1` keeps the queue's
            order until a retry.
        broker: the name of the connection in the settings, `[amqp.<name>]`.
        timeout: for one attempt, such as `"10s"`; by default `consume.handler_timeout`.
        transaction: False for a handler that waits for somebody outside: it opens its unit of work itself, once it
            has its answer, and holds no connection before (`roles.consume.delivery`).
        batch: how many messages at the most are handled in one transaction (`roles.consume.batch`).
        linger: how long a batch that is not full waits for more.
        key: of all messages with the same key, such as `lambda message: message.student_id`, one at a time is
            handled, in the queue's order until a retry, at any concurrency; within one process
            (`roles.consume.intake`).
        single_active: of all processes, the broker hands messages to one, until that is gone. With `concurrency=1`
            or a `key` this extends the order to all of them.
        breaker: when to pause because most messages fail (`roles.consume.breaker`); None for never.
    """

    def declare(handler: Handler, /) -> Consumer[Any]:
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
            transaction=transaction,
            batch=batch,
            linger=linger,
            key=key,
            single_active=single_active,
            breaker=breaker,
        )

    return declare


def _parameters(names: Sequence[str], annotations: Sequence[object]) -> str:
    return ", ".join(f"{name}: {name_of(of)}" if of else name for name, of in zip(names, annotations, strict=True))


def name_of(value: object) -> str:
    """What a person calls an annotation or a function."""
    if value is None:
        return "nothing"
    return value.__qualname__ if inspect.isclass(value) or inspect.isfunction(value) else repr(value)
