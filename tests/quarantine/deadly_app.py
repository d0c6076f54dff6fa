"""The application with two consumers whose handler ends the process when a message says so, and a job that does."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import anyio
from pydantic import BaseModel

import roles.consume.handlers
import roles.schedule.jobs
from app import cli
from db.pool import Work
from roles.consume import Ladder, consumer
from roles.schedule import every

STARTED = time.monotonic()
LIVES = float(os.environ.get("LIVES", "inf"))
"""Seconds after which the job ends the process."""


class Order(BaseModel):
    name: str
    deadly: bool = False


def note(name: str) -> None:
    """Leaves a trace of a death where a test finds it."""
    with Path("deaths").open("a") as deaths:
        deaths.write(f"{name}\n")


async def obey(message: Order, work: Work) -> None:
    await work.connection.execute("INSERT INTO student (name) VALUES (%s)", [message.name])
    await anyio.sleep(0.02)
    if message.deadly:
        note(message.name)
        os._exit(66)


@every(seconds=1)
async def die(work: Work) -> None:
    """Ends the process at its age of `LIVES`."""
    if time.monotonic() - STARTED > LIVES:
        os._exit(67)


retry = Ladder("100ms")
roles.consume.handlers.CONSUMERS = (
    consumer("first", retry=retry, concurrency=50)(obey),
    consumer("second", retry=retry, concurrency=50)(obey),
)
roles.schedule.jobs.JOBS = (die,)  # type: ignore[misc]

if __name__ == "__main__":
    sys.argv[0] = str(Path(__file__).resolve())
    cli()
