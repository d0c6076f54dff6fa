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

What is declared is quart-rate-limiter's (`rate_limit`, `rate_exempt`, `limit_blueprint`), and counted here
(docs/adr/0033).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from math import ceil
from typing import TYPE_CHECKING, Final, cast

from quart import Response, request
from quart_rate_limiter import (
    QUART_RATE_LIMITER_EXEMPT_ATTRIBUTE,
    QUART_RATE_LIMITER_LIMITS_ATTRIBUTE,
    RateLimit,
    RateLimitExceeded,
)

from clients.cache import cache
from roles.api.callers import ANYBODY, Unauthenticated
from roles.api.request import Request

if TYPE_CHECKING:
    from roles.api.app import Api

BRIEFEST: Final = timedelta(milliseconds=1)
"""For which a count is kept at least."""


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit of one route.

    Params:
        declared: what the route, its blueprint or the settings say.
        prefix: of its keys in the cache.
        period: seconds.
        interval: seconds between two requests that come evenly.
    """

    declared: RateLimit
    prefix: str
    period: float
    interval: float

    async def applies(self) -> bool:
        skip = self.declared.skip_function
        return skip is None or not await skip()

    async def key(self, caller: str) -> str:
        identify = self.declared.key_function
        return self.prefix + (caller if identify is None else await identify())

    def headers(self, ahead: float) -> Iterable[tuple[str, str]]:
        """What a reply says of it.

        Params:
            ahead: seconds until a next request would be in time, if all came evenly.
        """
        return (
            ("RateLimit-Limit", str(self.declared.count)),
            ("RateLimit-Remaining", str(int((self.period - ahead) / self.interval))),
            ("RateLimit-Reset", str(ceil(ahead))),
        )


class Limiter:
    """Counts the requests of each caller, and answers with 429 those that are too many."""

    def __init__(self, app: Api) -> None:
        self._app = app
        rate = app.settings.api.rate_limit
        self._default = [RateLimit(rate.count, rate.period)] if rate else []
        self._limits: dict[str, list[Limit]] = {}
        """By endpoint, the shortest period first."""
        app.before_request(self.count)
        app.after_request(self.tell)

    async def count(self) -> None:
        """Counts the request that is being handled.

        Raises:
            RateLimitExceeded: it is one too many.
        """
        current: Request = request._get_current_object()  # type: ignore[attr-defined]  # noqa: SLF001 - the proxy is looked up once
        if current.url_rule is None:
            return
        now = time.time()
        counted: list[tuple[Limit, str, float]] = []
        for limit in self._limits_of(current.url_rule.endpoint):
            if await limit.applies():
                key = await limit.key(self._caller(current))
                counted.append((limit, key, max(now, float(await cache().get(key) or 0))))
        if not counted:
            return
        first, _, in_time = counted[0]
        current.rate = first, in_time
        for limit, _, in_time in counted:
            late = in_time - now - (limit.period - limit.interval)
            if late > 0:
                raise RateLimitExceeded(ceil(late))
        for limit, key, in_time in counted:
            following = in_time + limit.interval
            await cache().set(key, f"{following:.6f}", lifetime=max(timedelta(seconds=following - now), BRIEFEST))
        current.rate = first, current.rate[1] + first.interval

    async def tell(self, response: Response) -> Response:
        """Says in the reply where the caller stands with the limit of the shortest period."""
        rate = cast("Request", request).rate
        if rate is not None:
            limit, in_time = rate
            for name, value in limit.headers(max(0.0, in_time - time.time())):
                response.headers.add(name, value)
        return response

    def _limits_of(self, endpoint: str) -> list[Limit]:
        if endpoint not in self._limits:
            self._limits[endpoint] = sorted(self._find_limits(endpoint), key=lambda limit: limit.period)
        return self._limits[endpoint]

    def _find_limits(self, endpoint: str) -> Iterator[Limit]:
        view = self._app.view_functions[endpoint]
        if getattr(view, QUART_RATE_LIMITER_EXEMPT_ATTRIBUTE, False):
            return
        blueprint = self._app.blueprints.get(endpoint.rpartition(".")[0])
        declared = [getattr(owner, QUART_RATE_LIMITER_LIMITS_ATTRIBUTE, []) for owner in (view, blueprint)]
        for limit in (*declared[0], *declared[1], *self._default):
            prefix = f"limit:{self._app.import_name}-{endpoint}-{limit.key}-"
            yield Limit(limit, prefix, limit.period.total_seconds(), limit.inverse)

    def _caller(self, current: Request) -> str:
        try:
            known = self._app.guard.recall(current.sent.get(b"authorization"))
        except Unauthenticated:
            known = None
        return current.remote_addr or "?" if known is None or known is ANYBODY else known.name
