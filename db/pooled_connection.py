"""A connection that knows whether it was ruined by its own user.

A connection that breaks is a sign of a server that is away, unless it was ended on account of what its user did: it
cancelled a statement and could not wait for the server's answer (as every scope of anyio's does), or it left its
transaction idle for so long that the server ended it. Taken for an outage, that would be tried again for ever.
"""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

import psycopg
from psycopg.abc import PQGen
from psycopg.rows import TupleRow

T = TypeVar("T")

_ENDED_FOR_ITS_CLIENT = ("25P03", "25P04")
"""SQLSTATE: the transaction had been idle, or had gone on, for longer than it may."""


class PooledConnection(psycopg.AsyncConnection[TupleRow]):
    """What the pool is made of."""

    ruined = False

    async def wait(self, gen: PQGen[T], *arguments: Any, **options: Any) -> T:
        try:
            return await super().wait(gen, *arguments, **options)
        except asyncio.CancelledError:
            self.ruined = self.broken
            raise
        except psycopg.Error as error:
            self.ruined = self.ruined or error.sqlstate in _ENDED_FOR_ITS_CLIENT
            raise
