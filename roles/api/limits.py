"""How often a caller may call: so many requests of one route in so much time, by default `api.rate_limit`.

```
@blueprint.post("")
@rate_limit(10, timedelta(minutes=1))       # from quart_rate_limiter: for this route, beside the default
```
A caller is who the guard already knows by its credentials, and otherwise an address (behind `api.trusted_proxies` the
one that they name): bad credentials count for the address that they come from. Counts are kept in the cache, so that
all processes count together if a Redis is there (`cache.url`); they are kept as the time at which the next request
would be in time if all came evenly (GCRA), one value for each caller and route. Replies say where a caller stands, in
`RateLimit-Limit`, `RateLimit-Remaining` and `RateLimit-Reset`.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, cast

from quart import current_app, request
from quart_rate_limiter import RateLimit, RateLimiter
from quart_rate_limiter.store import RateLimiterStoreABC

from clients.cache import cache
from roles.api.callers import ANYBODY, Unauthenticated
from roles.api.request import Request

if TYPE_CHECKING:
    from roles.api.app import Api


class CacheStore(RateLimiterStoreABC):
    """Keeps the limiter's times in the cache of the process, and asks it once a request.

    The limiter asks thrice: before it lets the request in, to count it, and for the headers of the reply.
    """

    async def get(self, key: str, default: datetime) -> datetime:
        known = cast("Request", request).next_in_time
        if key not in known:
            found = await cache().get(f"limit:{key}")
            known[key] = default if found is None else datetime.fromtimestamp(float(found), UTC)
        return known[key]

    async def set(self, key: str, tat: datetime) -> None:
        cast("Request", request).next_in_time[key] = tat
        left = tat - datetime.now(UTC)
        await cache().set(f"limit:{key}", f"{tat.timestamp():.6f}", lifetime=max(left, timedelta(milliseconds=1)))

    async def before_serving(self) -> None:
        """The cache is open before the API is."""

    async def after_serving(self) -> None:
        """And closed after it."""


def limit_rates(app: Api) -> None:
    """Counts the requests of each caller, and answers with 429 those that are too many."""
    rate = app.settings.api.rate_limit
    limits = [RateLimit(rate.count, rate.period)] if rate else []
    RateLimiter(app, key_function=_caller, store=CacheStore(), default_limits=limits)


async def _caller() -> str:
    """Asked three times a request. Who it is must not change when the guard has come to know the caller meanwhile."""
    current = cast("Request", request)
    if current.counted_as is None:
        try:
            known = cast("Api", current_app).guard.recall(current.sent.get(b"authorization"))
        except Unauthenticated:
            known = None
        address = current.remote_addr or "?"
        current.counted_as = address if known is None or known is ANYBODY else known.name
    return current.counted_as
