"""Declaring jobs: the decorators, the frozen `Job` that they return, and the check of all of them at boot.

```
@cron("30 2 * * *", timezone="Europe/Berlin", missed="all", retries=3, timeout="5m")
async def nightly(work: Work) -> None: ...
```
"""

from __future__ import annotations

import inspect
import reprlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Literal, TypedDict, Unpack

from db.pool import Work
from roles.schedule.cron import CronSchedule, IntervalSchedule, Schedule
from roles.schedule.run import Run
from schema.duration import LONGEST, format_duration, parse_duration
from schema.errors import ConfigurationError
from schema.settings import Schedule as Defaults

Handler = Callable[[Work], Awaitable[None]] | Callable[[Run], Awaitable[None]]
Missed = Literal["skip", "latest", "all"]
Overlap = Literal["skip", "queue"]

MISSED: Final = ("skip", "latest", "all")
OVERLAP: Final = ("skip", "queue")
ZERO: Final = timedelta(0)
LONGEST_BACKOFF: Final = timedelta(minutes=1)
SHORTEST: Final = timedelta.resolution
LEAST: Final = {
    "timeout": SHORTEST,
    "grace": SHORTEST,
    "backoff": ZERO,
    "jitter": ZERO,
    "retention": timedelta(hours=1),
}
"""How short the durations may be. What a job has missed is told from its rows, so these stay a while."""
HAVE_DEFAULTS: Final = frozenset({"timeout", "grace", "retention"})
"""Durations that are settings unless the job has its own."""
MOST: Final = {"retries": 1_000, "backlog": 100_000}
LONGEST_NAME: Final = 200
"""Characters; an index of PostgreSQL takes 2,700 bytes."""


class Options(TypedDict, total=False):
    """What `cron` and `every` take. Durations are texts such as `"60s"`."""

    name: str
    """Of the job; by default the function's."""
    timeout: str | timedelta
    """How long the function may take; by default `schedule.timeout`, or `schedule.long_timeout` for a long job. What
    takes longer is rolled back, and has failed. One statement has `database.statement_timeout` as well."""
    missed: Missed
    """What becomes of ticks that nothing could start within the grace: none is run (`skip`), the latest is (`latest`,
    the default), or up to `backlog` of them are, in order (`all`). What is not run is in the book as missed."""
    grace: str | timedelta
    """How late a tick may start and be on time all the same; by default `schedule.grace`."""
    backlog: int
    """How many ticks `missed="all"` makes up for, and how many may wait in a queue; by default `schedule.backlog`."""
    overlap: Overlap
    """What becomes of a tick that comes due while an earlier run of the job still goes on, anywhere: it is not run,
    and in the book as skipped (`skip`, the default), or it waits for that run to end (`queue`)."""
    retries: int
    """How often the function is called again when it has failed, within the tick; by default 0."""
    backoff: str | timedelta
    """The pause before the first retry; it doubles, up to a minute. By default `1s`."""
    jitter: str | timedelta
    """Spreads the starts of a job's ticks over so long, never beyond the next tick. By how much a tick is late is a
    matter of its name and time, so that replicas agree; `scheduled_at` stays what the schedule says."""
    transaction: bool
    """False makes it a long job: the function takes a `Run` and opens units of work of its own."""
    rerun: bool
    """Whether a long run whose process died is run again elsewhere; if not (the default), it has failed."""
    retention: str | timedelta
    """How long its rows are kept in the book; by default `schedule.retention`."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What a job runs under, with the defaults filled in."""

    timeout: timedelta
    grace: timedelta
    backlog: int
    backoff: timedelta
    jitter: timedelta
    retention: timedelta

    def pause(self, attempt: int) -> timedelta:
        """How long to wait after the failure of this attempt (1 is the first)."""
        return min(self.backoff * (1 << min(max(attempt - 1, 0), 20)), LONGEST_BACKOFF)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A function and when to run it. As declared (see `Options`): `validate` says what is wrong with it."""

    name: str
    """Its key in the book (`cron_run`): a job that is renamed is a new job."""
    handler: Handler
    schedule: Schedule
    timeout: str | timedelta | None = None
    missed: str = "latest"
    grace: str | timedelta | None = None
    backlog: int | None = None
    overlap: str = "skip"
    retries: int = 0
    backoff: str | timedelta = "1s"
    jitter: str | timedelta = ZERO
    transaction: bool = True
    rerun: bool = False
    retention: str | timedelta | None = None

    async def __call__(self, unit: Work | Run) -> None:
        """Calls the function, as a test does."""
        handler: Callable[[Any], Awaitable[None]] = self.handler
        await handler(unit)

    def terms(self, defaults: Defaults) -> Terms:
        """What it runs under."""

        def chosen(own: str | timedelta | None, default: timedelta) -> timedelta:
            return default if own is None else parse_duration(own)

        return Terms(
            timeout=chosen(self.timeout, defaults.timeout if self.transaction else defaults.long_timeout),
            grace=chosen(self.grace, defaults.grace),
            backlog=defaults.backlog if self.backlog is None else self.backlog,
            backoff=parse_duration(self.backoff),
            jitter=parse_duration(self.jitter),
            retention=chosen(self.retention, defaults.retention),
        )


def cron(expression: str, *, timezone: str = "UTC", **options: Unpack[Options]) -> Callable[[Handler], Job]:
    """Runs the function at the times of a cron expression, one transaction per tick.

    Params:
        expression: see `roles.schedule.expression`.
        timezone: of the clock that the expression is read on; see `roles.schedule.cron` for its changes.
        options: see `Options`.
    """
    return _declare(CronSchedule(expression, timezone), options)


def every(
    *, seconds: int = 0, minutes: int = 0, hours: int = 0, days: int = 0, **options: Unpack[Options]
) -> Callable[[Handler], Job]:
    """Runs the function, one transaction per tick, whenever so much time has passed since 1970-01-01 00:00 UTC.

    Params:
        seconds, minutes, hours, days: together they are the interval.
        options: see `Options`.
    """
    return _declare(IntervalSchedule(timedelta(seconds=seconds, minutes=minutes, hours=hours, days=days)), options)


def validate(jobs: Iterable[object], *, built_in: Iterable[Job] = ()) -> None:
    """Checks the declarations.

    Params:
        built_in: jobs of ours, whose names are taken.

    Raises:
        ConfigurationError: a line for everything that can never work.
    """
    jobs = tuple(jobs)
    declared = [job for job in jobs if isinstance(job, Job)]
    ours = {job.name for job in built_in}
    findings = [f"job {_shown(job)}: {finding}" for job in (*declared, *built_in) for finding in _findings(job)]
    findings += [
        f"JOBS: {getattr(other, '__name__', other)} is no job: decorate it with @cron or @every"
        for other in jobs
        if not isinstance(other, Job)
    ]
    for name, times in Counter(job.name for job in declared if _is_name(job.name)).items():
        if times > 1:
            findings.append(f"job {name}: declared {times} times: give all but one another name (name='…')")
        if name in ours:
            findings.append(f"job {name}: a built-in job has this name: give yours another one (name='…')")
    if findings:
        raise ConfigurationError("\n".join(findings))


def _declare(schedule: Schedule, options: Options) -> Callable[[Handler], Job]:
    def declare(handler: Handler) -> Job:
        given: dict[str, Any] = {"name": str(getattr(handler, "__name__", handler)), **options}
        return Job(handler=handler, schedule=schedule, **given)

    return declare


def _shown(job: Job) -> str:
    return job.name if _is_name(job.name) else getattr(job.handler, "__name__", repr(job.handler))


def _is_name(name: object) -> bool:
    return isinstance(name, str) and 0 < len(name) <= LONGEST_NAME and name.isprintable()


def _findings(job: Job) -> Iterator[str]:
    yield from job.schedule.findings()
    yield from _findings_in_the_function(job)
    yield from _findings_in_the_name(job)
    for option, least in LEAST.items():
        value = getattr(job, option)
        if value is not None or option not in HAVE_DEFAULTS:
            yield from _findings_in_a_duration(option, value, least)
    yield from _findings_in_the_numbers(job)
    if job.missed not in MISSED:
        yield f"missed={job.missed!r} is not possible (what is: {', '.join(map(repr, MISSED))})"
    if job.overlap not in OVERLAP:
        yield f"overlap={job.overlap!r} is not possible (what is: {', '.join(map(repr, OVERLAP))})"
    if job.rerun and job.transaction:
        yield "rerun=True is for long jobs (transaction=False): a tick that is one transaction is handed over anyway"


def _findings_in_the_name(job: Job) -> Iterator[str]:
    if job.name == str(job.handler):  # it has the address of an object, which is another one in each process
        yield "has no name that lasts: give it one (name='…')"
    elif not _is_name(job.name):
        yield f"name={reprlib.repr(job.name)} must be a text of 1 to {LONGEST_NAME} printable characters"


def _findings_in_the_numbers(job: Job) -> Iterator[str]:
    yield from _findings_in_a_number("retries", job.retries, 0)
    if job.backlog is not None:
        yield from _findings_in_a_number("backlog", job.backlog, 1)
    for option in ("transaction", "rerun"):
        if not isinstance(value := getattr(job, option), bool):
            yield f"{option}={value!r} must be True or False"


def _findings_in_the_function(job: Job) -> Iterator[str]:
    unit = "work: Work" if job.transaction else "run: Run"
    if not inspect.iscoroutinefunction(job.handler):
        yield "not an async function: declare it with `async def`"
        return
    try:
        bound = inspect.signature(job.handler).bind(None)
    except TypeError:
        yield f"must take one parameter: `async def job({unit}) -> None`"
        return
    parameter = inspect.signature(job.handler).parameters[next(iter(bound.arguments))]
    wrong = Run if job.transaction else Work
    if parameter.annotation in (wrong, wrong.__name__):
        kind = "a long job (transaction=False)" if wrong is Work else "a job that is one transaction"
        yield f"is {kind}, which takes another parameter: `async def job({unit}) -> None`"


def _findings_in_a_number(option: str, value: object, least: int) -> Iterator[str]:
    if not isinstance(value, int) or isinstance(value, bool):
        yield f"{option}={value!r} is not a whole number"
    elif value < least:
        yield f"{option}={value} must be {least} or more"
    elif value > MOST[option]:
        yield f"{option}={value} must be {MOST[option]} or less"


def _findings_in_a_duration(option: str, value: str | timedelta, least: timedelta) -> Iterator[str]:
    try:
        duration = parse_duration(value)
    except ValueError as error:
        yield f"{option} {error}"
        return
    if duration > LONGEST:
        yield f"{option} {value!r} must be {format_duration(LONGEST)} or less"
    if duration < least:
        too_short = "must be longer than zero" if least == SHORTEST else f"must be {format_duration(least)} or more"
        yield f"{option} {value!r} {too_short}"
