"""Catching up: reads the book, has the policy decide, and enters what is missed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime

import structlog

from db import cron_gaps
from db.pool import connection, unit_of_work
from roles.clock import Clock
from roles.schedule.policy import Decision, Timetable, decide
from roles.schedule.tick import HOST, Tick

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Behind:
    """A job that is behind."""

    table: Timetable
    late: datetime | None
    """The first tick that is known to have been too late; None at the start."""
    in_hand: Collection[datetime]
    """Ticks that are being dealt with."""


async def catch_up(jobs: Mapping[int, Behind], clock: Clock) -> list[tuple[int, Tick]]:
    """The open ticks of these jobs that are to be dealt with here, in order; the others are in the book as missed.

    Params:
        jobs: by a number that comes back with the ticks.

    Raises:
        DatabaseUnavailable: the book cannot be read, or not be written.
    """
    now = clock.now()
    floors = {job.table.job.name: job.table.floor(now, job.late) for job in jobs.values()}
    async with connection() as conn:
        book = await cron_gaps.since(conn, floors)
    found: list[tuple[int, Tick]] = []
    for index, job in jobs.items():
        table, name = job.table, job.table.job.name
        decision = decide(table, book.get(name, ()), now, floor=floors[name], in_hand=job.in_hand)
        found += [(index, Tick(table, tick, waits=True, chosen=True)) for tick in decision.run]
        # Somebody is at those that could not be entered as missed, or has been: they are looked at again.
        found += [
            (index, Tick(table, tick, waits=True, seen_running=clock.monotonic()))
            for tick in await _miss(table, decision, clock)
        ]
    return sorted(found, key=lambda each: each[1].scheduled_at)


async def _miss(table: Timetable, decision: Decision, clock: Clock) -> list[datetime]:
    """Enters what is missed; returns the ticks that could not be: somebody is at them, or has been."""
    ticks: dict[datetime, datetime | None] = dict.fromkeys(decision.missed)
    if decision.missed_before is not None:
        first, through = decision.missed_before
        ticks[first] = through if through > first else None
    if not ticks:
        return []
    async with unit_of_work() as work:
        entered = await cron_gaps.miss(
            work.connection, table.job.name, ticks, decided_at=clock.now(), error=decision.reason, host=HOST
        )
    if entered:
        log.warning(
            "ticks missed",
            job=table.job.name,
            first=min(entered).isoformat(),
            last=max(ticks[tick] or tick for tick in entered).isoformat(),
            run_instead=decision.run[-1].isoformat() if decision.run else None,
        )
    return [tick for tick in ticks if tick not in entered]
