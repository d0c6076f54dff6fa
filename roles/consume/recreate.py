"""Makes a queue anew whose arguments have changed, and keeps its messages.

A queue's arguments cannot be changed, so it has to be deleted and declared again. Meanwhile another queue,
`q.moving`, stands in for it:

| step | a message that comes through an exchange goes to |
|---|---|
| 1. `q.moving` is declared, and bound as `q` is | both |
| 2. `q` is unbound | `q.moving` |
| 3. what is in `q`, and what waits for another attempt, is moved to `q.moving` | `q.moving` |
| 4. `q` is deleted, declared anew and bound | both |
| 5. `q.moving` is unbound | `q` |
| 6. what is in `q.moving` is moved to `q`, and `q.moving` is deleted | `q` |

A message is moved by publishing it, waiting for the confirm, and acking the original. So whatever dies and
whenever, each message is in one of the two queues, or in both; and the inbox drops the second of those that have an
id. Nothing is written down: `run` sees from the queues themselves how far an earlier one came, and goes on.

Two things are not kept: the order, and the rest of the delay of those that waited.

A producer that names the queue itself cannot be led elsewhere. Between step 3's last look and the deletion there is
an instant in which the broker may confirm its message and delete it: stop such producers. What the broker hands
to us until then is in our hands, and is moved.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

import anyio

from roles.amqp import Broker, TopologyMismatch
from roles.consume.mover import Mover, QueueInUse, first
from roles.consume.names import moving_queue, parked_queue
from roles.consume.survey import Found
from roles.consume.topology import UNLIMITED, Binding, Queue, Topology

SETTLE = 1.0
"""Seconds after an unbinding in which the broker may still bring what it had routed before."""

_IN_FLIGHT = 50
"""Messages that are published at a time."""
_POLL = 0.05


def waiting_queues(queue: str, found: Found) -> list[str]:
    """The wait queues of `queue` that exist, also those of earlier ladders."""
    return [name for name in found.queues if name.startswith(f"{queue}.retry.")]


def recreation_of(queue: str, broker: Broker, declared: Topology, found: Found) -> Recreation:
    """A recreation of a declared queue, with all bindings that it has or should have."""
    main = next(
        (name for name in declared.queues if queue == parked_queue(name) or queue.startswith(f"{name}.retry.")), queue
    )
    seen = {replace(each, queue=queue) for each in found.bindings or () if each.queue in (queue, moving_queue(queue))}
    return Recreation(
        broker,
        declared.queues[queue],
        also=waiting_queues(queue, found),
        family=[main, parked_queue(main)],
        bindings=seen | {each for each in declared.bindings if each.queue == queue},
    )


class Recreation:
    """Makes `queue` anew.

    Params:
        also: queues whose messages go the same way, because the broker moves them to `queue` by its name.
        family: queues whose consumers publish to `queue`: there must be none.
        bindings: all that `queue` is to have in the end, those included that others have made.
    """

    def __init__(
        self,
        broker: Broker,
        queue: Queue,
        *,
        also: Collection[str] = (),
        family: Collection[str] = (),
        bindings: Collection[Binding] = (),
    ) -> None:
        self._broker = broker
        self._queue = queue
        self._also = also
        self._family = family
        self._bindings = sorted(bindings)
        self.told: Callable[[str], None] = lambda _: None
        """Called with what has been done, for people."""
        self.settle = SETTLE
        self._moving = moving_queue(queue.name)

    async def run(self) -> int:
        """Returns how many messages were moved back into the queue.

        Raises:
            QueueInUse: see there. Nothing is lost; run it again when they have stopped.
            BrokerUnavailable: the broker went away. As above.
            MessageRefused: the broker will not take back a message that it had. As above, once it is gone.
        """
        if not await self._is_new():
            await self._refuse_if_in_use()
            await self._stand_in()
            moved = await self._move([*self._also, self._queue.name], to=self._moving, delete=self._queue.name)
            self.told(f"{moved} messages are in {self._moving}, {self._queue.name} is deleted")
            if not await self._is_new():
                raise QueueInUse(f"queue {self._queue.name} was declared by somebody else, with the old arguments")
        await self._take_over()
        moved = await self._move([self._moving], to=self._queue.name, delete=self._moving)
        self.told(f"{moved} messages are back in {self._queue.name}, {self._moving} is deleted")
        return moved

    async def _is_new(self) -> bool:
        """Whether the queue is as declared. If there is none, it is from now on."""
        channel = await self._broker.channel("publish")
        try:
            await channel.declare_queue(self._queue.name, self._queue.arguments)
        except TopologyMismatch as error:
            if error.mismatch is None:
                raise
            return False
        finally:
            await channel.aclose()
        return True

    async def _refuse_if_in_use(self) -> None:
        channel = await self._broker.channel("publish")
        for name in {*self._family, self._queue.name}:
            count = await channel.count(name)
            if count is None:
                channel = await self._broker.channel("publish")
            elif count.consumers:
                raise QueueInUse(
                    f"queue {name} has {count.consumers} consumers, which would declare {self._queue.name} as it was "
                    "before: stop the application, all replicas of it, then do this again"
                )
        await channel.aclose()

    async def _stand_in(self) -> None:
        await self._declare_stand_in()
        channel = await self._broker.channel("publish")
        for binding in self._bindings:
            await channel.bind(self._moving, exchange=binding.exchange, routing_key=binding.routing_key)
        for binding in self._bindings:
            await channel.unbind(self._queue.name, exchange=binding.exchange, routing_key=binding.routing_key)
        await channel.aclose()
        self.told(f"{self._moving} stands in for {self._queue.name}")

    async def _declare_stand_in(self) -> None:
        """With the queue's own dead letters, for messages with an expiration; without its limits."""
        channel = await self._broker.channel("publish")
        if await channel.count(self._moving) is None:
            onward = {
                name: value
                for name, value in self._queue.arguments.items()
                if name.startswith("x-dead-letter-") or name in ("x-queue-type", "x-overflow")
            }
            channel = await self._broker.channel("publish")
            await channel.declare_queue(self._moving, {**onward, "x-delivery-limit": UNLIMITED})
        await channel.aclose()

    async def _take_over(self) -> None:
        await self._declare_stand_in()
        channel = await self._broker.channel("publish")
        for binding in self._bindings:
            await channel.bind(self._queue.name, exchange=binding.exchange, routing_key=binding.routing_key)
        for binding in self._bindings:
            await channel.unbind(self._moving, exchange=binding.exchange, routing_key=binding.routing_key)
        await channel.aclose()

    async def _move(self, sources: Sequence[str], *, to: str, delete: str) -> int:
        """Moves all messages, deletes the queue `delete`, and moves what came while it was."""
        async with Mover(self._broker, to) as mover:
            for source in sources:
                await mover.subscribe(source)
            try:
                async with anyio.create_task_group() as group:
                    for _ in range(_IN_FLIGHT):
                        group.start_soon(mover.work)
                    await anyio.sleep(self.settle)
                    while not await mover.is_idle():  # noqa: ASYNC110 - only the broker knows
                        await anyio.sleep(_POLL)
                    await mover.delete(delete)
                    mover.finish()
            except ExceptionGroup as errors:
                raise first(errors) from errors
            return mover.moved
