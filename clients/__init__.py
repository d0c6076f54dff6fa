"""Typed clients of other services, over one shared HTTP client.

```
async with open_clients(settings.clients):               # the composition root, once
    …
    await clients().timezone.get("Europe", "Moscow")     # routes, handlers and jobs, anywhere inside
```
A new client is a module beside `clients.timezone`, a section in the settings, and two lines here. What goes wrong
with a service is one of `clients.errors`.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from clients.http import open_http_client
from clients.jwks import JwksClient
from clients.service import Service
from clients.timezone import TimezoneClient
from schema import settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Clients:
    """All of them, open."""

    jwks: JwksClient
    timezone: TimezoneClient


_current: ContextVar[Clients] = ContextVar("clients")


@asynccontextmanager
async def open_clients(sections: settings.Clients, *, trust: ssl.SSLContext | None = None) -> AsyncIterator[None]:
    """Opens the clients for this task, and for all that it starts inside the block.

    Params:
        trust: whom to trust, if not the usual authorities.
    """
    async with open_http_client(trust=trust) as http:
        token = _current.set(
            Clients(
                jwks=JwksClient(Service("jwks", sections.jwks, http)),
                timezone=TimezoneClient(
                    Service("timezone", sections.timezone, http),
                    lifetime=sections.timezone.lifetime,
                    stale_for=sections.timezone.stale_for,
                ),
            )
        )
        try:
            yield
        finally:
            _current.reset(token)


def clients() -> Clients:
    """The clients that are open here."""
    return _current.get()
