"""The `database` role: opens the pool, brings the schema to head or waits for it, closes the pool at the end."""

from __future__ import annotations

import anyio
from anyio.abc import TaskStatus

from db.schema_version import behind, upgrade
from roles.resources import Resources
from schema.errors import DependencyUnavailable

CLOSE_TIMEOUT = 3.0
"""Seconds in which the pool's connections say goodbye."""


class DatabaseRole:
    """Runs once the schema is at head. Consumers and jobs wait for it: on an older schema each message would fail.

    Params:
        migrate: whether to bring the schema to head here, or to wait until somebody has done it.
    """

    def __init__(self, resources: Resources, *, url: str, migrate: bool) -> None:
        self._pool = resources.pool
        self._url = url
        self._migrate = migrate

    async def run(self, *, task_status: TaskStatus[None], stop: anyio.Event) -> None:
        """Serves by being there.

        Raises:
            DependencyUnavailable: the database is away, or behind and not ours to migrate.
        """
        await self._pool.open()
        if self._migrate:
            await upgrade(self._url)
        if problem := await behind():
            raise DependencyUnavailable(problem)
        task_status.started()
        await stop.wait()
        await self._pool.close(CLOSE_TIMEOUT)
