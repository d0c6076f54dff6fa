"""Callers: who sent a request, how that is found out, and the two ways to be turned away."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request.

    Params:
        name: `key:<id>` or `sub:<subject>`, for logs, and for what is kept or counted for each caller.
        scopes: what it may do; None for everything.
    """

    name: str
    scopes: frozenset[str] | None


ANYBODY: Final = Caller("anybody", None)
"""The caller of every request with `auth.mode = "none"`."""


@dataclass(frozen=True, slots=True)
class Verified:
    """Credentials that were found to be good, and until when they are; None for ever."""

    caller: Caller
    until: datetime | None


class Verifier(Protocol):
    """Knows one kind of credentials."""

    async def verify(self, credentials: str) -> Verified:
        """Whose they are.

        Raises:
            Unauthenticated: they are not good; the reason says why, without quoting them.
            DependencyUnavailable: that cannot be found out just now.
        """


class Unauthenticated(Exception):
    """It is not known who calls.

    Params:
        reason: what is wrong with the credentials, for the caller; None if there are none. It holds nothing of them.
    """

    def __init__(self, reason: str | None = None) -> None:
        super().__init__(reason or "There are no credentials.")
        self.reason = reason


class ScopesMissing(Exception):
    """The caller is known, and may not do this: it lacks these scopes."""

    def __init__(self, scopes: list[str]) -> None:
        super().__init__(" ".join(scopes))
        self.scopes = scopes
