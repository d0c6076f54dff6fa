from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest

from roles.consume.gate import Gate

pytestmark = pytest.mark.anyio


async def test_many_are_inside_at_a_time() -> None:
    gate = Gate()

    assert gate.enter()
    assert gate.enter()
    await gate.opened()
    gate.leave()
    gate.leave()


async def test_who_wants_to_be_alone_waits_for_those_inside_and_lets_nobody_in_meanwhile() -> None:
    gate = Gate()
    alone, enough = anyio.Event(), anyio.Event()
    gate.enter()
    gate.enter()

    async def be_alone() -> None:
        await gate.enter_alone()
        alone.set()
        await enough.wait()
        gate.leave_alone()

    async with anyio.create_task_group() as group:
        group.start_soon(be_alone)
        await anyio.wait_all_tasks_blocked()
        assert not gate.enter()
        gate.leave()
        await anyio.wait_all_tasks_blocked()
        assert not alone.is_set()
        gate.leave()
        await alone.wait()

        assert not gate.enter()
        group.start_soon(gate.opened)
        enough.set()
    assert gate.enter()


async def test_all_who_want_to_be_alone_go_first_one_after_the_other() -> None:
    gate = Gate()
    order: list[str] = []

    async def be_alone(name: str) -> None:
        await gate.enter_alone()
        order.append(f"{name} in")
        await anyio.lowlevel.checkpoint()
        order.append(f"{name} out")
        gate.leave_alone()

    async def be_beside() -> None:
        await gate.opened()
        assert gate.enter()
        order.append("beside")
        gate.leave()

    gate.enter()
    async with anyio.create_task_group() as group:
        group.start_soon(be_alone, "a")
        await anyio.wait_all_tasks_blocked()
        group.start_soon(be_beside)
        await anyio.wait_all_tasks_blocked()
        group.start_soon(be_alone, "b")
        await anyio.wait_all_tasks_blocked()
        gate.leave()

    assert order == ["a in", "a out", "b in", "b out", "beside"]


@pytest.mark.parametrize("inside", [True, False])
async def test_who_gives_up_waiting_leaves_the_gate_open(inside: bool) -> None:
    gate = Gate()
    if inside:
        gate.enter()
    else:
        await gate.enter_alone()

    async with anyio.create_task_group() as group:
        group.start_soon(gate.enter_alone)
        await anyio.wait_all_tasks_blocked()
        group.cancel_scope.cancel()

    (gate.leave if inside else gate.leave_alone)()
    assert gate.enter()
