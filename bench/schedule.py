"""How punctual ticks are, and what a thousand jobs cost while none of them is due.

The process runs the role `schedule` alone, on an otherwise idle machine. Lateness is what the book says: when the
tick was claimed, after the moment at which it was due. The cost is the CPU time of the process, between ticks, as a
share of a core.
"""

from __future__ import annotations

from statistics import median, quantiles
from typing import Annotated

import anyio
import psycopg
import typer

from bench.program import Candidate, free_port, running
from bench.report import circumstances, table, verdict
from bench.services import Services, services

LATENESS_TARGET = 20
"""Milliseconds, at the 99th percentile."""
COST_TARGET = 1
"""Percent of a core, for a thousand jobs."""
WARM_UP = 3
"""Seconds, before anything is measured."""
VERSIONS = ("psycopg", "croniter", "anyio", "uvloop")


def candidate(places: Services, port: int, *, due: int, idle: int) -> Candidate:
    settings = places.settings(
        APP_OPS__BIND=f"127.0.0.1:{port}",
        APP_CONSOLE="json",
        APP_LOG__LEVEL="warning",
        JOBS_DUE=str(due),
        JOBS_IDLE=str(idle),
    )
    return Candidate(
        name=f"{due} due, {idle} idle",
        arguments=["-m", "bench.ticking_app", "--roles", "schedule"],
        environment=settings,
    )


async def cost(places: Services, seconds: float, *, idle: int) -> float:
    """Percent of a core that the process takes with so many jobs, none of which is due."""
    port = free_port()
    async with running(candidate(places, port, due=0, idle=idle), places.directory) as program:
        await program.answers(f"http://127.0.0.1:{port}/health/ready")
        await anyio.sleep(WARM_UP)
        before = program.cpu_seconds()
        await anyio.sleep(seconds)
        return 100 * (program.cpu_seconds() - before) / seconds


async def lateness(places: Services, seconds: float, *, due: int, idle: int) -> list[float]:
    """Milliseconds by which each tick was claimed late."""
    port = free_port()
    async with running(candidate(places, port, due=due, idle=idle), places.directory) as program:
        await program.answers(f"http://127.0.0.1:{port}/health/ready")
        await anyio.sleep(WARM_UP + seconds)
    async with await psycopg.AsyncConnection.connect(places.database_url, autocommit=True) as conn:
        found = await conn.execute(
            "SELECT extract(epoch FROM started_at - scheduled_at)::float8 * 1000 FROM cron_run "
            "WHERE job LIKE 'due %%' AND status = 'finished' AND scheduled_at >= "
            "(SELECT min(scheduled_at) + %s * interval '1 s' FROM cron_run WHERE job LIKE 'due %%')",
            [WARM_UP],
        )
        return [row[0] for row in await found.fetchall()]


async def bench(seconds: float) -> None:
    async with services(broker=False) as places:
        found = {idle: await cost(places, seconds, idle=idle) for idle in (0, 1000)}
        late = await lateness(places, seconds, due=5, idle=1000)
    percentiles = quantiles(late, n=100)
    rows = [(f"{idle:,} jobs, none due", f"{share:.2f} % of a core", "") for idle, share in found.items()]
    rows.append((f"{len(late)} ticks of 5 jobs", f"p50 {median(late):.1f} ms", f"p99 {percentiles[98]:.1f} ms"))
    print(f"\n{table(('schedule', '', ''), rows)}\n")
    print(verdict("late, p99:", percentiles[98], LATENESS_TARGET, " ms", at_most=True))
    print(verdict("1,000 jobs between ticks:", found[1000], COST_TARGET, " % of a core", at_most=True))
    print(f"\n{circumstances('bench.schedule', VERSIONS)}")


cli = typer.Typer(add_completion=False)


@cli.command()
def main(seconds: Annotated[float, typer.Option(help="How long each of three measurements takes.")] = 30.0) -> None:
    """Measure how punctual ticks are, and what jobs cost that are not due."""
    anyio.run(bench, seconds, backend_options={"use_uvloop": True})


if __name__ == "__main__":
    cli()
