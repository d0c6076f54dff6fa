"""The contract between the supervisor and a role, and what the supervisor says of one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import IntEnum, StrEnum
from typing import Protocol

import anyio
from anyio.abc import TaskStatus

from roles.events import Failure
from roles.tally import Tally


class Role(Protocol):
    """One object with one coroutine. It owns no signal, no pool and no process exit."""

    async def run(self, *, task_status: TaskStatus[None], stop: anyio.Event) -> None:
        """Serves until it is asked to stop.

        Calls `task_status.started()` once it serves. Serves until `stop` is set, then drains: takes nothing
        new, ends what it holds, and returns. It may be cancelled at any await, which means that its time to
        drain is over.

        An instance runs once; a restart builds a new one.

        Raises:
            DependencyUnavailable: something outside is away. The role is restarted until it is back.
            ConfigurationError: it can never work. The process exits with 2.
            Exception: a bug. It is logged with its traceback, and the role is restarted.
        """


class State(StrEnum):
    """Where a role is in its life."""

    STARTING = "starting"
    RUNNING = "running"
    BACKOFF = "backoff"
    DRAINING = "draining"
    STOPPED = "stopped"
    FAILED = "failed"


class Stage(IntEnum):
    """When a role is asked to stop in a drain: all of one stage together, after all of the stage before."""

    WORK = 0
    """Takes work from outside: requests, messages, ticks."""
    RELAY = 1
    """Passes on what the work left behind."""
    RESOURCES = 2
    """Is used by those above."""
    PLATFORM = 3
    """Is needed to the end: the servers of a laptop, and the one who tells of it all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleSpec:
    """A role as data.

    Params:
        build: makes a new instance, for the first start and for each restart.
        needs: names of roles that must have run once before this one is started for the first time.
        start_timeout: until `started()` must have been called; by default the policy's.
        stop_timeout: a limit of its own for the drain, within the one for all.
        tally: the counters of its work, for the receipt.
    """

    name: str
    build: Callable[[], Role]
    needs: tuple[str, ...] = ()
    stage: Stage = Stage.WORK
    start_timeout: timedelta | None = None
    stop_timeout: timedelta | None = None
    tally: Tally = field(default_factory=Tally)


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleStatus:
    """A role at one moment. `since` is when it came into `state`; `last_error` outlives the restart."""

    name: str
    state: State
    since: datetime
    restarts: int
    last_error: str | None
    failure: Failure | None
    tally: Tally
