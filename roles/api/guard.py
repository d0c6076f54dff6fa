"""Finds out who calls, and whether they may: `Authorization: Bearer …` against what the route requires.

What credentials are worth is a verifier's business (`roles.api.api_keys`, `roles.api.tokens`). What it found good is
remembered for `auth.cache`, so that a request usually costs one hash and one look into a dictionary; that is also how
long credentials that were revoked may go on working. Digests are remembered, no credentials.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from hashlib import sha256
from typing import Final

import structlog

from clients import clients
from roles.api.access import Access
from roles.api.api_keys import ApiKeys
from roles.api.callers import ANYBODY, Caller, ScopesMissing, Unauthenticated, Verifier
from roles.clock import Clock
from roles.web.listener import is_loopback
from schema.errors import ConfigurationError
from schema.jwks import KeySet
from schema.settings import Settings

LONGEST: Final = 8192
"""Characters that credentials may have. Longer ones are refused before anybody looks into them."""

REMEMBERED: Final = 10_000
"""Credentials at a time; then those that have been remembered for longest are forgotten."""


class Guard:
    """Lets callers in.

    Params:
        verifier: None lets everybody do everything (`auth.mode = "none"`).
        remember: how long credentials that were found good are taken for good.
    """

    def __init__(self, verifier: Verifier | None, *, remember: timedelta, clock: Clock) -> None:
        self._verifier, self._remember, self._clock = verifier, remember, clock
        self._known: dict[bytes, tuple[Caller, datetime]] = {}

    def recall(self, authorization: bytes | None) -> Caller | None:
        """The caller, if it is remembered; else `identify` has to be asked.

        Params:
            authorization: the header of that name.

        Raises:
            Unauthenticated: there are no credentials, or none that anybody would look at.
        """
        if self._verifier is None:
            return ANYBODY
        caller, until = self._known.get(sha256(_credentials(authorization)).digest(), (None, None))
        return caller if until is not None and self._clock.now() < until else None

    async def identify(self, authorization: bytes | None) -> Caller:
        """The caller, whether it is remembered or not.

        Raises:
            Unauthenticated: the credentials are not good.
            DependencyUnavailable: that cannot be found out just now.
        """
        if self._verifier is None:
            return ANYBODY
        credentials = _credentials(authorization)
        found = await self._verifier.verify(credentials.decode("ascii"))
        until = self._clock.now() + self._remember
        digest = sha256(credentials).digest()
        self._known.pop(digest, None)  # so that it is the newest
        if len(self._known) >= REMEMBERED:
            del self._known[next(iter(self._known))]
        self._known[digest] = (found.caller, until if found.until is None else min(until, found.until))
        return found.caller


def admit(caller: Caller, access: Access) -> None:
    """Lets a known caller through, and binds its name to the logs of the request.

    Raises:
        ScopesMissing: it may not do this.
    """
    if caller.scopes is None:
        return
    structlog.contextvars.bind_contextvars(caller=caller.name)
    if access.scopes and (missing := access.scopes - caller.scopes):
        raise ScopesMissing(sorted(missing))


def guard(settings: Settings, clock: Clock) -> Guard:
    """The one that `auth.mode` asks for."""
    verifier: Verifier | None = None
    match settings.auth.mode:
        case "api_key":
            verifier = ApiKeys(clock)
        case "jwt":
            from roles.api.jwks import Keys  # noqa: PLC0415 - cryptography is memory that others can do without
            from roles.api.tokens import Tokens  # noqa: PLC0415

            verifier = Tokens(settings.auth.jwt, Keys(settings.auth.jwt, clock, fetch=_fetch_keys))
    return Guard(verifier, remember=settings.auth.cache, clock=clock)


def ensure_guarded(settings: Settings) -> None:
    """Sees to it that nobody serves the world without having said so.

    Raises:
        ConfigurationError: everybody may do everything, and `api.bind` is not loopback.
    """
    auth = settings.auth
    if auth.mode == "none" and not auth.allow_anonymous and not is_loopback(settings.api.bind, setting="api.bind"):
        raise ConfigurationError(
            f'api.bind = "{settings.api.bind}" (APP_API__BIND): others can reach this address, and with auth.mode = '
            '"none" they may do everything: set auth.mode to "api_key" or "jwt" (APP_AUTH__MODE), bind to 127.0.0.1, '
            "or set auth.allow_anonymous = true (APP_AUTH__ALLOW_ANONYMOUS) if that is what you want"
        )


async def _fetch_keys() -> KeySet:
    return await clients().jwks.get()


def _credentials(authorization: bytes | None) -> bytes:
    if not authorization:
        raise Unauthenticated
    scheme, _, credentials = authorization.partition(b" ")
    credentials = credentials.lstrip(b" ")  # there may be more than one space (RFC 9110 §11.4)
    if scheme.lower() != b"bearer":
        raise Unauthenticated("The credentials are no bearer token: send `Authorization: Bearer …`.")
    if len(credentials) > LONGEST:
        raise Unauthenticated(f"The credentials are longer than {LONGEST} characters.")
    if not credentials.isascii():
        raise Unauthenticated("The credentials are not ASCII.")
    return credentials
