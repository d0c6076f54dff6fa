"""The timezone service: https://worldtimeapi.org, or one that answers like it."""

from __future__ import annotations

from dataclasses import dataclass

import httpx

from clients.service import Service, path
from schema.timezone import Timezone


@dataclass(frozen=True, slots=True)
class TimezoneClient:
    """Asks the timezone service."""

    service: Service

    async def get(self, area: str, city: str) -> Timezone | None:
        """The timezone and the time in it; None if the service knows of no such timezone.

        Raises:
            UpstreamError: the service failed us; see `clients.errors`.
            ValueError: `area` or `city` cannot be a part of a name.
        """
        response = await self.service.call("GET", path("api", "timezone", area, city))
        if response.status_code == httpx.codes.NOT_FOUND:
            return None
        return self.service.decode(response, Timezone)
