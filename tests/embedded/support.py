"""Runs the embedded roles by themselves, in this process or in one that can be killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path

import anyio
from anyio.abc import TaskStatus

from roles.role import Role
from tests.services import SOURCES

ROOT = Path(__file__).parent.parent.parent
DEADLINE = 60.0


class Started(TaskStatus[None]):
    """A task status that can be waited for."""

    def __init__(self) -> None:
        self.event = anyio.Event()

    def started(self, value: None = None) -> None:
        self.event.set()


@asynccontextmanager
async def up(role: Role) -> AsyncIterator[None]:
    """Runs the role, from when it has started until the block ends."""
    stop = anyio.Event()
    with anyio.fail_after(DEADLINE):
        async with anyio.create_task_group() as group:
            await group.start(partial(role.run, stop=stop))
            yield
            stop.set()


async def run_until_it_fails(role: Role, once_started: Callable[[], Awaitable[None]]) -> None:
    """Runs the role and does something to it once it has started; raises what the role raises."""
    status = Started()

    async def interfere() -> None:
        await status.event.wait()
        await once_started()

    failure: Exception | None = None
    with anyio.fail_after(DEADLINE):
        async with anyio.create_task_group() as group:
            group.start_soon(interfere)
            try:
                await role.run(task_status=status, stop=anyio.Event())
            except Exception as error:
                failure = error
            group.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def eventually(condition: Callable[[], bool], within: float = 20.0) -> None:
    with anyio.fail_after(within):
        while not condition():  # noqa: ASYNC110 - what is waited for is outside of this process
            await anyio.sleep(0.1)


@contextmanager
def another_process(code: str, *arguments: str, environment: Mapping[str, str] | None = None) -> Iterator[Parent]:
    """Runs Python code in a process of its own; once it has printed a line, until the block ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environment or {})},
    )
    assert process.stdout is not None
    try:
        yield Parent(process, process.stdout.readline().strip())
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


class Parent:
    """A process that was started to be killed."""

    def __init__(self, process: subprocess.Popen[str], line: str) -> None:
        self.pid = process.pid
        self.line = line
        self._process = process

    def die(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()


HOLD = f"""
import sys
from functools import partial
from pathlib import Path
import anyio
from roles.embedded.postgres import Postgres
from roles.embedded.rabbitmq import RabbitMQ

async def main():
    directory = Path(sys.argv[2])
    sources = Path({str(SOURCES)!r})
    role = Postgres(directory) if sys.argv[1] == "postgres" else RabbitMQ(directory, source_directory=sources)
    async with anyio.create_task_group() as group:
        await group.start(partial(role.run, stop=anyio.Event()))
        print(role.url, flush=True)

anyio.run(main)
"""
"""Runs one of the roles for ever and prints its URL: `postgres DIRECTORY` or `rabbitmq DIRECTORY`."""


def program(folder: Path, name: str, script: str = "exit 0") -> Path:
    """Makes a shell script that can be run."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / name
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)
    return file


def is_alive(pid: int) -> bool:
    """Whether the process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def listening_addresses(pids: list[int]) -> set[str]:
    """The addresses of the TCP sockets that the processes listen on, as /proc spells them: little-endian hex."""
    open_files = {target for pid in pids for target in _open_files(pid)}
    addresses = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in open_files:
                addresses.add(fields[1].partition(":")[0])
    return addresses


def _open_files(pid: int) -> Iterator[str]:
    for link in Path(f"/proc/{pid}/fd").glob("*"):
        with suppress(FileNotFoundError):  # closed while we looked
            yield str(link.readlink())


LOOPBACK = {"0100007F", "00000000000000000000000001000000"}
"""127.0.0.1 and ::1, as /proc spells them."""
