"""GET and POST of a student: Rolecall's API against FastAPI with SQLAlchemy, on the same server and PostgreSQL.

`python -m bench.http --help` says what can be varied. Rolecall runs as `app.py --roles api` with its defaults: ops
port, watchdog, request ids, and a JSON record per request that is written to a pipe and read by this process. The
others write no log of requests, so a second row has Rolecall without it (`log.level=warning`).
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import anyio
import httpx
import psycopg
import typer

from bench.load import Outcome, drive, get, post
from bench.program import APP, Candidate, free_port, running, use_other_cores
from bench.report import RATIOS, Result, circumstances, comparison, faster, verdict
from bench.services import services

STUDENTS = 1000
"""How many there are to read."""

PATH = "/api/v1/students"
OURS, UNLOGGED = "Rolecall", "Rolecall, requests not logged"
ON_HYPERCORN = ("FastAPI, SQLAlchemy + asyncpg, Hypercorn", "FastAPI, SQLAlchemy + psycopg, Hypercorn")
ON_UVICORN = "FastAPI, SQLAlchemy + asyncpg, uvicorn"
WORK = {"GET student by id": 1.2, "POST student": 1.0}
"""What is measured, and the target: so many times the best of the others on Hypercorn."""

VERSIONS = ("quart", "hypercorn", "psycopg", "pydantic", "uvloop", "fastapi", "sqlalchemy", "asyncpg", "uvicorn")


@dataclass(frozen=True, slots=True)
class Plan:
    """How it is measured."""

    rounds: int
    seconds: float
    warm_up: float
    connections: int
    pool: int


def candidates(database_url: str, pool: int) -> list[tuple[Candidate, int]]:
    """Each with the port that it serves on."""
    return [
        *(_ours(name, database_url, pool, free_port(), more) for name, more in _VARIANTS.items()),
        *(
            _fastapi(name, f"postgresql+{driver}", database_url, pool, free_port(), server)
            for name, driver, server in (
                (ON_HYPERCORN[0], "asyncpg", "hypercorn"),
                (ON_HYPERCORN[1], "psycopg", "hypercorn"),
                (ON_UVICORN, "asyncpg", "uvicorn"),
            )
        ),
    ]


_VARIANTS: Mapping[str, Mapping[str, str]] = {OURS: {}, UNLOGGED: {"APP_LOG__LEVEL": "warning"}}


def _ours(name: str, database_url: str, pool: int, port: int, more: Mapping[str, str]) -> tuple[Candidate, int]:
    settings = {
        "APP_DATABASE__URL": database_url,
        "APP_DATABASE__POOL_MIN_SIZE": str(pool),
        "APP_DATABASE__POOL_MAX_SIZE": str(pool),
        "APP_API__BIND": f"127.0.0.1:{port}",
        "APP_OPS__BIND": "127.0.0.1:0",
        "APP_CONSOLE": "json",
        **more,
    }
    return Candidate(name=name, arguments=[APP, "--roles", "api"], environment=settings), port


def _fastapi(name: str, scheme: str, database_url: str, pool: int, port: int, server: str) -> tuple[Candidate, int]:
    app = "bench.peers.fastapi_app:app"
    arguments = {
        # Without workers it serves in this very process.
        "hypercorn": ["--worker-class", "uvloop", "--workers", "0", "--bind", f"127.0.0.1:{port}"],
        "uvicorn": ["--loop", "uvloop", "--http", "httptools", "--port", str(port), "--no-access-log"],
    }[server]
    url = database_url.replace("postgresql", scheme, 1)
    environment = {"DATABASE_URL": url, "POOL_SIZE": str(pool)}
    return Candidate(name=name, arguments=["-m", server, *arguments, app], environment=environment), port


async def measure(candidate: Candidate, port: int, directory: Path, plan: Plan) -> dict[str, Result]:
    """Starts a candidate, sees that it does the work, and then how fast."""
    reads = [get(f"{PATH}/{number}") for number in range(1, STUDENTS + 1)]
    writes = [post(PATH, json.dumps({"name": f"Student {number}"}).encode()) for number in range(STUDENTS)]
    results = {}
    async with running(candidate, directory) as program:
        await program.answers(f"http://127.0.0.1:{port}{PATH}/1")
        await verify(f"http://127.0.0.1:{port}{PATH}")
        for work, requests, status in zip(WORK, (reads, writes), (200, 201), strict=True):
            load = partial(drive, port, requests, status=status, connections=plan.connections)
            await load(seconds=plan.warm_up)
            before = program.cpu_seconds()
            outcome = await load(seconds=plan.seconds)
            spent = program.cpu_seconds() - before
            results[work] = Result(outcome.rate, spent / outcome.answered * 1e6)
    return results


async def verify(url: str) -> None:
    """Raises if it does not validate what it gets, store it, and answer with all of it."""
    async with httpx.AsyncClient(trust_env=False, timeout=10) as client:
        made = await client.post(url, json={"name": "Ada Lovelace"})
        found = await client.get(f"{url}/{made.json()['id']}")
        refused = await client.post(url, json={"name": ""})
        missing = await client.get(f"{url}/2000000000")
    expected = {"id", "name", "active", "created_at", "updated_at"}
    answers = [answer.status_code for answer in (made, found, refused, missing)]
    if answers != [201, 200, 422, 404] or found.json() != made.json() or not expected <= found.json().keys():
        raise RuntimeError(f"{url} answered {answers}, and with {found.text}")


async def ceiling(directory: Path, plan: Plan) -> Outcome:
    """What the load generator reaches with a server that does nothing."""
    port = free_port()
    bare = Candidate(name="bare", arguments=["-m", "bench.peers.bare", str(port)])
    async with running(bare, directory) as program:
        await program.answers(f"http://127.0.0.1:{port}/")
        return await drive(port, [get("/")], status=200, connections=plan.connections, seconds=2)


cli = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


async def bench(plan: Plan) -> None:
    use_other_cores()
    results: dict[str, dict[str, list[Result]]] = defaultdict(lambda: defaultdict(list))
    async with services(broker=False) as places:
        async with await psycopg.AsyncConnection.connect(places.database_url) as connection:
            await connection.execute(
                "INSERT INTO student (name) SELECT 'Student ' || n FROM generate_series(1, %s) n", [STUDENTS]
            )
        most = await ceiling(places.directory, plan)
        print(f"The load generator reaches {most.rate:,.0f} requests/s with a server that does nothing.", flush=True)
        everyone = candidates(places.database_url, plan.pool)
        for number in range(plan.rounds):
            first = number % len(everyone)
            for candidate, port in everyone[first:] + everyone[:first]:
                for work, result in (await measure(candidate, port, places.directory, plan)).items():
                    results[work][candidate.name].append(result)
                    print(f"round {number + 1}: {work}: {candidate.name}: {result.rate:,.0f}/s", flush=True)
    for work, found in results.items():
        best = min(ON_HYPERCORN, key=lambda name: faster(found[OURS], found[name]))
        print(f"\n{comparison(work, 'request', found)}\n")
        print(verdict(f"{work}, against {best}:", faster(found[OURS], found[best]), WORK[work], " ×"))
    print(f"\n{RATIOS}\n{circumstances('bench.http', VERSIONS)}\n{plan}")


@cli.command()
def main(
    rounds: Annotated[int, typer.Option(help="How often each candidate has its turn.")] = 3,
    seconds: Annotated[float, typer.Option(help="How long each kind of request is measured in a turn.")] = 4.0,
    warm_up: Annotated[float, typer.Option(help="Seconds of the same load before it counts.")] = 1.0,
    connections: Annotated[int, typer.Option(help="Requests in flight, each on a connection of its own.")] = 16,
    pool: Annotated[int, typer.Option(help="Connections to PostgreSQL.")] = 20,
) -> None:
    """Measure GET and POST of a student: Rolecall against FastAPI with SQLAlchemy."""
    plan = Plan(rounds, seconds, warm_up, connections, pool)
    anyio.run(bench, plan, backend_options={"use_uvloop": True})


if __name__ == "__main__":
    cli()
