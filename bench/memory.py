"""Whether memory stays flat over many messages: the consumer as shipped, with its inbox, outbox and relay.

`python -m bench.memory --help` says what can be varied. The queue is filled bit by bit while `app.py --roles consume`
runs; what each message is and becomes is as in `bench.messages`. After each tenth of the messages the resident memory
of the process is read. The first tenth is the warm-up: pools, caches and the allocator's arenas fill in it.
"""

from __future__ import annotations

from typing import Annotated

import anyio
import psycopg
import typer

from bench.messages import declare, producer, publish, stored, verify
from bench.program import APP, Candidate, free_port, running, use_other_cores
from bench.report import circumstances, table, verdict
from bench.services import services

TENTHS = 10
TARGET = 1.05
"""Resident memory in the end, in terms of that after the warm-up."""
VERSIONS = ("aiormq", "psycopg", "pydantic", "uvloop")


async def bench(messages: int) -> None:
    use_other_cores()
    found: list[float] = []
    async with services(broker=True) as places:
        await declare(places.amqp_url)
        settings = places.settings(APP_OPS__BIND=f"127.0.0.1:{free_port()}", APP_CONSOLE="json")
        candidate = Candidate(name="consume", arguments=[APP, "--roles", "consume"], environment=settings)
        async with (
            await psycopg.AsyncConnection.connect(places.database_url, autocommit=True) as database,
            producer(places.amqp_url) as channel,
            running(candidate, places.directory) as program,
        ):
            for tenth in range(TENTHS):
                first, last = (messages * number // TENTHS for number in (tenth, tenth + 1))
                await publish(channel, last - first, first=first)
                await stored(database, last, program)
                found.append(program.memory()["Rss"])
                print(f"{last:,} messages: {found[-1]:.1f} MB", flush=True)
            await verify(database, channel, messages)
    rows = [(f"{messages * (number + 1) // TENTHS:,}", f"{rss:.1f} MB") for number, rss in enumerate(found)]
    print(f"\n{table(('messages', 'RSS'), rows)}\n")
    print(
        verdict("RSS in the end, against that after the warm-up:", found[-1] / found[0], TARGET, " ×", at_most=True)
    )
    print(f"\n{circumstances('bench.memory', VERSIONS)}")


cli = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@cli.command()
def main(
    messages: Annotated[int, typer.Option(help="How many are consumed.")] = 200_000,
) -> None:
    """Measure whether memory stays flat over many messages."""
    anyio.run(bench, messages, backend_options={"use_uvloop": True})


if __name__ == "__main__":
    cli()
