"""The embedded servers that the settings ask for, and where all servers are, embedded or not."""

from __future__ import annotations

from datetime import timedelta
from functools import partial

from roles.embedded.postgres import Postgres
from roles.embedded.rabbitmq import RabbitMQ
from roles.role import RoleSpec, Stage
from schema.settings import EMBEDDED, Settings

START_TIMEOUT = timedelta(minutes=5)
"""The first start makes a cluster, or has to unpack a server."""


class Servers:
    """What this process has to run itself, and the URLs that the rest of it connects to.

    Params:
        broker: whether anything in this process talks to a broker; if not, none is run.
    """

    def __init__(self, settings: Settings, *, broker: bool) -> None:
        database = settings.database.url.get_secret_value()
        brokers = {name: each.url.get_secret_value() for name, each in settings.amqp.items()}
        self.postgres = Postgres(settings.embedded.directory) if database == EMBEDDED else None
        self.rabbitmq = RabbitMQ(settings.embedded.directory) if broker and EMBEDDED in brokers.values() else None
        self.database_url = self.postgres.url if self.postgres else database
        self.amqp_urls = {
            name: self.rabbitmq.url if self.rabbitmq and url == EMBEDDED else url for name, url in brokers.items()
        }

    def specs(self) -> list[RoleSpec]:
        """The servers as roles, named `postgres` and `rabbitmq`."""
        postgres, rabbitmq = self.postgres, self.rabbitmq
        spec = partial(RoleSpec, stage=Stage.PLATFORM, start_timeout=START_TIMEOUT)
        specs = []
        if postgres:
            specs.append(spec(name="postgres", build=lambda: postgres))
        if rabbitmq:
            specs.append(spec(name="rabbitmq", build=lambda: rabbitmq))
        return specs
