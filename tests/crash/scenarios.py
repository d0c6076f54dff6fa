"""For each step what brings a process there, and what must be true when another one has taken up what it left."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial

from schema.steps import Step
from tests.crash.support import World

Scenario = Callable[[World], Awaitable[Callable[[], Awaitable[None]]]]
"""Brings the process to the step; what it returns is to be called when the next process runs, and checks."""

Scenarios = dict[str, Scenario]
"""By what brings it there."""


async def message(world: World, *, queue: str, how: str = "leave a trace") -> Callable[[], Awaitable[None]]:
    """A message takes effect once."""
    order = await world.order(queue, how)

    async def check() -> None:
        await world.sees(lambda: world.traces(order) == 1, "the effect of the message")
        await world.holds(f"{queue}.retry.200ms", 0)
        await world.passed(queue)
        assert world.traces(order) == 1
        assert world.count("SELECT count(*) FROM inbox WHERE queue = %s AND message_id = %s", queue, order) == 1
        assert world.count("SELECT count(*) FROM parked_message WHERE message_id = %s", order) == 0

    return check


async def refused(world: World, *, queue: str) -> Callable[[], Awaitable[None]]:
    """A message that the handler refuses is parked once, with the reason, and takes no effect."""
    order = await world.order(queue, "reject")

    async def check() -> None:
        await world.passed(queue)
        await world.sees(
            lambda: world.count("SELECT count(*) FROM parked_message WHERE message_id = %s", order) > 0, "parked"
        )
        await world.holds(f"{queue}.parked", 0)
        found = world.rows("SELECT queue, error, status, attempts FROM parked_message WHERE message_id = %s", order)
        assert found == [(queue, "as ordered", "open", 1)]
        assert world.traces(order) == 0

    return check


async def published(world: World) -> Callable[[], Awaitable[None]]:
    """What a handler publishes is delivered and applied once, as is what it does itself."""
    order = await world.order("crash.plain", "publish")

    async def check() -> None:
        await world.sees(lambda: world.traces(f"{order} sent") == 1, "the effect of what was published")
        await world.sees(lambda: world.count("SELECT count(*) FROM outbox") == 0, "an empty outbox")
        await world.passed("crash.plain")
        follower = await world.order("crash.plain", "publish")
        await world.sees(lambda: world.traces(f"{follower} sent") == 1, "the effect of what follows")
        assert (world.traces(order), world.traces(f"{order} sent")) == (1, 1)

    return check


async def tick(world: World, *, job: str, interval: timedelta, traces: str) -> Callable[[], Awaitable[None]]:
    """Every tick is in the book once, finished, and has taken effect once: that of the death, and those after it."""
    begun = world.count("SELECT coalesce(max(id), 0) FROM cron_run WHERE job = %s", job)

    async def check() -> None:
        enough = "SELECT count(*) FROM cron_run WHERE job = %s AND id > %s AND status = 'finished'"
        await world.sees(lambda: world.count(enough, job, begun) >= 2, f"the next ticks of {job}")
        await world.sees(lambda: not gaps(), f"no gap between the ticks of {job}")
        (found,) = world.rows(  # in one statement, for the jobs go on
            "SELECT count(*) FILTER (WHERE status = 'finished'), count(*) FILTER (WHERE status = 'claimed'), "
            "count(DISTINCT scheduled_at), (SELECT count(*) FROM student WHERE name LIKE %s) "
            "FROM cron_run WHERE job = %s",
            traces,
            job,
        )
        finished, claimed, different, effects = found
        assert finished + claimed == different
        assert finished <= effects <= finished + claimed
        unlike = "SELECT status, error FROM cron_run WHERE job = %s AND status NOT IN ('finished', 'claimed')"
        assert world.rows(unlike, job) == []

    def gaps() -> list[tuple[object, ...]]:
        return world.rows(
            "SELECT * FROM (SELECT scheduled_at, lag(scheduled_at) OVER (ORDER BY scheduled_at) AS before "
            "FROM cron_run WHERE job = %s) AS ticks WHERE scheduled_at - before <> %s",
            job,
            interval,
        )

    return check


_short = partial(tick, job="short", interval=timedelta(seconds=1), traces="short")
_long = partial(tick, job="long", interval=timedelta(seconds=2), traces="long %")
_ways: Scenarios = {name: partial(message, queue=f"crash.{name}") for name in ("plain", "own", "batch")}
_retried: Scenarios = {name: partial(message, queue=f"crash.{name}", how="fail once") for name in ("plain", "batch")}
_refused: Scenarios = {"parked": partial(refused, queue="crash.plain")}

SCENARIOS: dict[Step, Scenarios] = {
    Step.CONSUME_RECEIVED: {"plain": _ways["plain"]},
    Step.CONSUME_CLAIMED: _ways,
    Step.CONSUME_HANDLED: _ways,
    Step.CONSUME_COMMITTED: _ways,
    Step.CONSUME_ACKED: {"plain": _ways["plain"], "batch": _ways["batch"]},
    Step.CONSUME_RETRY_PUBLISHED: _retried | _refused,
    Step.CONSUME_ORIGINAL_ACKED: {"plain": _retried["plain"]},
    Step.CONSUME_ARCHIVED: _refused,
    Step.CONSUME_ARCHIVE_ACKED: _refused,
    Step.OUTBOX_INSERTED: {"published": published},
    Step.OUTBOX_COMMITTED: {"published": published},
    Step.RELAY_PUBLISHED: {"published": published},
    Step.RELAY_CONFIRMED: {"published": published},
    Step.RELAY_DELETED: {"published": published},
    Step.SCHEDULE_CLAIMED: {"tick": _short},
    Step.SCHEDULE_HANDLED: {"tick": _short},
    Step.SCHEDULE_MARKED: {"tick": _short},
    Step.SCHEDULE_COMMITTED: {"tick": _short},
    Step.SCHEDULE_LONG_CLAIMED: {"tick": _long},
    Step.SCHEDULE_LONG_COMMITTED: {"tick": _long},
    Step.SCHEDULE_LONG_HANDLED: {"tick": _long},
    Step.SCHEDULE_LONG_MARKED: {"tick": _long},
}
"""By the step at which the process dies."""
