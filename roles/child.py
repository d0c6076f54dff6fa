"""What the supervisor knows of one role, and how it runs one instance of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial

import anyio
from anyio.abc import TaskStatus
from structlog.contextvars import bound_contextvars

from roles.cancellation import isolated
from roles.clock import Clock
from roles.events import Failure, ReceiptLine
from roles.role import RoleSpec, RoleStatus, State
from roles.tally import Tally


class Child:
    """What the supervisor knows of one role."""

    def __init__(self, spec: RoleSpec, clock: Clock) -> None:
        self.spec = spec
        self.stop = anyio.Event()
        self.ran = anyio.Event()
        """Set once it has run for the first time."""
        self.ended = anyio.Event()
        self.scope = anyio.CancelScope()
        self.state = State.STARTING
        self.since = clock.now()
        self.started_at: float | None = None
        self.restarts = 0
        self.failures = 0
        """In a row, without a healthy `backoff_reset` between them."""
        self.bugs: deque[float] = deque()
        self.failure: Failure | None = None
        self.last_error: str | None = None
        self.cut_off = False
        self._clock = clock

    def enter(self, state: State) -> None:
        if state is not self.state:
            self.state = state
            self.since = self._clock.now()

    def status(self) -> RoleStatus:
        return RoleStatus(
            name=self.spec.name,
            state=self.state,
            since=self.since,
            restarts=self.restarts,
            last_error=self.last_error,
            failure=self.failure,
            tally=self.spec.tally.copy(),
        )


class Started(TaskStatus[None]):
    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call

    def started(self, value: None = None) -> None:  # noqa: ARG002 - the signature is anyio's
        self._call()


async def outcome(child: Child, task_status: TaskStatus[None]) -> Exception | None:
    try:
        with bound_contextvars(role=child.spec.name):
            await isolated(partial(child.spec.build().run, task_status=task_status, stop=child.stop))
    except Exception as error:  # noqa: BLE001 - whatever it is, it concerns this role alone
        return error
    return None


def receipt_line(child: Child, before: Tally) -> ReceiptLine:
    now = child.spec.tally
    return ReceiptLine(
        role=child.spec.name,
        in_flight=before.in_flight + now.taken - before.taken,
        finished=now.finished - before.finished,
        failed=now.failed - before.failed,
        given_back=now.given_back - before.given_back,
        cut_off=now.in_flight,
    )
