"""`Delivery`: what a handler with `transaction=False` gets beside its message.

```
@consumer("orders.paid", transaction=False)
async def ship(message: Order, delivery: Delivery) -> None:
    label = await carrier.label(message)           # no connection is held while the carrier thinks
    async with delivery.unit_of_work() as work:    # the message is claimed here, and committed with what follows
        await shipments.create(work.connection, label)
```
What the handler does outside its unit of work happens at least once: a crash or a failure repeats it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from enum import Enum, auto
from typing import Any

from db.pool import DatabaseUnavailable, Work, transaction
from roles.amqp import Properties
from roles.amqp.values import readable_headers
from roles.consume.claim import Claim, ClaimHeld
from roles.consume.retry import attempt_of
from schema.steps import Step, reached


class AlreadyHandled(Exception):
    """The message had taken effect before; so there is nothing to do, and it will be acked.

    Raised where the unit of work would begin. Let it pass, or catch it to undo what was done outside: the outcome is
    the same.
    """


class _State(Enum):
    NEW = auto()
    CLAIMING = auto()
    OPEN = auto()
    COMMITTED = auto()
    DUPLICATE = auto()


class Delivery:
    """One delivery of a message.

    Params:
        queue: what message ids are unique in.
    """

    def __init__(self, queue: str, properties: Properties) -> None:
        self.attempt = attempt_of(properties)
        """From 1."""
        self.unsettled: Exception | None = None
        """What kept the last unit of work from coming to a known end, if anything did: the world, or a claim that is
        held. It is not the handler's to decide on: caught or not, the message is tried again in place.
        """
        self._queue = queue
        self._properties = properties
        self._state = _State.NEW

    @property
    def message_id(self) -> str | None:
        """As the producer has set it; None means that every delivery of the message looks like the first."""
        return self._properties.text("message_id") or None

    @property
    def headers(self) -> Mapping[str, Any]:
        """In Python's types, for looking at.

        Raises:
            MalformedProperties: they are no table.
        """
        return readable_headers(self._properties)

    @property
    def committed(self) -> bool:
        """Whether the message has taken effect by this delivery."""
        return self._state is _State.COMMITTED

    @property
    def duplicate(self) -> bool:
        """Whether it was found that the message had taken effect before."""
        return self._state is _State.DUPLICATE

    @asynccontextmanager
    async def unit_of_work(self) -> AsyncIterator[Work]:
        """The one transaction of this delivery. If its block raises, claim and effects are rolled back, and it may be
        opened again.

        Raises:
            AlreadyHandled: the message had taken effect before.
            ClaimHeld: another delivery of it is being handled; let it pass.
            RuntimeError: it is open, or was committed. What comes after the claim was committed could not be repeated
                if it failed, so there is no second one.
            Exception: as `db.pool.unit_of_work`.
        """
        if self._state in (_State.OPEN, _State.CLAIMING):
            raise RuntimeError("the delivery's unit of work is open already: pass `work` on to whoever needs it")
        if self._state is _State.COMMITTED:
            raise RuntimeError("the delivery's unit of work was committed: a message has one, with all its effects")
        self._state, self.unsettled = _State.CLAIMING, None
        try:
            claim = Claim(self._queue, self._properties.fields.get("message_id"))
            async with transaction(claim.begin) as work:
                if claim.duplicate:
                    self._state = _State.DUPLICATE
                    raise AlreadyHandled
                self._state, self.unsettled = _State.OPEN, None
                reached(Step.CONSUME_CLAIMED)
                yield work
                reached(Step.CONSUME_HANDLED)
            self._state = _State.COMMITTED
            reached(Step.CONSUME_COMMITTED)
        except (DatabaseUnavailable, ClaimHeld) as error:
            self.unsettled = error
            raise
        except asyncio.CancelledError:
            if self._state is _State.CLAIMING:
                self.unsettled = ClaimHeld("the handler was cut off while it waited for its claim")
            raise
        finally:
            if self._state in (_State.OPEN, _State.CLAIMING):
                self._state = _State.NEW
