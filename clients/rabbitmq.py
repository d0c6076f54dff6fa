"""RabbitMQ's management API: what AMQP cannot ask a broker for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from urllib.parse import unquote, urlsplit

from clients.http import open_http_client
from clients.service import Model, Service, path
from schema.management import BindingListed, Bindings, ExchangeListed, Exchanges, QueueListed, Queues
from schema.settings import Client


@dataclass(frozen=True, slots=True)
class ManagementClient:
    """Asks about one virtual host."""

    service: Service
    vhost: str

    async def queues(self) -> list[QueueListed]:
        """All queues.

        Raises:
            UpstreamError: the service failed us; see `clients.errors`. So for all that it is asked.
        """
        return (await self._get("queues", Queues)).root

    async def exchanges(self) -> list[ExchangeListed]:
        """All exchanges, the broker's own included."""
        return (await self._get("exchanges", Exchanges)).root

    async def bindings(self) -> list[BindingListed]:
        """All bindings, those of the default exchange included."""
        return (await self._get("bindings", Bindings)).root

    async def _get(self, what: str, model: type[Model]) -> Model:
        return self.service.decode(await self.service.call("GET", path("api", what, self.vhost)), model)


@asynccontextmanager
async def open_management(
    url: str, *, amqp_url: str, vhost: str, within: timedelta
) -> AsyncIterator[ManagementClient]:
    """A client for the API at `url`, until the block ends. It logs in as `amqp_url` does, unless `url` says as whom.

    Params:
        within: the deadline of a call.
    """
    parts = urlsplit(url)
    login = parts if parts.username else urlsplit(amqp_url)
    base = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    async with open_http_client() as http:
        http.auth = (unquote(login.username or "guest"), unquote(login.password or "guest"))
        yield ManagementClient(Service("RabbitMQ management", Client(url=base, timeout=within), http), vhost)
