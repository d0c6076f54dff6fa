"""How soon Rolecall is ready, and how much memory it takes: with all roles, and with each alone.

Ready means that `/health/ready` says so: every role runs, the consumer is subscribed, PostgreSQL and RabbitMQ answer.
They are up already. The clock starts when the process is started, on all cores. Memory is looked at when the process
is ready, and for all roles again after some work. What three processes of something else would take depends on
what they are made of, and is not measured.
"""

from __future__ import annotations

import json
from collections import defaultdict
from itertools import cycle, repeat
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Annotated

import anyio
import typer

from bench.load import drive, get, post
from bench.program import APP, Candidate, free_port, running
from bench.report import circumstances, table, verdict
from bench.services import Services, services

ALL = "api,consume,schedule"
AFTER_WORK = f"{ALL}, after work"
START_TARGET = 1.5
"""Seconds."""
MEMORY_TARGET = 110
"""Megabytes."""

VERSIONS = ("quart", "hypercorn", "psycopg", "sqlalchemy", "aiormq", "pydantic", "anyio", "uvloop")


class Findings:
    """By roles: seconds until ready, and megabytes."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.rss: dict[str, list[float]] = defaultdict(list)
        self.pss: dict[str, list[float]] = defaultdict(list)

    def add_memory(self, what: str, memory: dict[str, float]) -> None:
        self.rss[what].append(memory["Rss"])
        self.pss[what].append(memory["Pss"])


async def measure(roles: str, places: Services, directory: Path, seconds: float, findings: Findings) -> None:
    """Starts it with these roles, once."""
    api, ops = free_port(), free_port()
    settings = places.settings(
        APP_API__BIND=f"127.0.0.1:{api}",
        APP_API__RATE_LIMIT="",
        APP_OPS__BIND=f"127.0.0.1:{ops}",
        APP_CONSOLE="json",
    )
    candidate = Candidate(name=roles, arguments=[APP, "--roles", roles], environment=settings)
    began = perf_counter()
    async with running(candidate, directory, pinned=False) as program:
        await program.answers(f"http://127.0.0.1:{ops}/health/ready", every=0.005)
        findings.seconds[roles].append(perf_counter() - began)
        findings.add_memory(roles, program.memory())
        if roles == ALL:
            await work(api, seconds)
            findings.add_memory(AFTER_WORK, program.memory())


async def work(port: int, seconds: float) -> None:
    """Some writes and reads."""
    path = "/api/v1/students"
    writes = repeat(post(path, json.dumps({"name": "Ada Lovelace"}).encode()))
    await drive(port, writes, status=201, connections=32, seconds=seconds)
    await drive(port, cycle([get(path), get(f"{path}/1")]), status=200, connections=32, seconds=seconds)


cli = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


async def bench(starts: int, seconds: float) -> None:
    findings = Findings()
    async with services(broker=True) as places:
        for number in range(-1, starts):
            for roles in (ALL, *ALL.split(",")):
                # The first start finds neither bytecode nor files in the page cache, and does not count.
                await measure(roles, places, places.directory, seconds, findings if number >= 0 else Findings())
    rows = [
        (
            what,
            f"{median(findings.seconds[what]):.2f} s" if what in findings.seconds else "",
            f"{median(findings.rss[what]):.0f} MB",
            f"{median(findings.pss[what]):.0f} MB",
        )
        for what in (ALL, AFTER_WORK, *ALL.split(","))
    ]
    print(f"\n{table(('roles', 'ready after', 'RSS', 'PSS'), rows)}\n\nMedians of {starts} starts.")
    print(verdict("ready after", median(findings.seconds[ALL]), START_TARGET, " s", at_most=True))
    print(
        verdict(
            "RSS with all roles, after work:", median(findings.rss[AFTER_WORK]), MEMORY_TARGET, " MB", at_most=True
        )
    )
    print(f"\n{circumstances('bench.footprint', VERSIONS)}")


@cli.command()
def main(
    starts: Annotated[int, typer.Option(help="How often it is started with each set of roles.")] = 5,
    seconds: Annotated[float, typer.Option(help="How long it works, with reads and with writes.")] = 2.0,
) -> None:
    """Measure how soon Rolecall is ready, and how much memory it takes."""
    anyio.run(bench, starts, seconds, backend_options={"use_uvloop": True})


if __name__ == "__main__":
    cli()
