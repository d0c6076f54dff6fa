"""Declaring jobs: the decorators, the frozen `Job` that they return, and the check of all of them at boot.

```
@cron("30 2 * * *", timezone="Europe/Berlin", timeout="5m")
async def nightly(work: Work) -> None: ...
```
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Literal

from db.pool import Work
from roles.schedule.cron import CronSchedule, IntervalSchedule, Schedule
from schema.duration import parse_duration
from schema.errors import ConfigurationError

Handler = Callable[[Work], Awaitable[None]]
Missed = Literal["latest"]
Overlap = Literal["skip"]

MISSED: Final = ("latest",)
"""What becomes of ticks that came due while nothing could run them: the latest is run, those before it are not."""
OVERLAP: Final = ("skip",)
"""What becomes of a tick that comes due while an earlier run still goes on, here or elsewhere: it is skipped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A function and when to run it. As declared: `validate` says what is wrong with it."""

    name: str
    """Its key in the book (`cron_run`): a job that is renamed is a new job."""
    handler: Handler
    schedule: Schedule
    timeout: str | timedelta | None
    missed: str
    overlap: str

    async def __call__(self, work: Work) -> None:
        """Calls the function, as a test does."""
        await self.handler(work)

    def limit(self, default: timedelta) -> timedelta:
        """How long a run may take."""
        return default if self.timeout is None else parse_duration(self.timeout)


def cron(
    expression: str,
    *,
    timezone: str = "UTC",
    timeout: str | timedelta | None = None,
    missed: Missed = "latest",
    overlap: Overlap = "skip",
    name: str | None = None,
) -> Callable[[Handler], Job]:
    """Runs the function, one transaction per tick, at the times of a cron expression.

    Params:
        expression: see `roles.schedule.expression`.
        timezone: of the clock that the expression is read on; see `roles.schedule.cron` for its changes.
        timeout: how long a run may take (`"60s"`); by default `schedule.timeout`. What takes longer is rolled
            back and in the book as failed. One statement has `database.statement_timeout` as well.
        missed: what becomes of ticks that came due while nothing could run them.
        overlap: what becomes of a tick that comes due while an earlier run of the job still goes on.
        name: of the job; by default the function's.
    """
    return _declare(CronSchedule(expression, timezone), timeout, missed, overlap, name)


def every(
    *,
    seconds: int = 0,
    minutes: int = 0,
    hours: int = 0,
    days: int = 0,
    timeout: str | timedelta | None = None,
    missed: Missed = "latest",
    overlap: Overlap = "skip",
    name: str | None = None,
) -> Callable[[Handler], Job]:
    """Runs the function, one transaction per tick, whenever so much time has passed since 1970-01-01 00:00 UTC.

    Params:
        seconds, minutes, hours, days: together they are the interval.
        timeout, missed, overlap, name: as for `cron`.
    """
    interval = timedelta(seconds=seconds, minutes=minutes, hours=hours, days=days)
    return _declare(IntervalSchedule(interval), timeout, missed, overlap, name)


def validate(jobs: Iterable[object]) -> None:
    """Checks the declarations.

    Raises:
        ConfigurationError: a line for everything that can never work.
    """
    jobs = tuple(jobs)
    declared = [job for job in jobs if isinstance(job, Job)]
    findings = [f"job {job.name}: {finding}" for job in declared for finding in _findings(job)]
    findings += [
        f"JOBS: {getattr(other, '__name__', other)} is no job: decorate it with @cron or @every"
        for other in jobs
        if not isinstance(other, Job)
    ]
    for name, times in Counter(job.name for job in declared).items():
        if times > 1:
            findings.append(f"job {name}: declared {times} times: give all but one another name (name='…')")
    if findings:
        raise ConfigurationError("\n".join(findings))


def _declare(
    schedule: Schedule, timeout: str | timedelta | None, missed: str, overlap: str, name: str | None
) -> Callable[[Handler], Job]:
    def declare(handler: Handler) -> Job:
        return Job(
            name=name or str(getattr(handler, "__name__", handler)),
            handler=handler,
            schedule=schedule,
            timeout=timeout,
            missed=missed,
            overlap=overlap,
        )

    return declare


def _findings(job: Job) -> Iterator[str]:
    yield from job.schedule.findings()
    if not inspect.iscoroutinefunction(job.handler):
        yield "not an async function: declare it with `async def`"
    else:
        try:
            inspect.signature(job.handler).bind(None)
        except TypeError:
            yield "must take one parameter: `async def job(work: Work) -> None`"
    try:
        if job.limit(timedelta(seconds=1)) <= timedelta(0):
            yield f"timeout {job.timeout!r} must be longer than zero"
    except ValueError as error:
        yield f"timeout {error}"
    if job.missed not in MISSED:
        yield f"missed={job.missed!r} is not possible (what is: {', '.join(map(repr, MISSED))})"
    if job.overlap not in OVERLAP:
        yield f"overlap={job.overlap!r} is not possible (what is: {', '.join(map(repr, OVERLAP))})"
