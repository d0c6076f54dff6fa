"""The application with two consumers whose process ends when a message says so, or for reasons of its own."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import anyio
from pydantic import BaseModel

import roles.consume.handlers
from app import cli
from db.pool import Work
from roles.consume import Ladder, consumer

HANDLES = int(os.environ.get("HANDLES", "0"))
"""Messages that a process can begin with before something else ends it, such as what leaks with each of them."""

begun = 0


class Order(BaseModel):
    name: str
    deadly: bool = False


def note(name: str) -> None:
    """Leaves a trace of a death where a test finds it."""
    with Path("deaths").open("a") as deaths:
        deaths.write(f"{name}\n")


async def obey(message: Order, work: Work) -> None:
    global begun  # noqa: PLW0603 - in this process
    begun += 1
    if begun == HANDLES:
        asyncio.get_running_loop().call_later(0.01, os._exit, 67)
    await work.connection.execute("INSERT INTO student (name) VALUES (%s)", [message.name])
    await anyio.sleep(0.02)
    if message.deadly:
        note(message.name)
        os._exit(66)


retry = Ladder("100ms")
roles.consume.handlers.CONSUMERS = (
    consumer("first", retry=retry, concurrency=50)(obey),
    consumer("second", retry=retry, concurrency=50)(obey),
)

if __name__ == "__main__":
    sys.argv[0] = str(Path(__file__).resolve())
    cli()
