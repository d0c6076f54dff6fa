"""The application with consumers, jobs and routes that fail in the ways that the tests need."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import anyio
import structlog
from anyio.abc import TaskStatus
from pydantic import BaseModel
from quart import Blueprint

import roles.api.routes
import roles.consume.handlers
import roles.schedule.jobs
from app import cli
from db.pool import Work
from roles.api.access import public
from roles.consume import Ladder, consumer
from roles.schedule import every

log = structlog.get_logger(__name__)


class Order(BaseModel):
    """What a handler is to do."""

    seconds: float = 0
    how: str = "sleep"


@consumer("test.orders", exchange="test.exchange", retry=Ladder("200ms", "400ms", "800ms"), concurrency=20)
async def obey(message: Order, work: Work) -> None:
    log.info("told", how=message.how)
    match message.how:
        case "fail":
            raise RuntimeError("as ordered")
        case "block":
            time.sleep(message.seconds)  # noqa: ASYNC251, TID251 - what must not be done is what is tested
        case "stubborn":
            deadline = time.monotonic() + message.seconds
            while time.monotonic() < deadline:
                with anyio.CancelScope(shield=True):
                    await anyio.sleep(0.05)
        case _:
            await anyio.sleep(message.seconds)
    await work.connection.execute("INSERT INTO student (name) VALUES (%s)", [f"obeyed {message.how}"])


faults = Blueprint("faults", __name__, url_prefix="/faults")


@faults.get("/slow/<int:milliseconds>")
@public
async def slow(milliseconds: int) -> dict[str, int]:
    """Answers after a while."""
    await anyio.sleep(milliseconds / 1000)
    return {"slept": milliseconds}


@every(seconds=1)
async def tick(work: Work) -> None:
    """Leaves a trace of each of its runs."""
    await work.connection.execute("INSERT INTO student (name, active) VALUES (%s, false)", [f"tick {os.getpid()}"])


roles.consume.handlers.CONSUMERS = (*roles.consume.handlers.CONSUMERS, obey)
roles.api.routes.ROUTES = (*roles.api.routes.ROUTES, faults)
roles.schedule.jobs.JOBS = (*roles.schedule.jobs.JOBS, tick)  # type: ignore[misc]

CRASHES = int(os.environ.get("CRASHES", "0"))

if CRASHES:
    from roles.schedule import role

    class Crashing(role.ScheduleRole):
        """Fails a moment after each start, as often as it is told to."""

        left = CRASHES

        async def run(self, *, task_status: TaskStatus[None], stop: anyio.Event) -> None:
            if Crashing.left:
                Crashing.left -= 1
                task_status.started()
                await anyio.sleep(0.05)
                raise RuntimeError("told to crash")
            await super().run(task_status=task_status, stop=stop)

    role.ScheduleRole = Crashing  # type: ignore[misc]

if __name__ == "__main__":
    sys.argv[0] = str(Path(__file__).resolve())
    cli()
