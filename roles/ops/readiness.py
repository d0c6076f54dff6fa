"""Whether this process should get traffic, and if not, why not."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence

import anyio
import psycopg

from roles.board import ConsumerStatus
from roles.clock import Clock
from roles.role import RoleStatus, State
from schema.duration import format_duration
from schema.errors import DependencyUnavailable
from schema.settings import Ops
from schema.status import Check, Readiness

REUSE = 1.0
"""Seconds for which the database's answer holds: any number of probes costs it one question a second."""


class DatabaseProbe:
    """Asks the database whether it answers, and whether it has the schema that we need; one question at a time.

    Params:
        behind: asks the database; what is wrong with its schema, or None (`db.schema_version.behind`).
    """

    def __init__(self, settings: Ops, clock: Clock, *, behind: Callable[[], Awaitable[str | None]]) -> None:
        self._timeout = settings.probe_timeout
        self._clock = clock
        self._behind = behind
        self._turn = anyio.Lock()
        self._answer: tuple[Check, ...] = ()
        self._answered_at = 0.0

    async def checks(self) -> tuple[Check, ...]:
        """The checks `database` and `schema`, at most `REUSE` seconds old.

        Waits for up to `ops.probe_timeout`, or twice as long if somebody else has just asked in vain.
        """
        async with self._turn:
            if not self._answer or self._clock.monotonic() - self._answered_at >= REUSE:
                self._answer = await self._ask()
                self._answered_at = self._clock.monotonic()
            return self._answer

    async def _ask(self) -> tuple[Check, ...]:
        try:
            with anyio.fail_after(self._timeout.total_seconds()):
                problem = await self._behind()
        except TimeoutError:
            limit = format_duration(self._timeout)
            return (Check(name="database", ok=False, reason=f"no answer within ops.probe_timeout = {limit}"),)
        except (DependencyUnavailable, psycopg.Error) as error:
            return (Check(name="database", ok=False, reason=str(error)),)
        return Check(name="database", ok=True), Check(name="schema", ok=problem is None, reason=problem)


async def readiness(
    roles: Sequence[RoleStatus], consumers: Iterable[ConsumerStatus], database: DatabaseProbe, *, draining: bool
) -> Readiness:
    """Not draining, every role runs, each consumer is subscribed, the database answers and is at head."""
    checks = [
        Check(name="draining", ok=not draining, reason="the process is shutting down" if draining else None),
        *_roles(roles),
        *_consumers(consumers),
        *await database.checks(),
    ]
    return Readiness(ready=all(check.ok for check in checks), checks=checks)


def _roles(roles: Iterable[RoleStatus]) -> Iterator[Check]:
    for role in roles:
        runs = role.state is State.RUNNING
        reason = None if runs else f"{role.state}: {role.last_error}" if role.last_error else str(role.state)
        yield Check(name=f"role:{role.name}", ok=runs, reason=reason)


def _consumers(consumers: Iterable[ConsumerStatus]) -> Iterator[Check]:
    for consumer in consumers:
        reason = None if consumer.subscribed else consumer.reason or f"not subscribed on broker {consumer.broker}"
        yield Check(name=f"consumer:{consumer.queue}", ok=consumer.subscribed, reason=reason)
