"""Real servers for the tests, private to one pytest process and started when first asked for."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit
from uuid import uuid4

import anyio
import httpx
import psycopg
from anyio.abc import TaskStatus
from anyio.from_thread import start_blocking_portal
from psycopg import sql

from db.schema_version import upgrade
from roles.embedded.postgres import Postgres
from roles.embedded.rabbitmq import RabbitMQ
from roles.role import Role

SOURCES = Path(__file__).parent.parent / ".local"
"""Where a RabbitMQ that had to be unpacked is kept: beside that of `make run`."""

START_SECONDS = 120.0
"""How long a node may take to start."""

TEMPLATE = "rolecall"
"""Migrated once; each test's database is a copy."""


@contextmanager
def running(role: Role) -> Iterator[None]:
    """Runs a role in a thread of its own, from when it has started until the block ends."""

    async def run(*, task_status: TaskStatus[anyio.Event]) -> None:
        stop = anyio.Event()

        class Forward(TaskStatus[None]):
            def started(self, value: None = None) -> None:
                task_status.started(stop)

        await role.run(task_status=Forward(), stop=stop)

    with start_blocking_portal(backend_options={"use_uvloop": True}) as portal:
        ended, stop = portal.start_task(run)
        yield
        portal.call(stop.set)
        ended.result(timeout=60)


class PostgresServer:
    """A server with a migrated template, and without what only power cuts are to be feared for."""

    def __init__(self, server: Postgres) -> None:
        self.server = server
        anyio.run(upgrade, server.url)
        self._admin = psycopg.connect(self._url("postgres"), autocommit=True)
        self._admin.execute("ALTER SYSTEM SET fsync = off")
        self._admin.execute("SELECT pg_reload_conf()")

    def close(self) -> None:
        self._admin.close()

    @contextmanager
    def database(self) -> Iterator[str]:
        """The URL of a fresh copy of the template. Of its files: through the log it takes half as long again."""
        name = f"test_{uuid4().hex[:12]}"
        copy = sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY")
        self._admin.execute(copy.format(sql.Identifier(name), sql.Identifier(TEMPLATE)))
        yield self._url(name)
        self._admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    def _url(self, database: str) -> str:
        return self.server.url.replace(f"/{TEMPLATE}?", f"/{database}?")


@dataclass(frozen=True)
class GivenNode:
    """A RabbitMQ that somebody else runs, at `TEST_AMQP_URL` and `TEST_AMQP_MANAGEMENT_URL`."""

    url: str
    management_url: str

    @classmethod
    def from_environment(cls) -> GivenNode | None:
        """The node that the environment names; None if it names none."""
        url = os.environ.get("TEST_AMQP_URL")
        if not url:
            return None
        management = os.environ.get("TEST_AMQP_MANAGEMENT_URL") or f"http://{urlsplit(url).hostname}:15672"
        return cls(url, management.rstrip("/") + "/")

    @property
    def user(self) -> str:
        return unquote(urlsplit(self.url).username or "guest")

    @property
    def password(self) -> str:
        return unquote(urlsplit(self.url).password or "guest")


class RabbitServer:
    """A node with its management API."""

    def __init__(self, node: RabbitMQ | GivenNode) -> None:
        self.node = node
        self.api = httpx.Client(
            base_url=f"{node.management_url}api", auth=(node.user, node.password), timeout=20, trust_env=False
        )

    def wait(self) -> None:
        """Returns when the node lets us in: it may be about to start."""
        address = urlsplit(self.node.url)
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                self.api.get("/overview").raise_for_status()
                socket.create_connection((address.hostname or "localhost", address.port or 5672)).close()
            except (httpx.HTTPError, OSError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)  # noqa: TID251 - what is waited for is another process
            else:
                return

    @contextmanager
    def vhost(self) -> Iterator[str]:
        """The URL of a fresh virtual host; who makes one may do everything in it."""
        name = f"test-{uuid4().hex[:12]}"
        self.api.put(f"/vhosts/{name}").raise_for_status()
        yield urlsplit(self.node.url)._replace(path=f"/{name}").geturl()
        self.api.delete(f"/vhosts/{name}").raise_for_status()
