"""The `ops` role: health and status on a port of their own, in every process, whatever its other roles."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus

import anyio
import structlog
from anyio.abc import TaskStatus

from db.schema_version import behind
from roles.ops.app import OpsApp
from roles.ops.readiness import DatabaseProbe, readiness
from roles.ops.status import status
from roles.resources import Resources
from roles.role import RoleStatus
from roles.tally import Tally
from roles.web.listener import address_of, is_loopback, listen
from roles.web.server import server
from schema.status import Liveness, Readiness, Status

log = structlog.get_logger(__name__)


class OpsRole:
    """Answers probes until the end of the drain.

    Params:
        snapshot: all roles of this process, as the supervisor sees them.
        draining: whether the process is shutting down.
    """

    def __init__(
        self, resources: Resources, *, snapshot: Callable[[], tuple[RoleStatus, ...]], draining: Callable[[], bool]
    ) -> None:
        self._resources = resources
        self._snapshot = snapshot
        self._draining = draining
        self._database = DatabaseProbe(resources.settings.ops, resources.clock, behind=behind)

    async def run(self, *, task_status: TaskStatus[None], stop: anyio.Event) -> None:
        """Serves `roles.ops.app`.

        Raises:
            ConfigurationError: the address of `ops.bind` cannot be had.
        """
        settings = self._resources.settings.ops
        listener = listen(settings.bind, setting="ops.bind")
        self._resources.board.addresses["ops"] = address_of(listener)
        log.info("ops listening", url=f"http://{self._resources.board.addresses['ops']}")
        pages = {"/health/live": self._live, "/health/ready": self._ready, "/status": self._status}
        local = is_loopback(settings.bind, setting="ops.bind")
        app = OpsApp(pages, token=settings.token.get_secret_value(), local=local)
        serve = server("hypercorn").serve
        await serve(app, listener, stop=stop, tally=Tally(), started=task_status.started, log_requests=False)

    async def _live(self) -> tuple[HTTPStatus, Liveness]:
        return HTTPStatus.OK, Liveness()

    async def _ready(self) -> tuple[HTTPStatus, Readiness]:
        consumers = self._resources.board.consumers.values()
        answer = await readiness(self._snapshot(), consumers, self._database, draining=self._draining())
        return (HTTPStatus.OK if answer.ready else HTTPStatus.SERVICE_UNAVAILABLE), answer

    async def _status(self) -> tuple[HTTPStatus, Status]:
        return HTTPStatus.OK, status(self._resources, self._snapshot(), draining=self._draining())
