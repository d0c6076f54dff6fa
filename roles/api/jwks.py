"""The public keys of an issuer (JWKS, RFC 7517): fetched when they are first needed, and followed as they change.

An issuer that rotates its keys begins to sign with one that is not known here. That, and the end of
`auth.jwt.keys_lifetime`, has the keys fetched again, but never more often than every `auth.jwt.keys_cooldown`,
whatever tokens strangers make up.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from math import inf
from typing import Any, Final

import anyio
import jwt
import structlog

from clients.errors import UpstreamError
from roles.clock import Clock
from schema.errors import DependencyUnavailable
from schema.jwks import KeySet
from schema.settings import Jwt

STALE: Final = timedelta(hours=1)
"""How long beyond their lifetime keys are used while the issuer cannot be asked for new ones."""

log = structlog.get_logger(__name__)


class KeysUnavailable(DependencyUnavailable):
    """The issuer cannot be asked for its keys, and there are none here that would do."""


class Keys:
    """The keys by id and algorithm.

    Params:
        fetch: asks the issuer; raises UpstreamError.
    """

    def __init__(self, settings: Jwt, clock: Clock, *, fetch: Callable[[], Awaitable[KeySet]]) -> None:
        self._settings, self._clock, self._fetch = settings, clock, fetch
        self._keys: dict[tuple[str, str], jwt.PyJWK] = {}
        self._fetched_at = self._tried_at = -inf
        self._failure: UpstreamError | None = None
        self._fetching = anyio.Lock()

    async def get(self, kid: str, algorithm: str) -> jwt.PyJWK | None:
        """The key for this id and algorithm; None if the issuer has none.

        Raises:
            KeysUnavailable: that cannot be found out just now.
        """
        lifetime = self._settings.keys_lifetime
        allowed = lifetime + STALE if self._fetching.locked() else lifetime  # nobody waits for a mere refresh
        found = self._keys.get((kid, algorithm))
        if found is not None and self._age() < allowed:
            return found
        async with self._fetching:
            if (kid, algorithm) not in self._keys or self._age() >= lifetime:  # else somebody else has fetched it
                await self._refresh()
        found = self._keys.get((kid, algorithm))
        if self._failure is not None and (found is None or self._age() >= lifetime + STALE):
            raise KeysUnavailable(f"the issuer's keys: {self._failure}") from self._failure
        return found

    def _age(self) -> timedelta:
        seconds = self._clock.monotonic() - self._fetched_at
        return timedelta.max if seconds == inf else timedelta(seconds=seconds)

    async def _refresh(self) -> None:
        now = self._clock.monotonic()
        if now - self._tried_at < self._settings.keys_cooldown.total_seconds():
            return
        self._tried_at = now
        try:
            fetched = await self._fetch()
        except UpstreamError as error:
            self._failure = error
            log.warning("issuer's keys not fetched", error=error)
            return
        self._failure = None
        self._fetched_at = now
        self._keys = usable(fetched.keys, self._settings.algorithms)
        known = sorted({kid for kid, _ in self._keys})
        (log.info if known else log.warning)("issuer's keys fetched", keys=known)


def usable(keys: Sequence[dict[str, Any]], algorithms: Sequence[str]) -> dict[tuple[str, str], jwt.PyJWK]:
    """Those that signatures can be verified with, by id and algorithm.

    A key that names its algorithm is good for that one alone; another one for all that fit its type.
    """
    found = {}
    for key in keys:
        kid, own = key.get("kid"), key.get("alg")
        if not isinstance(kid, str) or key.get("use", "sig") != "sig":
            continue
        for algorithm in algorithms:
            if own in (None, algorithm):
                try:
                    found[kid, algorithm] = jwt.PyJWK(key, algorithm)
                except (jwt.PyJWTError, ValueError):
                    log.debug("issuer's key not usable", kid=kid, algorithm=algorithm)
    return found
