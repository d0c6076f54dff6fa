"""A process as ops sees it: resources, roles as the supervisor would report them, and the server itself."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import anyio
import httpx

from db.pool import create_pool, current_pool
from roles.events import Failure
from roles.ops.role import OpsRole
from roles.resources import Resources
from roles.role import RoleStatus, State
from roles.tally import Tally
from schema.settings import Address, Database, Ops, Settings
from tests.fakes import FakeClock

SINCE = datetime(2026, 1, 1, tzinfo=UTC)


def role(name: str, state: State = State.RUNNING, error: str | None = None, **counts: int) -> RoleStatus:
    return RoleStatus(
        name=name,
        state=state,
        since=SINCE,
        restarts=1 if error else 0,
        last_error=error,
        failure=Failure.UNAVAILABLE if error else None,
        tally=Tally(**counts),
    )


@dataclass
class Process:
    resources: Resources
    clock: FakeClock
    client: httpx.AsyncClient
    roles: list[RoleStatus] = field(default_factory=lambda: [role("api"), role("ops")])
    draining: bool = False

    async def reasons(self) -> dict[str, str]:
        """Why it is not ready: by check."""
        answer = await self.client.get("/health/ready")
        body = answer.json()
        assert answer.status_code == (200 if body["ready"] else 503)
        return {check["name"]: check["reason"] for check in body["checks"] if not check["ok"]}


@asynccontextmanager
async def process(database_url: str, **ops: Any) -> AsyncIterator[Process]:
    """The ops role serving on a free port."""
    bind = ops.pop("bind", Address(f"127.0.0.1:{free_port()}"))
    settings = Settings(ops=Ops(bind=bind, **ops))
    pool = create_pool(database_url, Database(pool_min_size=1, pool_max_size=2))
    clock = FakeClock()
    resources = Resources(settings=settings, pool=pool, amqp_urls={}, clock=clock)
    token = current_pool.set(pool)
    stop = anyio.Event()
    async with httpx.AsyncClient(base_url=f"http://{bind}", trust_env=False, timeout=10) as client:
        it = Process(resources, clock, client)
        served = OpsRole(resources, snapshot=lambda: tuple(it.roles), draining=lambda: it.draining)
        async with anyio.create_task_group() as group:
            await pool.open()
            await group.start(lambda *, task_status: served.run(task_status=task_status, stop=stop))
            yield it
            await client.aclose()
            stop.set()
    await pool.close(timeout=0.5)
    current_pool.reset(token)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port
