"""Which message killed the process, if one did: told for certain, so that only the guilty one is parked.

A handler that takes the process down with it (a segmentation fault, too much memory, `os._exit`) leaves no
exception behind. All that was in hand is delivered again, and the innocent ones look like the guilty one. So:

- What is **delivered for the first time** costs nothing here.
- What was **delivered before** is a suspect. It is handled alone, with no other message at work in this process, and
  behind a mark (`db.suspects`) that is there before its handler runs and gone when it has ended. A mark that a dead
  process left behind is an accusation.
- The accused is **held back**, in hand and unacked, for as long as the dead process had lived, and some. Other
  things kill processes too: if this one also dies although it does not handle the message, the accusation is dropped.
  If it lives, the death counts. Meanwhile all messages are treated as suspects, so that no other one can kill
  unnoticed and be mistaken for one of those other things.
- With its second counted death a message is **parked**. One more may have come before, when it was not alone yet.

A process is dead when it has not renewed its marks for a while. One that is only slow, or cut off, comes back
within the control and the accusation ends. A mark of ours that could not be taken away, as the database was away
just then, is taken away later.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from typing import TypeVar
from uuid import uuid4

import anyio
import psycopg
import structlog

from db import suspects
from db.pool import DatabaseUnavailable, connection
from db.suspects import Key, State
from roles.amqp import Delivery
from roles.clock import Clock
from roles.consume.gate import Gate
from roles.consume.hold import Pause
from roles.consume.retry import Reject

log = structlog.get_logger(__name__)

T = TypeVar("T")

DEATHS = 2
"""Of the process, counted against a message. One more may have happened before there was a mark."""
LONGEST_LIFE = timedelta(minutes=1)
"""Of a dead process, as far as a control goes on for it: a message cannot be held back for days."""
_SIGNS = 4
"""Signs of life within the time after whose silence a process is dead."""
_RELEASE_TIMEOUT = 2.0
"""Seconds for taking a mark away, even if the process is about to end."""
_KEPT = timedelta(days=7)
"""How long a row is kept whose message has never come again."""


class Killer(Reject):
    """The message kills the process."""


class Quarantine:
    """Looks after the suspects of all consumers of this process.

    Params:
        patience: the silence after which a process is dead, and how much longer than the dead one had lived a
            process must live without an accused message.
    """

    def __init__(self, *, clock: Clock, patience: timedelta) -> None:
        self._clock = clock
        self._patience = patience
        self._process = uuid4()
        self._born = clock.monotonic()
        self._gate = Gate()
        self._accused = 0
        self._marked: set[Key] = set()
        self._unreleased: dict[Key, int] = {}

    async def handle(self, queue: str, delivery: Delivery, hold: Pause, attempt: Callable[[], Awaitable[T]]) -> T:
        """Awaits `attempt` when the message's turn has come: beside others, or alone and behind a mark.

        Raises:
            Killer: it has killed the process too often. To be followed by `forget`, once it is parked.
            Exception: what `attempt` or `hold` raises; `DatabaseUnavailable`.
        """
        while not (delivery.redelivered or self._accused):
            if self._gate.enter():
                try:
                    return await attempt()
                finally:
                    self._gate.leave()
            await hold(self._gate.opened)
        return await self._alone(_key(queue, delivery), hold, attempt)

    def enter(self, deliveries: Iterable[Delivery]) -> bool:
        """Lets in messages that are to be handled together, until `leave`; False if it is not their turn."""
        return not (self._accused or any(each.redelivered for each in deliveries)) and self._gate.enter()

    def leave(self) -> None:
        self._gate.leave()

    async def forget(self, queue: str, delivery: Delivery) -> None:
        """A message that had killed the process is parked; what may come from there is a new one."""
        await self._release(_key(queue, delivery), 0)

    async def _alone(self, key: Key, hold: Pause, attempt: Callable[[], Awaitable[T]]) -> T:
        while True:
            await self._enter_alone(hold)
            try:
                await self._let_go(key)
                async with connection() as conn:
                    deaths = await suspects.mark(conn, key, process=self._process, age=self._age())
                if deaths is not None and deaths < DEATHS:
                    return await self._behind_mark(key, deaths, attempt)
            finally:
                self._gate.leave_alone()
            if deaths is not None:
                await self._release(key, deaths)
                raise Killer(
                    f"killed the process {deaths} times while it was handled alone, and not while it was not"
                )
            await self._control(key, hold)

    @asynccontextmanager
    async def alive(self) -> AsyncIterator[None]:
        """Tells the other processes that this one lives, for as long as the block runs and there are marks."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._give_signs)
            yield
            group.cancel_scope.cancel()

    async def _give_signs(self) -> None:
        prune = True
        while True:
            try:
                if prune or self._marked or self._unreleased:
                    await self._keep(prune=prune)
                    prune = False
            except (DatabaseUnavailable, psycopg.Error) as error:
                log.warning("marks not renewed", reason=str(error))
            await self._clock.sleep(self._patience.total_seconds() / _SIGNS)

    async def _keep(self, *, prune: bool) -> None:
        async with connection() as conn:
            if self._marked:
                await suspects.seen(conn, self._process)
            if prune:
                await suspects.prune(conn, age=_KEPT)
        for key in tuple(self._unreleased):
            await self._let_go(key)

    async def _behind_mark(self, key: Key, deaths: int, attempt: Callable[[], Awaitable[T]]) -> T:
        self._marked.add(key)
        try:
            result = await attempt()
        except BaseException:
            await self._release(key, deaths)
            raise
        await self._release(key, 0)
        return result

    async def _control(self, key: Key, hold: Pause) -> None:
        """Returns when it is time to ask for a mark again; until then the message is not handled."""
        self._accused += 1
        try:
            while True:
                async with connection() as conn:
                    await suspects.bury(conn, process=self._process, lease=self._patience)
                    row = await suspects.get(conn, key)
                if row is None or row.state is State.KNOWN:
                    return
                if row.state is State.ACCUSED:
                    await self._live_without(key, hold)
                    return
                await hold(partial(self._clock.sleep, self._patience.total_seconds() / _SIGNS))
        finally:
            self._accused -= 1

    async def _live_without(self, key: Key, hold: Pause) -> None:
        async with connection() as conn:
            lived = await suspects.control(conn, key, process=self._process, age=self._age())
        if lived is None:
            return
        period = min(lived, LONGEST_LIFE) + self._patience
        fields = {"queue": key.queue, "message_id": key.message_id}
        log.warning("message held back: a process died with it", lived=lived.total_seconds(), **fields)
        self._marked.add(key)
        try:
            await hold(partial(self._clock.sleep, period.total_seconds()))
            async with connection() as conn:
                deaths = await suspects.count(conn, key, process=self._process)
        except BaseException:
            await self._release(key, 1)
            raise
        self._marked.discard(key)
        if deaths is not None:
            log.error("message killed the process", deaths=deaths, **fields)

    async def _release(self, key: Key, deaths: int) -> None:
        """Takes a mark away, now or later; nothing is raised."""
        self._marked.discard(key)
        self._unreleased[key] = deaths
        with anyio.move_on_after(_RELEASE_TIMEOUT, shield=True):
            try:
                await self._let_go(key)
            except (DatabaseUnavailable, psycopg.Error) as error:
                log.warning("mark not taken away yet", queue=key.queue, message_id=key.message_id, reason=str(error))

    async def _let_go(self, key: Key) -> None:
        deaths = self._unreleased.get(key)
        if deaths is None:
            return
        async with connection() as conn:
            if deaths:
                await suspects.release(conn, key, process=self._process)
            else:
                await suspects.forget(conn, key, process=self._process)
        self._unreleased.pop(key, None)

    def _age(self) -> timedelta:
        return timedelta(seconds=self._clock.monotonic() - self._born)

    async def _enter_alone(self, hold: Pause) -> None:
        entered = False

        async def enter() -> None:
            nonlocal entered
            await self._gate.enter_alone()
            entered = True

        try:
            await hold(enter)
        except BaseException:
            if entered:  # at the very moment at which the message had to be given back
                self._gate.leave_alone()
            raise


def _key(queue: str, delivery: Delivery) -> Key:
    return suspects.key(queue, delivery.properties.fields.get("message_id"), delivery.body)
