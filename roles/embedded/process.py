"""A child process, from its start to its last signal."""

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
from anyio.abc import Process, TaskStatus

_TAIL_BYTES = 4096
_TAIL_LINES = 15
_KILL_SECONDS = 5.0
_NOBODYS_GROUP = 65534


class ServiceEnded(Exception):
    """An embedded server ended, or never came up, and nobody had asked it to. The message has its last words."""


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
    """Signals to end it with, each with the seconds that it has to take effect; then it is killed."""


class Child:
    """A running child process; `running` makes them."""

    def __init__(self, command: Command, process: Process) -> None:
        self._command = command
        self._process = process

    @property
    def pid(self) -> int:
        return self._process.pid

    async def serve(
        self,
        ready: Callable[[], Awaitable[None]],
        *,
        within: float,
        task_status: TaskStatus[None],
        stop: anyio.Event,
    ) -> None:
        """A role's life on top of this child: tells that it has started once it is ready, and returns upon `stop`.

        Params:
            ready: returns once the server serves.
            within: the seconds that it has for that.

        Raises:
            ServiceEnded: the child ended by itself, or was not ready in time.
        """
        failure: Exception | None = None

        async def cancel_after(happens: Callable[[], Awaitable[object]]) -> None:
            await happens()
            group.cancel_scope.cancel()

        async with anyio.create_task_group() as group:
            group.start_soon(cancel_after, self._process.wait)
            group.start_soon(cancel_after, stop.wait)
            try:
                with anyio.fail_after(within):
                    await ready()
                task_status.started()
                await anyio.sleep_forever()
            except Exception as error:  # noqa: BLE001 - it is raised below, where no group can wrap it
                failure = error
                group.cancel_scope.cancel()
        if stop.is_set():
            return
        if isinstance(failure, TimeoutError):
            raise ServiceEnded(await self._last_words(f"was not ready within {within:g} s")) from failure
        if failure is not None:
            raise failure
        code = self._process.returncode or 0
        how = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
        raise ServiceEnded(await self._last_words(f"ended with {how}"))

    async def end(self) -> None:
        """Signals the child until it ends, then kills whatever is left of its process group."""
        for number, seconds in self._command.stop:
            if self._process.returncode is not None:
                break
            with suppress(ProcessLookupError):
                self._process.send_signal(number)
            with anyio.move_on_after(seconds):
                await self._process.wait()
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        with anyio.move_on_after(_KILL_SECONDS):
            await self._process.wait()

    async def _last_words(self, what: str) -> str:
        log = self._command.log
        return f"{self._command.name} {what}. The end of {log}:\n{await anyio.to_thread.run_sync(_tail, log)}"


@asynccontextmanager
async def running(command: Command) -> AsyncIterator[Child]:
    """Runs the command for the length of the block, in a session of its own; nothing of it outlives the block.

    Its own session keeps the terminal's Ctrl-C away from it: the roles still need it while they drain.
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
            await child.end()


def dying_with_parent(number: signal.Signals, *, user: int | None = None) -> list[str]:
    """What to put before a command so that the kernel signals it when this process dies, even of SIGKILL.

    With `user`, it also runs as that user id, and keeps of root's powers only that it may enter and read what root
    may: a checkout below `/root` is closed to everybody else.

    It takes `setpriv` (util-linux). Without, this is empty, and `user` must be None.
    """
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        return []
    prefix = [setpriv, f"--pdeathsig={number.name.removeprefix('SIG')}"]
    if user is not None:
        kept = "-all,+dac_override"
        prefix += [f"--reuid={user}", f"--regid={_NOBODYS_GROUP}", "--clear-groups"]
        prefix += [f"--inh-caps={kept}", f"--ambient-caps={kept}", f"--bounding-set={kept}"]
    return [*prefix, "--"]


def _tail(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
        lines = file.read().decode(errors="replace").splitlines()[-_TAIL_LINES:]
    return "\n".join(f"    {line}" for line in lines) or "    (it is empty)"


def _open_log(log: Path) -> int:
    with suppress(FileNotFoundError):
        log.replace(log.with_name(f"{log.name}.1"))
    return os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
