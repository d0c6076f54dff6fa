"""(being written) the public names that other modules may rely on."""
from __future__ import annotations
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum, StrEnum
from roles.role import Role
from roles.events import Failure
from roles.tally import Tally


class State(StrEnum):
    STARTING = "starting"; RUNNING = "running"; BACKOFF = "backoff"; DRAINING = "draining"; STOPPED = "stopped"; FAILED = "failed"


class Stage(IntEnum):
    """The order of the drain."""
    WORK = 0
    RELAY = 1
    RESOURCES = 2
    PLATFORM = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleStatus:
    """A role at one moment, as `Supervisor.snapshot()` returns it (a tuple of these, in the order of the specs)."""
    name: str
    state: State
    since: datetime       # of the state
    restarts: int
    last_error: str | None
    failure: Failure | None
    tally: Tally
