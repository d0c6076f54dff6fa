"""The api role."""

from __future__ import annotations

import anyio
import structlog
from anyio.abc import TaskStatus
from hypercorn.middleware import ProxyFixMiddleware

from roles.api.app import create_app
from roles.api.guard import ensure_guarded
from roles.resources import Resources
from roles.web.descriptors import make_room
from roles.web.listener import address_of, listen
from roles.web.patience import Patience
from roles.web.server import Certificate, server

SHUTDOWN_TIMEOUT = 2.0
"""Seconds that what routes have registered with `after_app_serving` has to end in."""

REQUEST_LINE = 128
"""Bytes of a request's first line beside the target, and to spare."""

log = structlog.get_logger(__name__)


class ApiRole:
    """Serves the HTTP API on `api.bind`."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources

    async def run(self, *, task_status: TaskStatus[None], stop: anyio.Event) -> None:
        """See `roles.role.Role`.

        Raises:
            ConfigurationError: the address of `api.bind` cannot be had, or is not to be had without `[auth]`; a route
                does not say who may call it; the server of `api.server` is not installed.
        """
        settings = self._resources.settings
        ensure_guarded(settings)
        serve = server(settings.api.server).serve
        app = create_app(settings, self._resources.clock)
        certificate = settings.api.tls_certificate
        tls = Certificate(certificate, settings.api.tls_key) if certificate else None
        listener = listen(settings.api.bind, setting="api.bind")
        self._resources.board.addresses["api"] = address_of(listener)
        log.info("api listening", url=f"{'https' if tls else 'http'}://{self._resources.board.addresses['api']}")
        with listener:
            await app.startup()
            try:
                await serve(
                    ProxyFixMiddleware(app, trusted_hops=hops) if (hops := settings.api.trusted_proxies) else app,
                    listener,
                    stop=stop,
                    tally=self._resources.board.tally("api"),
                    started=task_status.started,
                    patience=Patience(
                        connections=make_room(settings.api.max_connections),
                        keep_alive_timeout=settings.api.keep_alive_timeout,
                        headers_timeout=settings.api.headers_timeout,
                        headers_length=REQUEST_LINE
                        + settings.api.max_target_length
                        + settings.api.max_headers_length,
                    ),
                    tls=tls,
                )
            finally:
                with anyio.move_on_after(SHUTDOWN_TIMEOUT, shield=True):
                    await app.shutdown()
