"""What the broker has delivered and no handler works on yet, and who of it comes next.

By default that is whoever came first. A consumer with a key has lanes: messages with the same key stand in one lane,
in the order in which they came, and the first of a lane has to be done with before the next one is handed out. A
lane that waits does not keep other lanes waiting, as long as the prefetch lets messages of other keys in. A lane is
not one connection's: what is delivered again after a reconnect stands behind what is still being handled.

A message that has to be tried again leaves its lane for its wait queue, and those behind it go on.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Hashable
from contextlib import suppress
from datetime import timedelta
from types import TracebackType
from typing import Self

import anyio

from roles.amqp import Delivery

LaneOf = Callable[[Delivery], Hashable]
"""Which lane a delivery belongs to; None if it needs none."""


class Intake:
    """A queue of deliveries, for as many workers as like. Its size is bounded by the prefetch.

    It is a context manager, in which alone it can be used.
    """

    def __init__(self, lane_of: LaneOf | None = None) -> None:
        self._lane_of = lane_of
        self._lanes: dict[Hashable, deque[Delivery]] = {}
        """Those out of which a message was handed out, or is about to be, each with what waits in it."""
        self._send, self._receive = anyio.create_memory_object_stream[tuple[Delivery, Hashable]](math.inf)
        self._collecting = anyio.Lock()
        self._collected: list[Delivery] = []
        """The batch that is being collected."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._send.close()
        self._receive.close()

    def put(self, delivery: Delivery) -> None:
        """Takes a delivery in. It does not wait, and nothing is raised."""
        lane = self._lane_of(delivery) if self._lane_of is not None else None
        if lane is None:
            self._send.send_nowait((delivery, None))
        elif lane in self._lanes:
            self._lanes[lane].append(delivery)
        else:
            self._lanes[lane] = deque()
            self._send.send_nowait((delivery, lane))

    async def get(self) -> tuple[Delivery, Hashable]:
        """The next one, and its lane, which stands still until `done` is called with it.

        Raises:
            anyio.EndOfStream: there is none, and there will be none.
        """
        return await self._receive.receive()

    def done(self, lane: Hashable) -> None:
        """Lets the next message of the lane be handed out."""
        if lane is None:
            return
        if waiting := self._lanes[lane]:
            self._send.send_nowait((waiting.popleft(), lane))
        else:
            del self._lanes[lane]

    async def get_batch(self, size: int, linger: timedelta) -> list[Delivery]:
        """At least one and at most `size`: what is there, and what comes until `linger` has passed after the first.

        One caller at a time collects; two would share out between them what makes one batch.

        Raises:
            anyio.EndOfStream: there is none, and there will be none.
        """
        async with self._collecting:
            while not self._collected:  # what was collected can be taken back meanwhile
                self._collected.append((await self._receive.receive())[0])
                with suppress(anyio.EndOfStream), anyio.move_on_after(linger.total_seconds()):
                    while len(self._collected) < size:
                        self._collected.append(await self._next())
            batch, self._collected = self._collected, []
            return batch

    async def _next(self) -> Delivery:
        try:
            return self._receive.receive_nowait()[0]
        except anyio.WouldBlock:
            return (await self._receive.receive())[0]

    def take_back(self) -> int:
        """Forgets all that was not handed out, and returns how many there were."""
        forgotten = len(self._collected)
        self._collected.clear()
        for waiting in self._lanes.values():
            forgotten += len(waiting)
            waiting.clear()
        while True:
            try:
                _, lane = self._receive.receive_nowait()
            except (anyio.WouldBlock, anyio.EndOfStream):
                return forgotten
            forgotten += 1
            self._lanes.pop(lane, None)

    def close(self) -> None:
        """Has `get` and `get_batch` end once nothing is left."""
        self._send.close()
