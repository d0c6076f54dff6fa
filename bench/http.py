"""GET and POST of a student: Rolecall's API against FastAPI with SQLAlchemy, on the same server and PostgreSQL.

`python -m bench.http --help` says what can be varied. Rolecall runs as `app.py --roles api` with its defaults: ops
port, watchdog, request ids, a JSON record per request that is written to a pipe and read by this process, the event
of each new student, which its relay sends to RabbitMQ meanwhile, and a rate limit, which no request reaches.

- The others write no log of requests, so a second row has Rolecall without it (`log.level=warning`).
- In a third row it does more: it wants an API key, and each POST has an `Idempotency-Key` of its own.
- In a fourth row Granian serves it (`api.server`), and it does the same as in the first.
"""

from __future__ import annotations

import json
import os
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import count, cycle, repeat
from pathlib import Path
from typing import Annotated

import anyio
import httpx
import psycopg
import typer

from bench.load import Outcome, drive, get, post
from bench.program import APP, Candidate, free_port, running, use_other_cores
from bench.report import RATIOS, Result, circumstances, comparison, faster, verdict
from bench.services import Services, services
from roles.amqp import Broker
from schema.settings import Settings
from schema.students import STUDENT_CREATED

STUDENTS = 1000
"""How many there are to read."""

PATH = "/api/v1/students"
RATE_LIMIT = "1000000/1s"
EVENTS = "bench.events"
"""The queue that gets the events of our students; the broker drops the oldest."""
OURS, UNLOGGED, GUARDED = "Rolecall", "Rolecall, requests not logged", "Rolecall, API key, Idempotency-Key"
FAST = "Rolecall on Granian"
ON_HYPERCORN = ("FastAPI, SQLAlchemy + asyncpg, Hypercorn", "FastAPI, SQLAlchemy + psycopg, Hypercorn")
ON_UVICORN = "FastAPI, SQLAlchemy + asyncpg, uvicorn"
READ, WRITE = "GET student by id", "POST student"
TARGETS = [(READ, OURS, 1.2), (READ, FAST, 1.8), (WRITE, OURS, 1.0), (WRITE, GUARDED, 1.0)]
"""So many times the best of the others on Hypercorn."""

VERSIONS = (
    "quart",
    "hypercorn",
    "granian",
    "psycopg",
    "pydantic",
    "uvloop",
    "fastapi",
    "sqlalchemy",
    "asyncpg",
    "uvicorn",
)


@dataclass(frozen=True, slots=True)
class Plan:
    """How it is measured."""

    rounds: int
    seconds: float
    warm_up: float
    connections: int
    pool: int


@dataclass(frozen=True, slots=True)
class Contender:
    """A candidate, and how to ask it."""

    candidate: Candidate
    port: int
    key: str = ""
    """The API key that it wants; then it wants an `Idempotency-Key` with each POST as well."""

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"} if self.key else {}

    def reads(self) -> Iterator[bytes]:
        return cycle([get(f"{PATH}/{number}", self.headers) for number in range(1, STUDENTS + 1)])

    def writes(self) -> Iterator[bytes]:
        bodies = [json.dumps({"name": f"Student {number}"}).encode() for number in range(STUDENTS)]
        if not self.key:
            return cycle([post(PATH, body) for body in bodies])
        heads = (self.headers | {"Idempotency-Key": f"{self.port}-{number}"} for number in count())
        return (post(PATH, body, head) for body, head in zip(cycle(bodies), heads, strict=False))


def contenders(places: Services, pool: int, key: str) -> list[Contender]:
    return [
        _ours(OURS, places, pool),
        _ours(UNLOGGED, places, pool, APP_LOG__LEVEL="warning"),
        _ours(GUARDED, places, pool, key=key, APP_AUTH__MODE="api_key"),
        _ours(FAST, places, pool, APP_API__SERVER="granian"),
        _fastapi(ON_HYPERCORN[0], "postgresql+asyncpg", places.database_url, pool, "hypercorn"),
        _fastapi(ON_HYPERCORN[1], "postgresql+psycopg", places.database_url, pool, "hypercorn"),
        _fastapi(ON_UVICORN, "postgresql+asyncpg", places.database_url, pool, "uvicorn"),
    ]


def _ours(name: str, places: Services, pool: int, *, key: str = "", **more: str) -> Contender:
    port = free_port()
    settings = places.settings(
        APP_DATABASE__POOL_MIN_SIZE=str(pool),
        APP_DATABASE__POOL_MAX_SIZE=str(pool),
        APP_API__BIND=f"127.0.0.1:{port}",
        APP_API__RATE_LIMIT=RATE_LIMIT,
        APP_OPS__BIND="127.0.0.1:0",
        APP_CONSOLE="json",
        **more,
    )
    return Contender(Candidate(name=name, arguments=[APP, "--roles", "api"], environment=settings), port, key)


def _fastapi(name: str, scheme: str, database_url: str, pool: int, server: str) -> Contender:
    port = free_port()
    app = "bench.peers.fastapi_app:app"
    arguments = {
        # Without workers it serves in this very process.
        "hypercorn": ["--worker-class", "uvloop", "--workers", "0", "--bind", f"127.0.0.1:{port}"],
        "uvicorn": ["--loop", "uvloop", "--http", "httptools", "--port", str(port), "--no-access-log"],
    }[server]
    url = database_url.replace("postgresql", scheme, 1)
    environment = {"DATABASE_URL": url, "POOL_SIZE": str(pool)}
    candidate = Candidate(name=name, arguments=["-m", server, *arguments, app], environment=environment)
    return Contender(candidate, port)


async def measure(contender: Contender, directory: Path, plan: Plan) -> dict[str, Result]:
    """Starts a candidate, sees that it does the work, and then how fast."""
    url = f"http://127.0.0.1:{contender.port}{PATH}"
    results = {}
    async with running(contender.candidate, directory) as program:
        await program.answers(f"{url}/1", headers=contender.headers)
        await verify(url, contender.headers)
        for work, requests, status in ((READ, contender.reads(), 200), (WRITE, contender.writes(), 201)):
            load = partial(drive, contender.port, requests, status=status, connections=plan.connections)
            await load(seconds=plan.warm_up)
            before = program.cpu_seconds()
            outcome = await load(seconds=plan.seconds)
            spent = program.cpu_seconds() - before
            results[work] = Result(outcome.rate, spent / outcome.answered * 1e6)
    return results


async def verify(url: str, headers: Mapping[str, str]) -> None:
    """Raises if it does not validate what it gets, store it, and answer with all of it."""
    async with httpx.AsyncClient(trust_env=False, timeout=10, headers=headers) as client:
        made = await client.post(url, json={"name": "Ada Lovelace"})
        found = await client.get(f"{url}/{made.json()['id']}")
        refused = await client.post(url, json={"name": ""})
        missing = await client.get(f"{url}/2000000000")
    expected = {"id", "name", "active", "created_at", "updated_at"}
    answers = [answer.status_code for answer in (made, found, refused, missing)]
    if answers != [201, 200, 422, 404] or found.json() != made.json() or not expected <= found.json().keys():
        raise RuntimeError(f"{url} answered {answers}, and with {found.text}")


async def hear_events(url: str) -> None:
    """Binds a queue to the topic of the events: one that no queue takes would wait in the outbox."""
    broker = Broker("example", url, Settings().amqp["example"])
    channel = await broker.channel("publish")
    await channel.declare_exchange(STUDENT_CREATED.exchange, STUDENT_CREATED.exchange_type)
    await channel.declare_queue(EVENTS, {"x-max-length": STUDENTS})
    await channel.bind(EVENTS, exchange=STUDENT_CREATED.exchange, routing_key=STUDENT_CREATED.routing_key)
    await broker.aclose()


async def api_key(places: Services) -> str:
    """Makes a key that may do all that is measured."""
    scopes = ("--scope", "students:read", "--scope", "students:write")
    made = await anyio.run_process(
        [sys.executable, APP, "keys", "create", "bench", *scopes],
        env={**os.environ, **places.settings(APP_AUTH__MODE="api_key")},
        cwd=places.directory,
        stderr=None,
    )
    return made.stdout.decode().strip()


async def ceiling(directory: Path, plan: Plan) -> Outcome:
    """What the load generator reaches with a server that does nothing."""
    port = free_port()
    bare = Candidate(name="bare", arguments=["-m", "bench.peers.bare", str(port)])
    async with running(bare, directory) as program:
        await program.answers(f"http://127.0.0.1:{port}/")
        return await drive(port, repeat(get("/")), status=200, connections=plan.connections, seconds=2)


cli = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


async def bench(plan: Plan) -> None:
    use_other_cores()
    results: dict[str, dict[str, list[Result]]] = defaultdict(lambda: defaultdict(list))
    async with services(broker=True) as places:
        async with await psycopg.AsyncConnection.connect(places.database_url) as connection:
            await connection.execute(
                "INSERT INTO student (name) SELECT 'Student ' || n FROM generate_series(1, %s) n", [STUDENTS]
            )
        await hear_events(places.amqp_url)
        most = await ceiling(places.directory, plan)
        print(f"The load generator reaches {most.rate:,.0f} requests/s with a server that does nothing.", flush=True)
        everyone = contenders(places, plan.pool, await api_key(places))
        for number in range(plan.rounds):
            first = number % len(everyone)
            for contender in everyone[first:] + everyone[:first]:
                name = contender.candidate.name
                for work, result in (await measure(contender, places.directory, plan)).items():
                    results[work][name].append(result)
                    print(f"round {number + 1}: {work}: {name}: {result.rate:,.0f}/s", flush=True)
    for work, found in results.items():
        print(f"\n{comparison(work, 'request', found)}\n")
    for work, name, target in TARGETS:
        found = results[work]
        best = min(ON_HYPERCORN, key=lambda theirs: faster(found[name], found[theirs]))
        print(verdict(f"{work}: {name}, against {best}:", faster(found[name], found[best]), target, " ×"))
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
