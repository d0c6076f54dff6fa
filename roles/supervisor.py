"""The supervisor: starts roles, restarts what fails, drains all of them in order. Knows no HTTP, AMQP or cron.

Children are data (`RoleSpec`), and a restart builds a new role. What may happen to a role:

```
           started()            stop               returns
starting ────────────▶ running ───────▶ draining ──────────▶ stopped
   ▲  │                   │                │
   │  │ raises, too slow  │ raises,        │ raises, or is cancelled at the deadline
   │  ▼                   ▼ or returns     ▼
  backoff ◀───────────────┘             failed ◀── ConfigurationError, or too many restarts
```
The rules, with their numbers in `schema.settings.Supervisor`:

- A failure restarts the role alone, after an exponential backoff with full jitter that a healthy minute resets.
- `DependencyUnavailable` counts against no budget; a bug counts, if a budget was set (`max_restarts`).
- `ConfigurationError` can never work: everything is drained and the error is raised to the caller.
- A drain asks the stages one after the other (`Stage`), under one deadline for all; what has not ended by then
  is cancelled. The receipt says what became of the work that was in flight.
- A stray `CancelledError` out of a library is a failure of the role and never reaches the task group.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import anyio

from roles.child import Child, Started, outcome, receipt_line
from roles.clock import Clock
from roles.events import (
    DrainFinished,
    DrainStarted,
    Emit,
    Failure,
    RoleFailed,
    RoleStarted,
    RoleStarting,
    RoleStopped,
    RoleWaiting,
)
from roles.failures import DrainTimeout, RestartBudgetExhausted, StartTimeout, UnexpectedReturn, classify, describe
from roles.role import RoleSpec, RoleStatus, Stage, State
from roles.timers import after, until
from schema.duration import format_duration
from schema.errors import ConfigurationError
from schema.settings import Supervisor as Policy

GRACE = timedelta(seconds=0.2)
"""What a stage gets to stop in when those before it have used up the deadline, and a cancelled role to end in."""


class Supervisor:
    """Runs roles until it is told to stop. An instance runs once."""

    def __init__(self, *, policy: Policy, clock: Clock, emit: Emit) -> None:
        self.draining = False
        self._policy = policy
        self._clock = clock
        self._emit = emit
        self._children: dict[str, Child] = {}
        self._fatal: Exception | None = None
        self._ending = anyio.Event()

    def snapshot(self) -> tuple[RoleStatus, ...]:
        """All roles as they are now, in the order of their specs."""
        return tuple(child.status() for child in self._children.values())

    async def run(self, specs: Sequence[RoleSpec], *, stop: anyio.Event) -> None:
        """Starts all roles, keeps them running, and drains them when `stop` is set.

        Raises:
            ValueError: two roles have one name, or one needs a role that is not there.
            ConfigurationError: a role can never work; the others were drained.
            RestartBudgetExhausted: a role failed too often; the others were drained.
            DrainTimeout: the drain was over before everything had ended.
        """
        self._children = {spec.name: Child(spec, self._clock) for spec in specs}
        if len(self._children) != len(specs):
            raise ValueError("two roles have the same name")
        if unknown := {need for spec in specs for need in spec.needs} - self._children.keys():
            raise ValueError(f"no such roles to need: {sorted(unknown)}")
        async with anyio.create_task_group() as group:
            group.start_soon(self._end_with, stop)
            for child in self._children.values():
                group.start_soon(self._keep, child)
            await self._ending.wait()
            cut_off = await self._drain()
            group.cancel_scope.cancel()
        if self._fatal is not None:
            raise self._fatal
        if cut_off:
            limit = format_duration(self._policy.drain_timeout)
            raise DrainTimeout(f"cut off after supervisor.drain_timeout = {limit}: {', '.join(cut_off)}")

    async def _end_with(self, stop: anyio.Event) -> None:
        await stop.wait()
        self._ending.set()

    async def _keep(self, child: Child) -> None:
        """Runs one role, from its first start to its end."""
        try:
            await self._wait_for_needs(child)
            while not child.stop.is_set():
                child.enter(State.STARTING)
                self._emit(RoleStarting(child.spec.name, child.restarts + 1))
                error = await self._run_once(child)
                if error is None:
                    break
                await self._fail(child, error)
        finally:
            if child.state is not State.FAILED:
                child.enter(State.STOPPED)
            child.ended.set()

    async def _wait_for_needs(self, child: Child) -> None:
        missing = [need for need in child.spec.needs if not self._children[need].ran.is_set()]
        if missing:
            self._emit(RoleWaiting(child.spec.name, tuple(missing)))
            async with until(child.stop):
                while missing:
                    child.last_error = f"waits for {', '.join(missing)}"
                    await self._children[missing[0]].ran.wait()
                    missing = [need for need in missing if not self._children[need].ran.is_set()]
                child.last_error = None

    async def _run_once(self, child: Child) -> Exception | None:
        """Runs a new instance to its end; returns what it failed with, or None if it ended as it was asked to."""
        began = self._clock.monotonic()
        limit = child.spec.start_timeout or self._policy.start_timeout
        child.started_at = None

        def started() -> None:
            if child.started_at is None:
                child.started_at = self._clock.monotonic()
                child.enter(State.DRAINING if child.stop.is_set() else State.RUNNING)
                child.ran.set()
                self._emit(RoleStarted(child.spec.name, child.started_at - began))

        def too_slow() -> None:
            if child.started_at is None and not child.stop.is_set():
                child.scope.cancel()

        with anyio.CancelScope() as child.scope:
            async with after(self._clock, limit, too_slow):
                error = await outcome(child, Started(started))
        if child.scope.cancel_called:
            return None if child.stop.is_set() else StartTimeout(f"had not started after {format_duration(limit)}")
        if error is None and not child.stop.is_set():
            return UnexpectedReturn("returned although nobody had asked it to stop")
        return error

    async def _fail(self, child: Child, error: Exception) -> None:
        """Decides what a failure means, and waits for the time of the restart if there is to be one."""
        now = self._clock.monotonic()
        child.failure = classify(error)
        child.last_error = describe(error)
        if fatal := self._fatal_error(child, error, now):
            self._fatal = self._fatal or fatal
            self._ending.set()
        if fatal or child.stop.is_set():
            child.enter(State.FAILED)
            child.stop.set()
            self._emit(RoleFailed(child.spec.name, child.failure, error, None))
            return
        if child.started_at is not None and now - child.started_at >= self._policy.backoff_reset.total_seconds():
            child.failures = 0
        ceiling = min(self._policy.backoff_max, self._policy.backoff_initial * 2 ** min(child.failures, 16))
        delay = self._clock.random() * ceiling.total_seconds()
        child.failures += 1
        child.restarts += 1
        child.enter(State.BACKOFF)
        self._emit(RoleFailed(child.spec.name, child.failure, error, delay))
        async with until(child.stop):
            await self._clock.sleep(delay)

    def _fatal_error(self, child: Child, error: Exception, now: float) -> Exception | None:
        """The error that the whole process has to end with, if this one is such."""
        if child.failure is Failure.CONFIGURATION:
            return ConfigurationError(child.last_error)
        if child.failure is Failure.BUG and self._policy.max_restarts:
            window = self._policy.restart_window
            child.bugs.append(now)
            while child.bugs[0] < now - window.total_seconds():
                child.bugs.popleft()
            if len(child.bugs) > self._policy.max_restarts:
                limit = f"supervisor.max_restarts = {self._policy.max_restarts} in {format_duration(window)}"
                return RestartBudgetExhausted(f"{child.spec.name} failed more often than {limit}: {describe(error)}")
        return None

    async def _drain(self) -> list[str]:
        """Stops everything, stage by stage; returns the names of the roles that had to be cut off."""
        before = {name: child.spec.tally.copy() for name, child in self._children.items()}
        began = self._clock.monotonic()
        self.draining = True
        timeout = self._policy.drain_timeout.total_seconds()
        self._emit(DrainStarted(str(self._fatal) if self._fatal else "asked to stop", timeout))
        if self._fatal is None:
            await self._clock.sleep(self._policy.drain_delay.total_seconds())
        deadline = self._clock.monotonic() + timeout
        for stage in Stage:
            async with anyio.create_task_group() as group:
                for child in self._children.values():
                    if child.spec.stage is stage:
                        group.start_soon(self._stop, child, deadline)
        receipt = tuple(
            receipt_line(child, before[name])
            for name, child in self._children.items()
            if child.spec.stage in (Stage.WORK, Stage.RELAY)
        )
        self._emit(DrainFinished(self._clock.monotonic() - began, receipt))
        return [name for name, child in self._children.items() if child.cut_off]

    async def _stop(self, child: Child, deadline: float) -> None:
        began = self._clock.monotonic()
        if child.state is State.RUNNING:
            child.enter(State.DRAINING)
        child.stop.set()
        limit = max(timedelta(seconds=deadline - began), GRACE)
        await self._wait(child.ended, min(limit, child.spec.stop_timeout or limit))
        if not child.ended.is_set():
            child.cut_off = True
            child.last_error = "cut off: it had not ended in time"
            child.enter(State.FAILED)
            child.scope.cancel()
            await self._wait(child.ended, GRACE)
        self._emit(RoleStopped(child.spec.name, self._clock.monotonic() - began, child.cut_off))

    async def _wait(self, event: anyio.Event, limit: timedelta) -> None:
        with anyio.CancelScope() as scope:
            async with after(self._clock, limit, scope.cancel):
                await event.wait()
