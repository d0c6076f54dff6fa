"""From the outbox to the broker: how many messages a second, and how long after the commit.

`python -m bench.relay --help` says what can be varied.

- **Rate.** So many rows become available at the same moment, and `app.py --roles schedule` relays them to a quorum
  queue, on one core. What counts is the time until the outbox is empty. In the end all have to be in the queue.
- **Delay.** One message at a time: a unit of work publishes it, and the time runs from the end of the commit until
  the message has arrived at a consumer of the queue, so the way from the broker is included. Relay and consumer are
  in one process here, on the core of the program.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from statistics import median, quantiles
from typing import Annotated, Any

import aiormq
import anyio
import psycopg
import typer
from anyio.abc import TaskStatus
from pydantic import BaseModel

from bench.messages import Database, producer
from bench.program import APP, Candidate, Program, free_port, running, use_other_cores
from bench.report import Result, circumstances, table, verdict
from bench.services import Services, services
from db.pool import create_pool, current_pool, unit_of_work
from roles.amqp import Broker, Delivery
from roles.relay.role import RelayRole
from roles.resources import Resources
from schema.settings import Settings
from schema.topic import Topic

QUEUE = "bench.relay"
RATE, DELAY = 5000, 10.0
"""Messages a second, and milliseconds."""
HEAD_START = 2.0
"""Seconds between the end of the insertion and the moment at which the rows become available."""
VERSIONS = ("aiormq", "psycopg", "pydantic", "uvloop")

FILL = """
INSERT INTO outbox (broker, exchange, routing_key, body, properties, available_at)
SELECT 'example', '', %(queue)s, convert_to('{"id":' || number || '}', 'UTF8'), jsonb_build_object(
    'message_id', gen_random_uuid(), 'type', 'bench', 'content_type', 'application/json'
), now() + interval '1 hour' FROM generate_series(1, %(count)s) number
"""


class Tick(BaseModel):
    number: int


TOPIC = Topic("bench", Tick, exchange="", routing_key=QUEUE)


async def rate(places: Services, count: int, database: Database, channel: aiormq.abc.AbstractChannel) -> Result:
    """Relays `count` messages."""
    await channel.queue_purge(QUEUE)
    environment = places.settings(APP_OPS__BIND=f"127.0.0.1:{free_port()}", APP_CONSOLE="json")
    candidate = Candidate(name="relay", arguments=[APP, "--roles", "schedule"], environment=environment)
    await database.execute(FILL, {"queue": QUEUE, "count": count})
    await database.execute("ANALYZE outbox")
    await database.execute("CHECKPOINT")
    async with running(candidate, places.directory) as program:
        await program.answers(f"http://{environment['APP_OPS__BIND']}/health/ready")
        await database.execute(
            "UPDATE outbox SET available_at = clock_timestamp() + %s * interval '1 second'", [HEAD_START]
        )
        before = program.cpu_seconds()
        seconds = await emptied(database, program)
        spent = program.cpu_seconds() - before
    arrived = (await channel.queue_declare(QUEUE, passive=True)).message_count
    if arrived != count:
        raise RuntimeError(f"of {count} messages {arrived} are in the queue")
    return Result(count / seconds, spent / count * 1e6)


async def emptied(database: Database, program: Program) -> float:
    """Returns, once the outbox is empty, how many seconds that is after its rows had become available."""
    first = await (
        await database.execute("SELECT extract(epoch FROM max(available_at))::float FROM outbox")
    ).fetchone()
    assert first is not None
    with anyio.fail_after(120):
        while True:
            looked = "SELECT extract(epoch FROM clock_timestamp())::float, EXISTS (SELECT FROM outbox)"
            row = await (await database.execute(looked)).fetchone()
            assert row is not None
            if not row[1]:
                return float(row[0] - first[0])
            if program.process.returncode is not None:
                raise RuntimeError(f"it ended:\n{program.tail.decode(errors='replace')}")
            await anyio.sleep(0.02)


async def delays(places: Services, count: int) -> list[float]:
    """Milliseconds from the end of the commit to the arrival, of each message."""
    settings = Settings()
    found: list[float] = []
    async with create_pool(places.database_url, settings.database) as pool:
        current_pool.set(pool)
        resources = Resources(settings=settings, pool=pool, amqp_urls={"example": places.amqp_url})
        arrived = anyio.Event()

        def deliver(_: Delivery) -> None:
            arrived.set()

        async with relaying(resources), consuming(settings, places.amqp_url, deliver):
            for number in range(count):
                arrived = anyio.Event()
                async with unit_of_work() as work:
                    await work.publish(TOPIC, Tick(number=number))
                committed = time.perf_counter()
                with anyio.fail_after(30):
                    await arrived.wait()
                found.append((time.perf_counter() - committed) * 1000)
                await anyio.sleep(0.005)
    return found


@asynccontextmanager
async def relaying(resources: Resources) -> AsyncIterator[None]:
    stop = anyio.Event()

    async def run(*, task_status: TaskStatus[None]) -> None:
        await RelayRole(resources, topics=[TOPIC]).run(task_status=task_status, stop=stop)

    async with anyio.create_task_group() as group:
        await group.start(run)
        yield
        stop.set()


@asynccontextmanager
async def consuming(settings: Settings, url: str, deliver: Any) -> AsyncIterator[None]:
    broker = Broker("example", url, settings.amqp["example"])
    try:
        await (await broker.channel("consume")).consume(QUEUE, prefetch=0, deliver=deliver)
        yield
    finally:
        await broker.aclose()


async def bench(rounds: int, messages: int, delayed: int) -> None:
    use_other_cores()
    async with (
        services(broker=True) as places,
        await psycopg.AsyncConnection.connect(places.database_url, autocommit=True) as database,
        producer(places.amqp_url) as channel,
    ):
        await channel.queue_declare(QUEUE, durable=True, arguments={"x-queue-type": "quorum"})
        results: list[Result] = []
        for number in range(rounds):
            results.append(await rate(places, messages, database, channel))
            print(f"round {number + 1}: {results[-1].rate:,.0f}/s", flush=True)
        await channel.queue_purge(QUEUE)
        waited = await delays(places, delayed)
    rates = [result.rate for result in results]
    shown = table(
        ("relay", "median", "of these"),
        [
            ("messages/s", f"{median(rates):,.0f}", f"{rounds} rounds of {messages:,}"),
            ("CPU per message", f"{median(result.cpu for result in results):,.0f} µs", "the same"),
            ("commit to consumer", f"{median(waited):.1f} ms", f"{delayed:,} messages, one at a time"),
            ("commit to consumer, 99 %", f"{quantiles(waited, n=100)[98]:.1f} ms", "the same"),
        ],
    )
    print(f"\n{shown}\n")
    print(verdict("relay:", median(rates), RATE, " messages/s"))
    print(verdict("commit to consumer, median:", median(waited), DELAY, " ms", at_most=True))
    print(f"\n{circumstances('bench.relay', VERSIONS)}")


cli = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@cli.command()
def main(
    rounds: Annotated[int, typer.Option(help="How often the rate is measured.")] = 3,
    messages: Annotated[int, typer.Option(help="How many are relayed in a round.")] = 30_000,
    delayed: Annotated[int, typer.Option(help="How many have their delay measured.")] = 500,
) -> None:
    """Measure how fast the outbox is relayed."""
    anyio.run(bench, rounds, messages, delayed, backend_options={"use_uvloop": True})


if __name__ == "__main__":
    cli()
