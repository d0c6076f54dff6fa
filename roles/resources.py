"""What a role is given: settings, the pool, the brokers, time, and a board to report on.

`db.pool.connection()`, `db.pool.unit_of_work()` and the clients find theirs in context variables that the
composition root sets, so that a handler needs no parameter for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from db.pool import Pool
from roles.board import Board
from roles.clock import Clock, SystemClock
from schema.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """Opened once by the composition root, shared by all roles, owned by none of them."""

    settings: Settings
    pool: Pool
    amqp_urls: Mapping[str, str]
    """The URL of each broker by name, with the embedded one's filled in."""
    clock: Clock = field(default_factory=SystemClock)
    board: Board = field(default_factory=Board)
