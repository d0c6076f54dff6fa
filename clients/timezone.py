"""The timezone service: https://worldtimeapi.org, or one that answers like it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import httpx

from clients.cache import cache
from clients.errors import UpstreamError
from clients.service import Service, path
from schema.timezone import Timezone


@dataclass(frozen=True, slots=True)
class TimezoneClient:
    """Asks the timezone service, and remembers its answers.

    Params:
        lifetime: how old an answer may be.
        stale_for: how much older, while the service fails.
    """

    service: Service
    lifetime: timedelta
    stale_for: timedelta

    async def get(self, area: str, city: str) -> Timezone | None:
        """The timezone and the time in it when the service was asked; None if the service knows of no such timezone.

        Raises:
            UpstreamError: the service failed us; see `clients.errors`.
            ValueError: `area` or `city` cannot be a part of a name.
        """
        where = path("api", "timezone", area, city)

        async def ask() -> Timezone | None:
            response = await self.service.call("GET", where)
            if response.status_code == httpx.codes.NOT_FOUND:
                return None
            return self.service.decode(response, Timezone)

        return await cache().fetch(
            f"timezone:{where}",
            Timezone,
            ask,
            lifetime=self.lifetime,
            stale_for=self.stale_for,
            stale_if=UpstreamError,
        )
