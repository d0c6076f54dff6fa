"""The application with consumers and jobs that leave traces, and that dies by SIGKILL at the step it is told.

It is told by a file `armed` with the name of the step in its directory, which becomes `died`.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

from pydantic import BaseModel

import roles.consume.handlers
import roles.schedule.jobs
import schema.topics
from db.pool import Work
from roles.consume import Delivery, Ladder, Reject, consumer
from roles.schedule import Run, every
from schema.steps import Step, observe
from schema.topic import Topic
from tests.crash.lives import import_roles, live_on_request, run

EXCHANGE = "crash.exchange"
LADDER = Ladder("200ms")


class Order(BaseModel):
    """What a handler is to do."""

    id: str
    how: str = "leave a trace"


class Sent(BaseModel):
    """What the handlers publish."""

    id: str


SENT = Topic("crash.sent", Sent, exchange=EXCHANGE, routing_key="crash.sent")


async def leave_trace(work: Work, name: str) -> None:
    """A row for each time that this takes effect."""
    await work.connection.execute("INSERT INTO student (name, active) VALUES (%s, false)", [name])


async def obey(order: Order, work: Work) -> None:
    match order.how:
        case "fail once":
            if order.id not in os.listdir():  # noqa: PTH208 - the transaction keeps nothing of a failure
                os.mkdir(order.id)  # noqa: PTH102
                raise RuntimeError("as ordered")
        case "reject":
            raise Reject("as ordered")
        case "publish":
            await work.publish(SENT, Sent(id=order.id))
    await leave_trace(work, order.id)


@consumer("crash.plain", retry=LADDER, concurrency=1)
async def plain(message: Order, work: Work) -> None:
    await obey(message, work)


@consumer("crash.own", retry=LADDER, concurrency=1, transaction=False)
async def own(message: Order, delivery: Delivery) -> None:
    async with delivery.unit_of_work() as work:
        await obey(message, work)


@consumer("crash.batch", retry=LADDER, concurrency=1, batch=10, linger="10ms")
async def batch(messages: list[Order], work: Work) -> None:
    for message in messages:
        await obey(message, work)


@consumer("crash.sent", exchange=EXCHANGE, concurrency=1)
async def sent(message: Sent, work: Work) -> None:
    await leave_trace(work, f"{message.id} sent")


@every(seconds=1, missed="all", grace="1h", overlap="queue")
async def short(work: Work) -> None:
    await leave_trace(work, "short")


@every(seconds=2, missed="all", grace="1h", overlap="queue", transaction=False, rerun=True)
async def long(run: Run) -> None:
    """Takes effect once: a run that is taken over finds what the one before has committed."""
    async with run.unit_of_work() as work:
        await work.connection.execute(
            "INSERT INTO student (name, active) SELECT %(name)s, false "
            "WHERE NOT EXISTS (SELECT FROM student WHERE name = %(name)s)",
            {"name": f"long {run.scheduled_at.isoformat()}"},
        )


def die(step: Step) -> None:
    """Dies if it is this step that was told."""
    armed = Path("armed")
    try:
        told = armed.read_text()
    except FileNotFoundError:
        return
    if told == step:
        armed.rename("died")
        os.kill(os.getpid(), signal.SIGKILL)


CONSUMERS = (plain, own, batch, sent)

if __name__ == "__main__":
    roles.consume.handlers.CONSUMERS = CONSUMERS
    roles.schedule.jobs.JOBS = (short, long)  # type: ignore[misc]
    schema.topics.TOPICS = (SENT,)
    observe(die)
    import_roles()
    live_on_request(lambda _: run())
