"""API keys, against the table of them."""

from __future__ import annotations

from datetime import timedelta
from hmac import compare_digest
from typing import Final

from db import api_keys
from db.pool import connection
from roles.api.callers import Caller, Unauthenticated, Verified
from roles.clock import Clock

PRECISION: Final = timedelta(minutes=1)
"""Of `last_used_at`: it is written when it is older than this, not at every request."""


class ApiKeys:
    """See `roles.api.callers.Verifier`. One query; a second one, once a minute for each key, writes its last use."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    async def verify(self, credentials: str) -> Verified:
        key_id = api_keys.id_of(credentials)
        if key_id is None:
            raise Unauthenticated("This is not an API key.")
        async with connection() as conn:
            found = await api_keys.get(conn, key_id)
            if found is None or not compare_digest(found.digest, api_keys.digest_of(credentials)):
                raise Unauthenticated("There is no such API key.")
            now = self._clock.now()
            if found.revoked_at is not None:
                raise Unauthenticated("The API key was revoked.")
            if found.expires_at is not None and found.expires_at <= now:
                raise Unauthenticated("The API key has expired.")
            if found.last_used_at is None or found.last_used_at <= now - PRECISION:
                await api_keys.used(conn, key_id, at=now)
        return Verified(Caller(f"key:{key_id}", frozenset(found.scopes)), found.expires_at)
