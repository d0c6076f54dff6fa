"""What `python app.py check` verifies: all that can be known to be wrong before the application is started."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import typer

from db.pool import create_pool, current_pool
from db.schema_version import behind
from roles.amqp import Broker
from roles.api.app import create_app
from roles.api.guard import ensure_guarded
from roles.consume.handlers import CONSUMERS
from roles.consume.validation import validate as validate_consumers
from roles.embedded.postgres import find_programs
from roles.logs import configure
from roles.schedule.declarations import validate as validate_jobs
from roles.schedule.jobs import JOBS
from roles.schedule.jobs.pruning import BUILT_IN
from roles.web.server import server
from schema.errors import ConfigurationError, DependencyUnavailable
from schema.settings import EMBEDDED, Amqp, Settings
from schema.topics import TOPICS
from schema.topics import validate as validate_topics

Look = Callable[[], Coroutine[Any, Any, str]]
"""Returns what was found to be good; raises what has to be changed, a line for each finding."""


API_CONNECTIONS = 5
"""What requests should find free in the pool."""


class Doubtful(Exception):
    """It works, and is not as it should be; a line for each finding."""


async def check_all(settings: Settings) -> int:
    """Prints a line per finding: `ok`, `warn` or `bad`, what was looked at, and what was found.

    Returns:
        The exit code: 0, or 2 if anything is bad.
    """
    configure("plain", "critical")  # what a library logs about a failure is in the finding
    looks: dict[str, Look] = {
        "routes": partial(_routes, settings),
        "callers": partial(_callers, settings),
        "consumers": partial(_consumers, settings),
        "jobs": _jobs,
        "topics": partial(_topics, settings),
        "pool": partial(_pool, settings),
        "database": partial(_database, settings),
        **{f"amqp.{name}": partial(_broker, name, broker) for name, broker in settings.amqp.items()},
    }
    bad = False
    for subject, look in looks.items():
        try:
            typer.echo(f"ok   {subject}: {await look()}")
        except Doubtful as error:
            for line in str(error).splitlines():
                typer.echo(f"warn {subject}: {line}")
        except (ConfigurationError, DependencyUnavailable) as error:
            bad = True
            for line in str(error).splitlines():
                typer.echo(f"bad  {subject}: {line}")
    return 2 if bad else 0


async def _routes(settings: Settings) -> str:
    rules = [rule for rule in create_app(settings).url_map.iter_rules() if rule.rule.startswith("/api/")]
    server(settings.api.server)
    return f"{len(rules)} declared, to be served by {settings.api.server}"


async def _callers(settings: Settings) -> str:
    ensure_guarded(settings)
    mode = settings.auth.mode
    return f'auth.mode = "{mode}"' + (", so everybody may do everything" if mode == "none" else "")


async def _consumers(settings: Settings) -> str:
    validate_consumers(CONSUMERS, settings)
    return f"{len(CONSUMERS)} declared"


async def _jobs() -> str:
    validate_jobs(JOBS, built_in=BUILT_IN)
    return f"{len(JOBS)} declared"


async def _topics(settings: Settings) -> str:
    validate_topics(TOPICS, settings)
    kinds = {(each.broker, each.exchange): each for each in CONSUMERS if each.exchange}
    findings = [
        f"topic {topic.name}: exchange {topic.exchange!r} is of type {topic.exchange_type!r} here and "
        f"{other.exchange_type!r} for consumer {other.queue}"
        for topic in TOPICS
        if (other := kinds.get((topic.broker, topic.exchange))) and other.exchange_type != topic.exchange_type
    ]
    if findings:
        raise ConfigurationError("\n".join(findings))
    return f"{len(TOPICS)} declared"


async def _pool(settings: Settings) -> str:
    """Compares what may be at work at a time with the connections that there are."""
    needs = {
        "consumers": sum(each.concurrency for each in CONSUMERS if each.transaction),
        "schedule.concurrency": settings.schedule.concurrency,
        "requests": API_CONNECTIONS,
    }
    roles = {"consumers": "consume", "schedule.concurrency": "schedule", "requests": "api"}
    needs = {name: need for name, need in needs.items() if roles[name] in settings.roles}
    if settings.amqp:
        needs["the relay"] = len(settings.amqp)
    total, size = sum(needs.values()), settings.database.pool_max_size
    parts = " + ".join(f"{need} for {name}" for name, need in needs.items())
    if total > size:
        raise Doubtful(
            f"up to {total} connections may be wanted at a time ({parts}), and database.pool_max_size is {size}: "
            "raise it, or lower what runs at a time; else some wait, for database.pool_timeout at the most"
        )
    return f"up to {total} of database.pool_max_size = {size} connections are wanted at a time"


async def _database(settings: Settings) -> str:
    url = settings.database.url.get_secret_value()
    if url == EMBEDDED:
        find_programs()
        return "embedded: it is started and migrated with the application"
    async with create_pool(url, settings.database) as pool:
        current_pool.set(pool)
        if problem := await behind():
            raise ConfigurationError(problem)
    return "reachable, its schema is at head"


async def _broker(name: str, settings: Amqp) -> str:
    url = settings.url.get_secret_value()
    if url == EMBEDDED:
        return "embedded: it is started with the application"
    broker = Broker(name, url, settings)
    try:
        await broker.channel("publish")
    finally:
        await broker.aclose()
    return "reachable"
