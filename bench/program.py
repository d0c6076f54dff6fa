"""A program under test: started on a core of its own, its logs read as a log collector would, its costs measured."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import httpx
from anyio.abc import Process

ROOT = Path(__file__).parent.parent
APP = str(ROOT / "app.py")

CORE, *OTHER_CORES = sorted(os.sched_getaffinity(0))
"""The core of the program under test, and those of everything else."""

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_NOT_INHERITED = ("ROLES", "DEBUG", "PYTHONDONTWRITEBYTECODE")


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A way to do the work.

    Params:
        arguments: of the Python interpreter.
        ready: a path that is answered with 200 once it is at work; None if it serves no HTTP.
    """

    name: str
    arguments: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    ready: str | None = None


class Program:
    """A candidate that runs."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.tail = b""
        """The last that it said."""

    def cpu_seconds(self) -> float:
        """What it has used so far, user and system together."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND

    def memory(self) -> dict[str, float]:
        """Megabytes (10⁶ bytes): `Rss`, all pages in memory; `Pss`, where a shared one counts in parts."""
        lines = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text().splitlines()[1:]
        kibibytes = {name: int(value.split()[0]) for name, _, value in (line.partition(":") for line in lines)}
        return {name: kibibytes[name] * 1024 / 1e6 for name in ("Rss", "Pss")}

    async def answers(
        self, url: str, *, headers: Mapping[str, str] | None = None, within: float = 30, every: float = 0.02
    ) -> None:
        """Returns when a GET of `url` is answered with 200."""
        try:
            async with httpx.AsyncClient(trust_env=False, timeout=5, headers=headers) as client:
                with anyio.fail_after(within):
                    while not await _is_ok(client, url):
                        if self.process.returncode is not None:
                            raise RuntimeError(f"it ended before it was ready:\n{self._said()}")
                        await anyio.sleep(every)
        except TimeoutError:
            raise RuntimeError(f"no 200 from {url} within {within} s:\n{self._said()}") from None

    async def drain(self) -> None:
        """Reads its output until it ends."""
        assert self.process.stdout is not None
        async for chunk in self.process.stdout:
            self.tail = (self.tail + chunk)[-4096:]

    def _said(self) -> str:
        return self.tail.decode(errors="replace")


@asynccontextmanager
async def running(candidate: Candidate, directory: Path, *, pinned: bool = True) -> AsyncIterator[Program]:
    """Starts a candidate in `directory`, and ends it with SIGTERM when the block ends.

    Params:
        pinned: whether it gets one core only.
    """
    inherited = {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED}
    process = await anyio.open_process(
        [sys.executable, *candidate.arguments],
        cwd=directory,
        env={**inherited, "PYTHONPATH": str(ROOT), **candidate.environment},
        stdin=None,
        stderr=-2,  # subprocess.STDOUT
    )
    if pinned:
        os.sched_setaffinity(process.pid, {CORE})
    program = Program(process)
    async with anyio.create_task_group() as group:
        group.start_soon(program.drain)
        try:
            yield program
        finally:
            with anyio.CancelScope(shield=True):
                await _end(process)


def use_other_cores() -> None:
    """Leaves the first core to the program under test; for this process, and for the servers that it starts."""
    if OTHER_CORES:
        os.sched_setaffinity(0, OTHER_CORES)


def free_port() -> int:
    """A port that nothing listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def _is_ok(client: httpx.AsyncClient, url: str) -> bool:
    try:
        return (await client.get(url)).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


async def _end(process: Process) -> None:
    if process.returncode is None:
        process.terminate()
    with anyio.move_on_after(30) as patience:
        await process.wait()
    if patience.cancelled_caught:
        process.kill()
        await process.wait()
