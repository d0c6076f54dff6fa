"""Which ticks are run: the pure core of what becomes of a job that came too late. It is given the time and the book.

Ticks without a row in the book that are due already are *open*. All open ticks of a job are one gap, and it is
judged as a whole, by how late its first tick is:

- Within the grace, the gap is made up for, whatever the policy: a restart, a handover and a short outage cost no
  tick (of more than `backlog`, the last are run).
- After it, the policy decides: `skip` runs only what is on time (not later than `ON_TIME`), `latest` the last one
  unless a later tick has been dealt with, `all` the last `backlog` in order. The others are missed.

A job without any row is new: it looks back one tick, and no further than its grace.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import blake2b
from typing import Final

from db.cron_gaps import BookedTick
from roles.schedule.declarations import ZERO, Job, Terms
from schema.duration import LONGEST, format_duration

ON_TIME: Final = timedelta(seconds=1)
"""How late a tick may start that is not to be taken for a part of a gap which has just ended."""
ROWS: Final = 100
"""How many ticks of one gap are missed with a row for each; the older ones share one row, which says from when to
when. Nobody wants 600,000 rows for a job of every second and a week in which nothing ran."""
LONGEST_LOOK_BACK: Final = timedelta(hours=1)
MOST_HOLES: Final = 5000
"""How many ticks before a job's last row are compared with the book: an hour of seconds, and some."""


@dataclass(frozen=True, slots=True)
class Timetable:
    """When the ticks of a job are due, and when they start: later than that by the job's jitter."""

    job: Job
    terms: Terms

    def starts_at(self, tick: datetime) -> datetime:
        """When the tick is to start: within the jitter, but not after the next one is due."""
        if self.terms.jitter == ZERO:
            return tick
        digest = blake2b(f"{self.job.name}\x00{tick.timestamp()}".encode(), digest_size=4).digest()
        delay = self.terms.jitter * (int.from_bytes(digest) / 2**32)  # in brackets, or half a day overflows
        return min(tick + delay, self.job.schedule.next_due(tick))

    def upcoming(self, now: datetime) -> datetime:
        """The first tick that starts after `now`."""
        if self.terms.jitter != ZERO:
            latest = self.job.schedule.latest(now - self.terms.jitter, now)
            if latest is not None and self.starts_at(latest) > now:
                return latest
        return self.job.schedule.next_due(now)

    def floor(self, now: datetime, late: datetime | None = None) -> datetime:
        """What came due before has a row in the book, or never will: no run goes on for so long unseen.

        Params:
            late: the first tick that is known to have none.
        """
        floor = now - max(min(self.terms.grace, LONGEST_LOOK_BACK), self._longest_run()) - self.terms.jitter
        return floor if late is None else min(floor, late - timedelta.resolution)

    def _longest_run(self) -> timedelta:
        """How long a run may go on that is not in the book: one transaction, with all its retries."""
        if not self.job.transaction:
            return ZERO
        pauses = (self.terms.pause(attempt) for attempt in range(1, self.job.retries + 1))
        return min(self.terms.timeout * (self.job.retries + 1) + sum(pauses, ZERO), LONGEST)


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of the open ticks of a job."""

    run: tuple[datetime, ...] = ()
    """In order."""
    missed: tuple[datetime, ...] = ()
    """Each with a row of its own."""
    missed_before: tuple[datetime, datetime] | None = None
    """All from the first to the second of these, in one row."""
    reason: str = ""
    """Why they are missed."""


def decide(
    table: Timetable,
    book: Sequence[BookedTick],
    now: datetime,
    *,
    floor: datetime,
    in_hand: Collection[datetime] = (),
) -> Decision:
    """What becomes of the ticks that are open at `now`.

    Params:
        book: the rows of the job since `floor` (see `Timetable.floor`), and the one before; in order.
        in_hand: ticks that are being dealt with, which are nobody else's business.
    """
    schedule, terms, policy = table.job.schedule, table.terms, table.job.missed
    if not book:
        newest = schedule.latest(now - terms.grace - terms.jitter, now)
        startable = newest is not None and newest not in in_hand and _late(table, newest, now) >= ZERO
        return Decision(run=(newest,) if newest and startable and _late(table, newest, now) <= terms.grace else ())
    last = max(row.through or row.scheduled_at for row in book)
    # Between what is run and what shares a row stay `ROWS` ticks with rows of their own, so that a replica whose
    # clock is behind chooses none to be run that shares a row already.
    limit = terms.backlog + ROWS + 1
    tail = schedule.recent(last, now, limit)
    through = tail.pop(0) if len(tail) == limit else None  # it stands for all that came before it
    found = [
        tick
        for tick in (*_holes(table, book, last, floor), *tail)
        if tick not in in_hand and _late(table, tick, now) >= ZERO
    ]
    if not found:
        return Decision()
    if through is None and _late(table, found[0], now) <= terms.grace:
        run = found[-terms.backlog :]
    elif policy == "skip":
        run = [tick for tick in found if _late(table, tick, now) <= ON_TIME]
    elif policy == "latest":
        superseded = last > found[-1] or any(tick > found[-1] for tick in in_hand)
        run = [] if superseded else found[-1:]
    else:
        run = found[-terms.backlog :]
    chosen = set(run)
    missed = [tick for tick in found if tick not in chosen]
    if not missed and through is None:
        return Decision(run=tuple(run))
    first = min(missed[0], schedule.next_due(last)) if missed else schedule.next_due(last)
    if len(missed) > ROWS:
        through = missed[-ROWS - 1]
        missed = missed[-ROWS:]
    return Decision(
        run=tuple(run),
        missed=tuple(missed),
        missed_before=None if through is None else (first, through),
        reason=f"nothing could start it within its grace of {format_duration(terms.grace)} (missed={policy!r})",
    )


def _late(table: Timetable, tick: datetime, now: datetime) -> timedelta:
    return now - table.starts_at(tick)


def _holes(table: Timetable, book: Sequence[BookedTick], last: datetime, floor: datetime) -> Iterator[datetime]:
    """Ticks before the last row that have none: a run that went on when its process died."""
    times = [row.scheduled_at for row in book]
    for tick in table.job.schedule.recent(max(times[0], floor), last, MOST_HOLES):
        index = bisect_left(times, tick)
        booked = index < len(times) and times[index] == tick
        through = book[index - 1].through if index else None
        if not booked and (through is None or tick > through):
            yield tick
