"""The embedded servers that the settings ask for, and where all servers are, embedded or not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

import anyio

from roles.embedded.claim import is_claimed_elsewhere
from roles.embedded.postgres import Postgres
from roles.embedded.rabbitmq import RabbitMQ
from roles.role import RoleSpec, Stage
from schema.errors import ConfigurationError
from schema.settings import EMBEDDED, Settings

START_TIMEOUT = timedelta(minutes=5)
"""The first start makes a cluster, or has to unpack a server."""


class Servers:
    """What this process has to run itself, and the URLs that the rest of it connects to."""

    def __init__(self, settings: Settings) -> None:
        database = settings.database.url.get_secret_value()
        brokers = {name: each.url.get_secret_value() for name, each in settings.amqp.items()}
        directory = settings.embedded.directory
        try:
            if database == EMBEDDED:
                directory.mkdir(parents=True, exist_ok=True)
            self.postgres = Postgres(directory) if database == EMBEDDED else None
            self.rabbitmq = RabbitMQ(directory) if EMBEDDED in brokers.values() else None
        except OSError as error:
            raise ConfigurationError(
                f"embedded.directory = {str(directory)!r} cannot be used: {error.strerror}: {error.filename}: choose "
                "another, or set database.url and amqp.<name>.url to servers of yours"
            ) from error
        self.database_url = self.postgres.url if self.postgres else database
        self.amqp_urls = {
            name: self.rabbitmq.url if self.rabbitmq and url == EMBEDDED else url for name, url in brokers.items()
        }

    def places(self) -> dict[str, str]:
        """What a person needs to look into the embedded ones: a shell command, the management page, its login."""
        found = {"psql": self.postgres.psql_line} if self.postgres else {}
        if node := self.rabbitmq:
            found |= {"management": node.management_url, "user": node.user, "password": node.password}
        return found

    def environment(self) -> dict[str, str]:
        """The URLs as settings for another process that is to use these servers."""
        brokers = {f"APP_AMQP__{name.upper()}__URL": url for name, url in self.amqp_urls.items()}
        return {"APP_DATABASE__URL": self.database_url, **brokers}

    def specs(self) -> list[RoleSpec]:
        """The servers as roles, named `postgres` and `rabbitmq`."""
        # A restart gets the same objects: they hold nothing but where things are, and that must not change.
        postgres, rabbitmq = self.postgres, self.rabbitmq
        spec = partial(RoleSpec, stage=Stage.PLATFORM, start_timeout=START_TIMEOUT)
        specs = []
        if postgres:
            specs.append(spec(name="postgres", build=lambda: postgres))
        if rabbitmq:
            specs.append(spec(name="rabbitmq", build=lambda: rabbitmq))
        return specs


@asynccontextmanager
async def running_database(settings: Settings) -> AsyncIterator[str]:
    """The URL of the database; an embedded server that no process runs is run for as long as the block lasts."""
    url = settings.database.url.get_secret_value()
    if url != EMBEDDED:
        yield url
        return
    postgres = Postgres(settings.embedded.directory)
    data = settings.embedded.directory / "postgres"
    if data.exists() and is_claimed_elsewhere(data):
        yield postgres.url
        return
    async with _running(postgres):
        yield postgres.url


@dataclass(frozen=True, slots=True)
class BrokerPlace:
    """Where a broker is."""

    url: str
    management_url: str
    """Empty if it is not known; without a user, that of `url`."""


@asynccontextmanager
async def running_brokers(settings: Settings) -> AsyncIterator[dict[str, BrokerPlace]]:
    """Where each broker is, by name; an embedded one that no process runs is run for as long as the block lasts."""
    configured = {
        name: BrokerPlace(each.url.get_secret_value(), each.management_url.get_secret_value())
        for name, each in settings.amqp.items()
    }
    if all(place.url != EMBEDDED for place in configured.values()):
        yield configured
        return
    node = RabbitMQ(settings.embedded.directory)
    ours = BrokerPlace(node.url, node.management_url)
    places = {name: ours if place.url == EMBEDDED else place for name, place in configured.items()}
    if is_claimed_elsewhere(settings.embedded.directory.resolve() / "rabbitmq"):
        yield places
        return
    async with _running(node):
        yield places


@asynccontextmanager
async def _running(server: Postgres | RabbitMQ) -> AsyncIterator[None]:
    stop = anyio.Event()
    async with anyio.create_task_group() as group:
        await group.start(partial(server.run, stop=stop))
        yield
        stop.set()
