"""The application with one consumer that takes its time, and notes what messages look like when they arrive."""

from __future__ import annotations

import sys
from pathlib import Path

import anyio

import roles.consume.handlers
from app import cli
from db import students
from db.pool import Work
from roles.amqp import Delivery
from roles.consume import Ladder, consumer
from roles.consume.processor import Processor
from roles.consume.retry import attempt_of
from schema.students import NewStudent

take = Processor.take


def note(processor: Processor, delivery: Delivery) -> None:
    """Writes down the attempt and the count of deliveries of each message that does not come for the first time."""
    attempt, count = attempt_of(delivery.properties), delivery.properties.integer_header("x-delivery-count") or 0
    if attempt > 1 or count or delivery.redelivered:
        with Path("again").open("a") as again:
            again.write(f"{attempt} {count}\n")
    take(processor, delivery)


@consumer("stream", retry=Ladder("100ms"), concurrency=10)
async def store(message: NewStudent, work: Work) -> None:
    await students.create(work.connection, message)
    await anyio.sleep(0.02)


Processor.take = note  # type: ignore[method-assign,assignment]
roles.consume.handlers.CONSUMERS = (store,)

if __name__ == "__main__":
    sys.argv[0] = str(Path(__file__).resolve())
    cli()
