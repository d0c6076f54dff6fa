"""Crowds of clients that keep a server busy, or hope to: others do not notice, and nothing is left of them.

How long an honest client waits beside an attack is compared with how long it waited before: no figure here is a time.
"""

from __future__ import annotations

import resource
import socket
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager

import anyio
import anyio.lowlevel
import pytest

from tests.attacks.crowds import CROWDS, Crowd, breaking_off
from tests.attacks.honest import Honest, honest_client
from tests.attacks.table import ATTACKS
from tests.attacks.target import LONG, SERVER, Target, attacked, replies
from tests.attacks.test_malformed import strike
from tests.web.support import eventually

pytestmark = pytest.mark.anyio

SLOWER = 10
"""So many times its usual time may an answer take, by the median, beside an attack; it, too, needs the CPU."""

LARGER = 1.5
"""So many times its usual memory may the process have after one."""

USUAL = 0.4
"""Seconds for which the usual time is measured."""

CAPACITY = 1500
IDLE = 3000
"""Connections that the server may have, and that are opened, if `ulimit -n` allows it."""

SPARE = 500
"""Descriptors that the test itself needs."""


@pytest.fixture(scope="module")
async def target(shared_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Target]:
    """It has little patience, so that the tests are short."""
    impatient = {
        "APP_API__HEADERS_TIMEOUT": "1s",
        "APP_API__REQUEST_TIMEOUT": "4s",
        "APP_API__KEEP_ALIVE_TIMEOUT": "2s",
        "APP_API__MAX_CONNECTIONS": str(CAPACITY),
    }
    async with attacked(tmp_path_factory.mktemp("attacked"), shared_database_url, impatient) as target:
        yield target


@pytest.fixture(scope="module")
async def honest(target: Target) -> AsyncIterator[Honest]:
    async with honest_client(target) as honest:
        async with honest.asking():  # until all that is loaded late has been
            await anyio.sleep(USUAL)
        yield honest


@pytest.fixture
def descriptors() -> int:
    """How many there may be here; as many as the system lets us have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = IDLE + SPARE
    soft = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return soft


@asynccontextmanager
async def unnoticed(target: Target, honest: Honest) -> AsyncIterator[None]:
    """What happens in the block is no business of others, costs no memory, and leaves nothing behind."""
    async with honest.asking() as usual:
        await anyio.sleep(USUAL)
    memory = target.memory()
    async with honest.asking() as beside:
        yield
        await anyio.sleep(USUAL)
    assert not beside.failures
    assert beside.median < SLOWER * usual.median, (len(beside.seconds), beside.seconds[-1])
    await target.forgotten()
    assert target.memory() < LARGER * memory


@pytest.mark.parametrize("crowds", CROWDS.values(), ids=CROWDS)
async def test_each_is_ended_in_time_and_others_do_not_notice(
    crowds: Sequence[Crowd], target: Target, honest: Honest
) -> None:
    answers: defaultdict[str, list[bytes]] = defaultdict(list)

    async def attack(crowd: Crowd) -> None:
        answers[crowd.name].append(await crowd.attacker(target))

    async with unnoticed(target, honest), anyio.create_task_group() as tasks:
        for crowd in crowds:
            for _ in range(crowd.size):
                tasks.start_soon(attack, crowd)
    for crowd in crowds:
        expected = crowd.expected(SERVER)
        found = [[reply.status for reply in replies(data)] for data in answers[crowd.name]]
        assert found == [[] if expected is None else [expected]] * crowd.size, crowd.name


async def test_thousands_of_idle_connections_shut_nobody_out(
    target: Target, honest: Honest, descriptors: int
) -> None:
    count = min(IDLE, descriptors - SPARE)
    assert count > CAPACITY, f"ulimit -n is {descriptors}"
    async with unnoticed(target, honest):
        with ExitStack() as stack:
            for number in range(count):
                stack.enter_context(socket.create_connection((target.host, target.port), timeout=LONG))
                if number % 50 == 0:
                    await anyio.lowlevel.checkpoint()
            await eventually(lambda: target.connections() <= CAPACITY + 1)  # and one that is on its way
            assert (await target.app.api.get("/api/v1/students/2")).status_code == 200


async def test_memory_does_not_grow_with_repetition(target: Target) -> None:
    async def attack() -> int:
        async with anyio.create_task_group() as tasks:
            for each in ATTACKS:
                tasks.start_soon(strike, target, each)
            for _ in range(50):
                tasks.start_soon(breaking_off, target)
        await target.forgotten()
        return target.memory()

    first, second, *_, last = [await attack() for _ in range(4)]
    assert last < 1.1 * max(first, second)
