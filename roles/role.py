"""The contract between the supervisor and a role."""

from __future__ import annotations

from typing import Protocol

import anyio
from anyio.abc import TaskStatus


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
