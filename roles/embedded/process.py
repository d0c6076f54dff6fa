"""A child process from its start to the last signal."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.to_thread
from anyio.abc import Process

_TAIL_BYTES = 4096
_TAIL_LINES = 15
_KILL_SECONDS = 5.0


class ServiceEnded(Exception):
    """An embedded server ended, or never came up, and nobody had asked it to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What to run, and how to end it."""

    name: str
    """What messages call it."""
    arguments: Sequence[str]
    directory: Path
    """Where it runs."""
    log: Path
    """Where its output goes; the log of the run before is kept beside it, as `*.1`."""
    environment: Mapping[str, str]
    """All of it: a server has no business with the settings and secrets of this program."""
    stop: Sequence[tuple[signal.Signals, float]]
    """Signals to end it with, each with the seconds that it has to take effect; then the group is killed."""


class Child:
    """A running child process."""

    def __init__(self, command: Command, process: Process) -> None:
        self._command = command
        self._process = process

    @property
    def pid(self) -> int:
        return self._process.pid

    async def during(self, work: Callable[[], Awaitable[None]]) -> None:
        """Does `work` for as long as the child lives.

        Raises:
            ServiceEnded: the child ended first; the message has the end of its log.
        """
        failure: Exception | None = None
        ended = False

        async def watch() -> None:
            nonlocal ended
            await self._process.wait()
            ended = True
            group.cancel_scope.cancel()

        async with anyio.create_task_group() as group:
            group.start_soon(watch)
            try:
                await work()
            except Exception as error:  # noqa: BLE001 - raised below, where no group can wrap it
                failure = error
            group.cancel_scope.cancel()
        if failure is not None:
            raise failure
        if ended:
            raise ServiceEnded(await anyio.to_thread.run_sync(self._obituary))

    async def stop(self) -> None:
        """Signals the child until it ends, then kills whatever is left of its process group."""
        for number, seconds in self._command.stop:
            if self._process.returncode is not None:
                break
            self._process.send_signal(number)
            with anyio.move_on_after(seconds):
                await self._process.wait()
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        with anyio.move_on_after(_KILL_SECONDS):
            await self._process.wait()

    def _obituary(self) -> str:
        code = self._process.returncode or 0
        how = f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"
        return f"{self._command.name} ended with {how}. The end of {self._command.log}:\n{tail(self._command.log)}"


@asynccontextmanager
async def running(command: Command) -> AsyncIterator[Child]:
    """Runs the command in a session of its own for the length of the block; nothing of it outlives the block.

    Its own session keeps the terminal's Ctrl-C away from it: it must outlive the roles that drain into it.
    """
    # A cancellation in the middle of the start would lose track of the process.
    with anyio.CancelScope(shield=True):
        log = await anyio.to_thread.run_sync(_open_log, command.log)
        try:
            process = await anyio.open_process(
                command.arguments,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=command.directory,
                env=command.environment,
                start_new_session=True,
            )
        finally:
            os.close(log)
    child = Child(command, process)
    try:
        yield child
    finally:
        with anyio.CancelScope(shield=True):
            await child.stop()


def dying_with_parent(number: signal.Signals, *, user: int | None = None) -> list[str]:
    """What to put before a command so that the kernel signals it when this process dies, even by SIGKILL.

    With `user`, it also runs as that user id, and may read and enter whatever root may: a checkout below `/root` is
    closed to everybody else. Where there is no `setpriv` (util-linux) this is empty, and so must `user` be.
    """
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        return []
    prefix = [setpriv, f"--pdeathsig={number.name.removeprefix('SIG')}"]
    if user is not None:
        capabilities = "-all,+dac_override"
        prefix += [f"--reuid={user}", "--regid=65534", "--clear-groups"]
        prefix += [f"--inh-caps={capabilities}", f"--ambient-caps={capabilities}", f"--bounding-set={capabilities}"]
    return [*prefix, "--"]


def tail(log: Path) -> str:
    """The last lines of a log, indented."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()[-_TAIL_LINES:]
    except FileNotFoundError:
        lines = []
    return "\n".join(f"    {line}" for line in lines) or "    (empty)"


def _open_log(log: Path) -> int:
    with suppress(FileNotFoundError):
        log.replace(log.with_name(log.name + ".1"))
    return os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
