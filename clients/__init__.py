"""Typed clients of other services, over one shared HTTP client.

```
async with open_clients(settings.clients):           # the composition root, once
    …
    await timezone_client().get("Europe", "Moscow")  # routes, handlers and jobs, anywhere inside
```
A new client is a module beside `clients.timezone`, a section in the settings, and two lines here. What goes wrong
with a service is one of `clients.errors`.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar

from clients.http import open_http_client
from clients.service import Service
from clients.timezone import TimezoneClient
from schema import settings

_timezone: ContextVar[TimezoneClient] = ContextVar("timezone_client")


@asynccontextmanager
async def open_clients(clients: settings.Clients, *, trust: ssl.SSLContext | None = None) -> AsyncIterator[None]:
    """Opens the clients for this task, and for all that it starts inside the block.

    Params:
        trust: whom to trust, if not the usual authorities.
    """
    async with open_http_client(trust=trust) as http:
        token = _timezone.set(TimezoneClient(Service("timezone", clients.timezone, http)))
        try:
            yield
        finally:
            _timezone.reset(token)


def timezone_client() -> TimezoneClient:
    """The client of the timezone service."""
    return _timezone.get()
