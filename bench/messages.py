"""Consume and insert: Rolecall's consumer against FastStream with SQLAlchemy, on the same queue and PostgreSQL.

`python -m bench.messages --help` says what can be varied. The queue is a quorum queue and full before the program
starts. Each message is validated, becomes a row in a transaction of its own, and is acked after the commit. What
counts is the time between the rows, as PostgreSQL stamped them; the first of them are the warm-up. In the end all
messages have to be in the table, once each, and none in the queue.

Rolecall runs as `app.py --roles consume` with its defaults, and a second time with a consumer of batches. Both
deduplicate by the inbox; FastStream has none.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import aiormq
import anyio
import psycopg
import typer

from bench.program import APP, Candidate, Program, free_port, running, use_other_cores
from bench.report import RATIOS, Result, circumstances, comparison, faster, verdict
from bench.services import Services, services
from roles.amqp import Broker
from roles.consume import topology
from roles.consume.handlers.students import create_student
from schema.settings import Settings

OURS, BATCHED, THEIRS = "Rolecall", "Rolecall, in batches of 100", "FastStream, SQLAlchemy + asyncpg"
TARGET, BATCH_TARGET = 1700 / 935, 6.0
"""Times FastStream; the first from DESIGN §10."""

VERSIONS = ("aiormq", "psycopg", "pydantic", "uvloop", "faststream", "aio-pika", "sqlalchemy", "asyncpg")
IN_FLIGHT = 200
"""Messages that are published at a time."""

Database = psycopg.AsyncConnection[psycopg.rows.TupleRow]


@dataclass(frozen=True, slots=True)
class Plan:
    """How it is measured."""

    rounds: int
    messages: int
    warm_up: int
    pool: int

    @property
    def total(self) -> int:
        return self.messages + self.warm_up


def candidates(places: Services, pool: int) -> list[Candidate]:
    ours = places.settings(
        APP_DATABASE__POOL_MIN_SIZE=str(pool),
        APP_DATABASE__POOL_MAX_SIZE=str(pool),
        APP_OPS__BIND=f"127.0.0.1:{free_port()}",
        APP_CONSOLE="json",
    )
    theirs = {
        "DATABASE_URL": places.database_url.replace("postgresql", "postgresql+asyncpg", 1),
        "POOL_SIZE": str(pool),
        "AMQP_URL": places.amqp_url,
        "PREFETCH": str(create_student.concurrency),
    }
    return [
        Candidate(name=OURS, arguments=[APP, "--roles", "consume"], environment=ours),
        Candidate(name=BATCHED, arguments=["-m", "bench.batch_app", "--roles", "consume"], environment=ours),
        Candidate(name=THEIRS, arguments=["-m", "bench.peers.faststream_app"], environment=theirs),
    ]


async def measure(
    candidate: Candidate, directory: Path, plan: Plan, database: Database, channel: aiormq.abc.AbstractChannel
) -> Result:
    """Fills the queue, starts a candidate, and looks at what it has left in the table."""
    await database.execute("TRUNCATE student, inbox RESTART IDENTITY")
    await database.execute("CHECKPOINT")
    await publish(channel, plan.total)
    async with running(candidate, directory) as program:
        seen = await stored(database, plan.warm_up, program)
        before = program.cpu_seconds()
        until = await stored(database, plan.total, program)
        spent = program.cpu_seconds() - before
    await verify(database, channel, plan.total)
    rows = await database.execute(
        "SELECT extract(epoch FROM max(created_at) - min(created_at))::float, count(*)"
        " FROM (SELECT created_at FROM student ORDER BY id OFFSET %s) counted",
        [plan.warm_up],
    )
    seconds, count = (await rows.fetchone()) or (0.0, 0)
    return Result(count / seconds, spent / (until - seen) * 1e6)


async def publish(channel: aiormq.abc.AbstractChannel, count: int, *, first: int = 0) -> None:
    """Puts messages into the queue, persistent and confirmed; they are numbered from `first` on."""
    limit = anyio.CapacityLimiter(IN_FLIGHT)

    async def one(number: int) -> None:
        properties = aiormq.spec.Basic.Properties(
            content_type="application/json", delivery_mode=2, message_id=f"m-{number}"
        )
        async with limit:
            await channel.basic_publish(
                json.dumps({"name": f"Student {number}"}).encode(),
                routing_key=create_student.queue,
                properties=properties,
                timeout=30,
            )

    async with anyio.create_task_group() as group:
        for number in range(first, first + count):
            group.start_soon(one, number)


async def stored(database: Database, count: int, program: Program) -> int:
    """Returns how many rows there are once there are `count`."""
    with anyio.fail_after(120):
        while True:
            row = await (await database.execute("SELECT coalesce(max(id), 0) FROM student")).fetchone()
            assert row is not None
            if row[0] >= count:
                return int(row[0])
            if program.process.returncode is not None:
                raise RuntimeError(f"it ended:\n{program.tail.decode(errors='replace')}")
            await anyio.sleep(0.02)


async def verify(database: Database, channel: aiormq.abc.AbstractChannel, count: int) -> None:
    """Raises if not every message was applied once, and acked."""
    rows = await database.execute("SELECT count(*), count(DISTINCT name) FROM student")
    left = (await channel.queue_declare(create_student.queue, passive=True)).message_count
    found = await rows.fetchone()
    if found != (count, count) or left:
        raise RuntimeError(
            f"of {count} messages, (rows, different ones) are {found}, and {left} are still in the queue"
        )


async def declare(url: str) -> None:
    """The queues of our consumer, which the others use as well."""
    settings = Settings()
    broker = Broker("example", url, settings.amqp["example"])
    channel = await broker.channel("publish")
    await topology.declare(channel, create_student, delivery_limit=settings.consume.delivery_limit)
    await broker.aclose()


@asynccontextmanager
async def producer(url: str) -> AsyncIterator[aiormq.abc.AbstractChannel]:
    connection = await aiormq.connect(url)
    try:
        yield await connection.channel()
    finally:
        await connection.close()


cli = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


async def bench(plan: Plan) -> None:
    use_other_cores()
    results: dict[str, list[Result]] = defaultdict(list)
    async with services(broker=True) as places:
        await declare(places.amqp_url)
        everyone = candidates(places, plan.pool)
        async with (
            await psycopg.AsyncConnection.connect(places.database_url, autocommit=True) as database,
            producer(places.amqp_url) as channel,
        ):
            for number in range(plan.rounds):
                for candidate in everyone if number % 2 == 0 else reversed(everyone):
                    result = await measure(candidate, places.directory, plan, database, channel)
                    results[candidate.name].append(result)
                    print(f"round {number + 1}: {candidate.name}: {result.rate:,.0f}/s", flush=True)
    print(f"\n{comparison('consume and insert', 'message', results)}\n\n{RATIOS}")
    for name, target in ((OURS, TARGET), (BATCHED, BATCH_TARGET)):
        print(verdict(f"{name}, against FastStream:", faster(results[name], results[THEIRS]), target, " ×"))
    print(f"\n{circumstances('bench.messages', VERSIONS)}\n{plan}, prefetch {create_student.concurrency}")


@cli.command()
def main(
    rounds: Annotated[int, typer.Option(help="How often each candidate has its turn.")] = 3,
    messages: Annotated[int, typer.Option(help="How many are measured in a turn.")] = 8000,
    warm_up: Annotated[int, typer.Option(help="How many come before these.")] = 1000,
    pool: Annotated[int, typer.Option(help="Connections to PostgreSQL.")] = 20,
) -> None:
    """Measure how fast messages become rows: Rolecall against FastStream with SQLAlchemy."""
    anyio.run(bench, Plan(rounds, messages, warm_up, pool), backend_options={"use_uvloop": True})


if __name__ == "__main__":
    cli()
