"""The servers that every candidate uses: PostgreSQL and RabbitMQ, private to one run, in a temporary directory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio

from db.schema_version import upgrade
from roles.embedded.postgres import Postgres
from roles.embedded.rabbitmq import RabbitMQ

SOURCES = Path(__file__).parent.parent / ".local"
"""Where a RabbitMQ that had to be unpacked is kept: beside that of `make run`."""


@dataclass(frozen=True, slots=True)
class Services:
    """Where they are. The schema of the database is at head."""

    directory: Path
    """An empty one to run programs in: no `config.toml` or `.env` of the developer's is read."""
    database_url: str
    amqp_url: str

    def settings(self, **more: str) -> dict[str, str]:
        """The environment that points Rolecall at them."""
        return {"APP_DATABASE__URL": self.database_url, "APP_AMQP__EXAMPLE__URL": self.amqp_url, **more}


@asynccontextmanager
async def services(*, broker: bool) -> AsyncIterator[Services]:
    """Runs them until the block ends.

    Params:
        broker: whether RabbitMQ is wanted; without it, its URL leads nowhere.
    """
    with TemporaryDirectory(prefix="rolecall-bench-") as name:
        directory = Path(name)
        postgres = Postgres(directory / "services")
        rabbitmq = RabbitMQ(directory / "services", source_directory=SOURCES) if broker else None
        stop = anyio.Event()

        async def run(server: Postgres | RabbitMQ, *, task_status: anyio.abc.TaskStatus[None]) -> None:
            await server.run(task_status=task_status, stop=stop)

        async with anyio.create_task_group() as group:
            await group.start(run, postgres)
            if rabbitmq is not None:
                await group.start(run, rabbitmq)
            await upgrade(postgres.url)
            workplace = directory / "empty"
            workplace.mkdir()
            try:
                yield Services(workplace, postgres.url, rabbitmq.url if rabbitmq else "amqp://localhost:1/")
            finally:
                stop.set()
