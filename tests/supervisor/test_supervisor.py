"""The supervisor's promises, in fake time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import TypeVar

import anyio
import anyio.lowlevel
import pytest
from anyio.abc import TaskStatus

from roles.events import (
    DrainFinished,
    Event,
    Failure,
    ReceiptLine,
    RoleFailed,
    RoleStarted,
    RoleStopped,
    RoleWaiting,
)
from roles.failures import DrainTimeout, RestartBudgetExhausted, StartTimeout
from roles.role import RoleSpec, RoleStatus, Stage, State
from roles.supervisor import Supervisor
from roles.tally import Tally
from schema.errors import ConfigurationError, DependencyUnavailable
from schema.settings import Supervisor as Policy
from tests.fakes import FakeClock, settle

E = TypeVar("E", bound=Event)

pytestmark = pytest.mark.anyio


class Mute(Exception):
    def __str__(self) -> str:
        raise ZeroDivisionError


class Panic(BaseException):
    """Such as pyo3's, which is no `Exception`."""


class Scripted:
    """A role that does what its script says, one line per start; the last line repeats."""

    def __init__(self, *script: str | BaseException, before_started: bool = False) -> None:
        self.before_started = before_started
        self.script = list(script)
        self.starts = 0
        self.log: list[str] = []

    def build(self) -> Scripted:
        self.starts += 1
        return self

    async def run(self, *, task_status: TaskStatus[None], stop: anyio.Event) -> None:
        line = self.script[min(self.starts, len(self.script)) - 1]
        if isinstance(line, BaseException):
            if not self.before_started:
                task_status.started()
            raise line
        if line == "mute":
            await anyio.sleep_forever()
        task_status.started()
        if line == "return":
            return
        if line == "stray":
            lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            lost.cancel()
            await lost
        if line == "marked as cancelled":  # what asyncio's TaskGroup leaves behind on Python 3.11
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            with suppress(asyncio.CancelledError):
                await anyio.lowlevel.checkpoint()
            raise RuntimeError("marked")
        await stop.wait()
        self.log.append("asked")
        if line == "hang":
            await anyio.sleep_forever()
        if line == "fail in drain":
            raise RuntimeError("drain")


class Harness:
    def __init__(self, *specs: RoleSpec, chance: float = 1.0, **policy: object) -> None:
        self.clock = FakeClock(chance=chance)
        self.events: list[Event] = []
        self.stop = anyio.Event()
        self.error: BaseException | None = None
        self.ended = False
        self.specs = specs
        self.supervisor = Supervisor(policy=Policy.model_validate(policy), clock=self.clock, emit=self.events.append)

    def status(self, name: str) -> RoleStatus:
        return next(role for role in self.supervisor.snapshot() if role.name == name)

    def of(self, kind: type[E]) -> list[E]:
        return [event for event in self.events if isinstance(event, kind)]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async def run() -> None:
            try:
                await self.supervisor.run(self.specs, stop=self.stop)
            except Exception as error:
                self.error = error
            self.ended = True

        async with anyio.create_task_group() as group:
            group.start_soon(run)
            await settle()
            yield
            self.stop.set()
            await self.clock.advance(1000)
            assert self.ended


def spec(name: str, role: Scripted, **options: object) -> RoleSpec:
    return RoleSpec(name=name, build=role.build, **options)  # type: ignore[arg-type]


async def test_roles_start_together_and_stop_when_asked() -> None:
    one, two = Scripted("serve"), Scripted("serve")
    harness = Harness(spec("one", one), spec("two", two))
    async with harness.running():
        assert harness.status("one").state is State.RUNNING
        assert harness.status("two").state is State.RUNNING
    assert harness.error is None
    assert harness.status("one").state is State.STOPPED
    assert one.log == two.log == ["asked"]


@pytest.mark.parametrize(
    ("script", "failure", "text"),
    [
        (ValueError("boom"), Failure.BUG, "ValueError: boom"),
        (DependencyUnavailable("broker: away"), Failure.UNAVAILABLE, "broker: away"),
        (ExceptionGroup("", [DependencyUnavailable("a"), DependencyUnavailable("b")]), Failure.UNAVAILABLE, "a; b"),
        (ExceptionGroup("", [DependencyUnavailable("a"), KeyError("b")]), Failure.BUG, "a; KeyError: 'b'"),
        ("return", Failure.BUG, "returned although nobody had asked it to stop"),
        ("stray", Failure.BUG, "StrayCancellation: a library cancelled a task that nobody had cancelled"),
        ("marked as cancelled", Failure.BUG, "RuntimeError: marked"),
        (Mute(), Failure.BUG, "Mute: (its text cannot be had: ZeroDivisionError)"),
        (Panic("index 7"), Failure.BUG, "Broken: Panic: index 7"),
        (SystemExit(3), Failure.BUG, "Exited: sys.exit(3) was called"),
        (BaseExceptionGroup("", [Panic("a"), KeyError("b")]), Failure.BUG, "Broken: Panic: a; KeyError: 'b'"),
    ],
)
async def test_whatever_ends_a_role_restarts_it_alone(
    script: str | BaseException, failure: Failure, text: str
) -> None:
    bad, sibling = Scripted(script, "serve"), Scripted("serve")
    harness = Harness(spec("bad", bad), spec("sibling", sibling))
    async with harness.running():
        assert harness.status("bad").state is State.BACKOFF
        assert harness.status("bad").failure is failure
        assert harness.status("bad").last_error == text
        await harness.clock.advance(0.5)
        assert harness.status("bad").state is State.RUNNING
        assert harness.status("bad").restarts == 1
        assert sibling.starts == 1
    assert harness.error is None


async def test_the_backoff_doubles_up_to_its_limit_and_a_healthy_minute_resets_it() -> None:
    bad = Scripted(*[ValueError("boom")] * 9, "serve", ValueError("later"), "serve")
    harness = Harness(spec("bad", bad))
    async with harness.running():
        await harness.clock.advance(0.5 + 1 + 2 + 4 + 8 + 16 + 30 + 30 + 30)
        assert [failed.restart_in for failed in harness.of(RoleFailed)] == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
        assert harness.status("bad").state is State.RUNNING


async def test_a_healthy_minute_resets_the_backoff() -> None:
    starts = 0

    class Slow:
        async def run(self, *, task_status: TaskStatus[None], stop: anyio.Event) -> None:
            nonlocal starts
            starts += 1
            task_status.started()
            if starts == 3:
                await harness.clock.sleep(60)
            raise ValueError("boom")

    harness = Harness(RoleSpec(name="slow", build=Slow))
    async with harness.running():
        await harness.clock.advance(0.5 + 1 + 60)
        assert [failed.restart_in for failed in harness.of(RoleFailed)] == [0.5, 1, 0.5]


async def test_the_backoff_has_full_jitter() -> None:
    harness = Harness(spec("bad", Scripted(ValueError("boom"), "serve")), chance=0.25)
    async with harness.running():
        assert harness.of(RoleFailed)[0].restart_in == 0.125


async def test_by_default_a_role_is_never_given_up() -> None:
    bad = Scripted(ValueError("boom"))
    harness = Harness(spec("bad", bad))
    async with harness.running():
        await harness.clock.advance(3600)
        assert bad.starts > 100
        assert harness.error is None


async def test_a_restart_budget_that_was_set_ends_the_process_after_a_drain() -> None:
    sibling = Scripted("serve")
    harness = Harness(spec("bad", Scripted(ValueError("boom"))), spec("sibling", sibling), max_restarts=3)
    async with harness.running():
        await harness.clock.advance(10)
        assert isinstance(harness.error, RestartBudgetExhausted)
        assert "supervisor.max_restarts = 3 in 5m" in str(harness.error)
        assert sibling.log == ["asked"]


async def test_an_absent_dependency_counts_against_no_budget() -> None:
    bad = Scripted(DependencyUnavailable("away"))
    harness = Harness(spec("bad", bad), max_restarts=1)
    async with harness.running():
        await harness.clock.advance(600)
        assert bad.starts > 10
        assert harness.error is None


async def test_old_failures_leave_the_restart_window() -> None:
    bad = Scripted(ValueError("boom"))
    harness = Harness(
        spec("bad", bad), max_restarts=1, restart_window="10s", backoff_initial="11s", backoff_max="11s"
    )
    async with harness.running():
        await harness.clock.advance(100)
        assert harness.error is None


async def test_what_can_never_work_ends_the_process_and_says_why() -> None:
    sibling = Scripted("serve")
    bad = Scripted(ConfigurationError("api.bind: taken"))
    harness = Harness(spec("bad", bad), spec("sibling", sibling), drain_delay="60s")
    async with harness.running():
        await settle()
        assert harness.ended, "not even the drain's delay is waited for"
        assert isinstance(harness.error, ConfigurationError)
        assert str(harness.error) == "api.bind: taken"
        assert sibling.log == ["asked"]
        assert bad.starts == 1


async def test_a_start_has_a_deadline() -> None:
    harness = Harness(spec("mute", Scripted("mute", "serve")), start_timeout="30s")
    async with harness.running():
        await harness.clock.advance(29)
        assert harness.status("mute").state is State.STARTING
        await harness.clock.advance(1)
        assert isinstance(harness.of(RoleFailed)[0].error, StartTimeout)
        assert harness.status("mute").last_error == "had not started after 30s"
        await harness.clock.advance(0.5)
        assert harness.status("mute").state is State.RUNNING


async def test_a_role_that_has_started_outlives_the_deadline_of_the_start() -> None:
    harness = Harness(spec("one", Scripted("serve")), start_timeout="30s")
    async with harness.running():
        await harness.clock.advance(100)
        assert harness.status("one").state is State.RUNNING
        assert harness.status("one").restarts == 0


async def test_a_role_waits_for_what_it_needs() -> None:
    server, client = Scripted(DependencyUnavailable("not yet"), "serve", before_started=True), Scripted("serve")
    harness = Harness(spec("client", client, needs=("server",)), spec("server", server))
    async with harness.running():
        assert client.starts == 0
        assert harness.of(RoleWaiting) == [RoleWaiting("client", ("server",))]
        assert harness.status("client").last_error == "waits for server"
        await harness.clock.advance(0.5)
        assert client.starts == 1
        assert harness.status("client").last_error is None


async def test_a_role_that_waits_can_be_stopped() -> None:
    client = Scripted("serve")
    server = Scripted(DependencyUnavailable("away"), before_started=True)
    harness = Harness(spec("client", client, needs=("server",)), spec("server", server))
    async with harness.running():
        pass
    assert client.starts == 0
    assert harness.status("client").state is State.STOPPED
    assert harness.error is None


async def test_a_drain_asks_one_stage_after_the_other() -> None:
    order: list[str] = []

    def role(name: str) -> Callable[[], object]:
        class Noted:
            async def run(self, *, task_status: TaskStatus[None], stop: anyio.Event) -> None:
                task_status.started()
                await stop.wait()
                order.append(f"{name} asked")
                await harness.clock.sleep(1)
                order.append(f"{name} ended")

        return Noted

    stages = {"server": Stage.PLATFORM, "pool": Stage.RESOURCES, "relay": Stage.RELAY, "api": Stage.WORK}
    harness = Harness(*(RoleSpec(name=n, build=role(n), stage=s) for n, s in stages.items()))  # type: ignore[arg-type]
    async with harness.running():
        pass
    assert order == [f"{name} {what}" for name in reversed(stages) for what in ("asked", "ended")]


async def test_the_drain_waits_for_its_delay_and_says_so_meanwhile() -> None:
    one = Scripted("serve")
    harness = Harness(spec("one", one), drain_delay="5s")
    async with harness.running():
        harness.stop.set()
        await harness.clock.advance(4)
        assert harness.supervisor.draining
        assert one.log == []
        await harness.clock.advance(1)
        assert one.log == ["asked"]


async def test_one_deadline_for_all_then_cancellation() -> None:
    platform = Scripted("serve")
    harness = Harness(
        spec("hang", Scripted("hang")),
        spec("platform", platform, stage=Stage.PLATFORM),
        drain_timeout="25s",
    )
    async with harness.running():
        harness.stop.set()
        await harness.clock.advance(24.9)
        assert not harness.ended
        await harness.clock.advance(0.2)
        assert harness.ended
        assert isinstance(harness.error, DrainTimeout)
        assert "hang" in str(harness.error)
        assert platform.log == ["asked"]
        assert [stopped.cut_off for stopped in harness.of(RoleStopped)] == [True, False]


async def test_a_role_may_have_a_shorter_limit_of_its_own() -> None:
    harness = Harness(spec("hang", Scripted("hang"), stop_timeout=timedelta(seconds=2)))
    async with harness.running():
        harness.stop.set()
        await harness.clock.advance(2)
        assert harness.ended


async def test_a_failure_during_the_drain_is_not_restarted() -> None:
    role = Scripted("fail in drain")
    harness = Harness(spec("one", role))
    async with harness.running():
        pass
    assert role.starts == 1
    assert harness.status("one").state is State.FAILED
    assert harness.of(RoleFailed)[0].restart_in is None


async def test_a_stop_during_the_backoff_ends_it_at_once() -> None:
    bad = Scripted(ValueError("boom"))
    harness = Harness(spec("bad", bad))
    async with harness.running():
        harness.stop.set()
        await settle()
        assert harness.ended
        assert bad.starts == 1


async def test_the_receipt_adds_up() -> None:
    tally = Tally(taken=10, finished=3)

    class Worker:
        async def run(self, *, task_status: TaskStatus[None], stop: anyio.Event) -> None:
            task_status.started()
            await stop.wait()
            tally.taken += 1  # was already on its way
            tally.finished += 4
            tally.failed += 1
            tally.given_back += 2
            await anyio.sleep_forever()

    harness = Harness(RoleSpec(name="worker", build=Worker, tally=tally))
    async with harness.running():
        pass
    line = harness.of(DrainFinished)[0].receipt[0]
    assert line == ReceiptLine("worker", in_flight=8, finished=4, failed=1, given_back=2, cut_off=1)
    assert line.in_flight == line.finished + line.failed + line.given_back + line.cut_off


async def test_a_role_that_fails_before_it_is_built_is_restarted() -> None:
    calls = 0

    def build() -> Scripted:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise RuntimeError("no")
        return Scripted("serve").build()

    harness = Harness(RoleSpec(name="one", build=build))
    async with harness.running():
        await harness.clock.advance(0.5)
        assert harness.status("one").state is State.RUNNING
        assert len(harness.of(RoleStarted)) == 1


async def test_declarations_that_contradict_are_refused() -> None:
    role = Scripted("serve")
    for specs, message in (
        ((spec("one", role), spec("one", role)), "same name"),
        ((spec("one", role, needs=("nobody",)),), "nobody"),
    ):
        with pytest.raises(ValueError, match=message):
            await Harness().supervisor.run(specs, stop=anyio.Event())
