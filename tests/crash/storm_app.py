"""The application with a consumer that fails at random, for the storm."""

from __future__ import annotations

import os
import random

from pydantic import BaseModel

import roles.consume.handlers
import schema.topics
from db.pool import Work
from roles.consume import Ladder, Reject, consumer
from schema.topic import Topic
from tests.crash.lives import import_roles, live_on_request, run

EXCHANGE = "storm.exchange"
LADDER = Ladder("100ms", "500ms", "1s")
FAILURE_RATE = 0.2
"""Of the handler's calls, for messages whose fate is open."""

chance = random.Random()


class Note(BaseModel):
    """A message whose fate its producer has decided, or left open."""

    id: str
    fate: str


class Echo(BaseModel):
    """What the handler publishes for some of them."""

    id: str


ECHO = Topic("storm.echo", Echo, exchange=EXCHANGE, routing_key="storm.echo")


@consumer("storm.notes", exchange=EXCHANGE, retry=LADDER, concurrency=10)
async def take(message: Note, work: Work) -> None:
    """Leaves a trace, unless it is to fail or does so at random; in the midst, for what is then rolled back."""
    await work.connection.execute("INSERT INTO student (name, active) VALUES (%s, false)", [message.id])
    if message.fate == "echo":
        await work.publish(ECHO, Echo(id=message.id))
    if message.fate == "reject":
        raise Reject("as its producer wished")
    if message.fate == "fail" or chance.random() < FAILURE_RATE:
        raise RuntimeError("by chance")


@consumer("storm.echoes", exchange=EXCHANGE, routing_key="storm.echo", retry=LADDER, concurrency=5)
async def hear(message: Echo, work: Work) -> None:
    await work.connection.execute("INSERT INTO student (name, active) VALUES (%s, false)", [f"{message.id} echo"])


def live(life: str) -> None:
    chance.seed(f"{os.environ['STORM_SEED']} {life}")
    run()


if __name__ == "__main__":
    roles.consume.handlers.CONSUMERS = (take, hear)
    schema.topics.TOPICS = (ECHO,)
    import_roles()
    live_on_request(live)
