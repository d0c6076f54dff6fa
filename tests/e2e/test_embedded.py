"""The application with servers of its own, as `make run` starts it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import anyio
import pytest

from roles.embedded import debian
from tests.e2e.support import App, running
from tests.services import SOURCES

pytestmark = [pytest.mark.anyio, pytest.mark.early, pytest.mark.timeout(180)]


@pytest.fixture
def home(here: Path) -> Path:
    """A directory to start in, with the broker unpacked, if it has to be."""
    unpacked = debian.unpacked(SOURCES)
    if unpacked.exists():
        (here / ".local").mkdir()
        (here / ".local" / unpacked.name).symlink_to(unpacked)
    return here


def processes(home: Path) -> dict[int, str]:
    """Every process that mentions the directory in its arguments or environment, by id."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
            name = (process / "comm").read_text().strip()
        except OSError:
            continue  # it has ended, or it is somebody else's
        if os.fsencode(home) in words and int(process.name) != os.getpid():
            found[int(process.name)] = name
    return found


def listening(pids: set[int]) -> set[str]:
    """The addresses that these processes listen on, as the kernel writes them."""
    links = [str(link.readlink()) for pid in pids for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()]
    inodes = {link.removeprefix("socket:[").removesuffix("]") for link in links}
    found = set()
    for table in ("tcp", "tcp6"):
        for fields in map(str.split, Path(f"/proc/net/{table}").read_text().splitlines()[1:]):
            if fields[3] == "0A" and fields[9] in inodes:
                found.add(fields[1].rpartition(":")[0])
    return found


async def gone(home: Path, *, within: float = 60) -> None:
    with anyio.fail_after(within):
        while processes(home):  # noqa: ASYNC110 - what is waited for are other processes
            await anyio.sleep(0.1)


async def add(app: App, name: str) -> None:
    assert (await app.api.post("/api/v1/students", json={"name": name})).status_code == 201


async def on_disk(home: Path, queue: bytes) -> None:
    """A quorum queue that is killed in its first three seconds is lost: RabbitMQ's list of them is written late."""

    def written() -> bool:
        return any(queue in each.read_bytes() for each in home.glob(".local/rabbitmq/**/names.dets"))

    with anyio.fail_after(60):
        while not written():  # noqa: ASYNC110 - what is waited for is another process
            await anyio.sleep(0.1)


async def names(app: App) -> set[str]:
    found = (await app.api.get("/api/v1/students", params={"limit": 100})).json()["items"]
    return {student["name"].removesuffix("_new") for student in found}


async def test_data_outlives_exits_and_deaths_of_all_and_nothing_is_left_behind(home: Path) -> None:
    async with running(home, environ={"DEBUG": "true"}) as app:
        await add(app, "Ada")
        ready = await app.logged("ready")
        assert {"api", "docs", "ops", "psql", "management", "curl"} <= ready.keys()
        assert (await app.api.get("/docs")).status_code == 200
        servers = processes(home)
        assert {"postgres", "beam.smp", "epmd"} <= set(servers.values())
        addresses = listening(set(servers))
        assert addresses
        assert addresses <= {"0100007F", "00000000000000000000000001000000"}, "127.0.0.1 and ::1, as /proc has them"
        assert await app.stop() == 0
    await gone(home)

    async with running(home) as app:
        assert await names(app) == {"Ada"}
        await add(app, "Ben")
        app.kill(signal.SIGKILL)
        await app.exited()

    async with running(home) as app:
        assert await names(app) == {"Ada", "Ben"}
        await on_disk(home, b"example.main.parked")
        await killed_and_started_again(app, home, "postgres", "postgres")
        await killed_and_started_again(app, home, "rabbitmq", "beam.smp")
        assert (await app.logged("ready"))["management"]
        assert await app.stop() == 0
    await gone(home)


async def killed_and_started_again(app: App, home: Path, role: str, process: str) -> None:
    """Kills a server, and returns when the application works with it again."""
    victim = min(pid for pid, name in processes(home).items() if name == process)
    os.kill(victim, signal.SIGKILL)
    failed = await app.logged("role failed", role=role)
    await app.logged("role started", role=role, since=app.records.index(failed))
    await app.ready()
    assert await names(app) == {"Ada", "Ben"}


async def test_a_second_process_on_the_same_data_is_told_what_to_do(home: Path) -> None:
    async with running(home, "--roles", "api") as app:
        async with running(home, "--roles", "api", wait=False) as other:
            assert await other.exited() == 2
            assert str(app.process.pid) in other.output
            assert "embedded.directory" in other.output
        await add(app, "Ada")
