"""What a long job (`transaction=False`) is given: the means to work in transactions of its own, and to tell of it.

```
@cron("0 3 * * *", transaction=False, rerun=True, timeout="2h")
async def reindex(run: Run) -> None:
    for page in count():
        async with run.unit_of_work() as work:
            if not await documents.reindex(work.connection, page=page):
                return
        run.report(f"page {page}")
```
The claim of such a run is committed before the job is called, with a lease that is renewed while the job goes on. If
the lease expires, for the process died or could not reach the database, the run is taken over, and its fence moves:
from then on nothing of the old run can be committed, neither its units of work nor its outcome.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Final, NoReturn

import anyio

from db import cron_leases
from db.pool import Work, unit_of_work
from schema.steps import Step, reached
from schema.text import storable

if TYPE_CHECKING:
    from roles.schedule.declarations import Job

LONGEST_PROGRESS: Final = 1_000
"""Characters of a report that are kept: the book is written to with each renewal of the lease."""


class LeaseLost(Exception):
    """The run has been taken over, or given up for dead: what it does now is not committed."""


class HandedOver(Exception):
    """The job asked to be run again elsewhere."""


@dataclass(slots=True, eq=False)
class Run:
    """One run of a long job."""

    id: int
    """Of its row in the book."""
    job: str
    scheduled_at: datetime
    """When the tick was due."""
    attempt: int
    """1 at first; counts retries and runs that were taken over."""
    declared: tuple[Job, ...] = field(repr=False)
    """All jobs of this process."""
    fence: int
    turns: anyio.CapacityLimiter = field(repr=False)
    """Its units of work count against `schedule.concurrency`, like the ticks of other jobs."""
    tell: Callable[[str], None] = field(repr=False)
    progress: str | None = None
    stopping: bool = False
    """Whether the process is draining: what still goes on at the deadline is cut off."""
    lost: str | None = None
    """Why the lease is no longer held."""
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope, repr=False)

    @asynccontextmanager
    async def unit_of_work(self) -> AsyncIterator[Work]:
        """One transaction of the run's: committed when the block ends, rolled back when it raises.

        Raises:
            LeaseLost: the run has been taken over meanwhile; nothing was committed.
            DatabaseUnavailable: see `db.pool.unit_of_work`.
        """
        turn = object()
        await self.turns.acquire_on_behalf_of(turn)
        try:
            async with unit_of_work() as work:
                yield work
                if not await cron_leases.hold(work.connection, self.id, self.fence):
                    raise LeaseLost(f"run {self.id} of {self.job} has been taken over: its work was rolled back")
            reached(Step.SCHEDULE_LONG_COMMITTED)
        finally:
            self.turns.release_on_behalf_of(turn)

    def report(self, progress: object) -> None:
        """Tells how far it is, as a number or a few words: in `/status` at once, in the book at the next renewal."""
        self.progress = told = storable(str(progress)[:LONGEST_PROGRESS])
        self.tell(told)

    def hand_over(self) -> NoReturn:
        """Ends this run here, so that another replica takes it over: for a job that sees that it is `stopping`.

        What becomes of it is what becomes of a run whose process died: `rerun` decides.
        """
        raise HandedOver(f"{self.job} handed its run over")
