"""What a parent that was killed left running.

The kernel tells most children of their parent's death (see `process.dying_with_parent`). This is for the rest, and
for waiting until those have gone. It looks into `/proc`; where there is none, it finds nothing.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
import structlog

from roles.embedded.process import ServiceEnded

log = structlog.get_logger(__name__)

MARK = "ROLECALL_EMBEDDED"
"""Environment variable that marks the processes of a service with the directory it runs in."""


def marked_with(directory: Path) -> list[int]:
    """The processes that were started for the service in `directory`, or by one that was."""
    wanted = os.fsencode(f"{MARK}={directory}")
    return _processes(lambda entry: wanted in (entry / "environ").read_bytes().split(b"\0"))


def working_in(directory: Path, program: str) -> list[int]:
    """The processes of `program` whose working directory is `directory`."""

    def matches(entry: Path) -> bool:
        if (entry / "cwd").readlink() != directory:
            return False
        return (entry / "exe").readlink().name.removesuffix(" (deleted)") == program

    return _processes(matches)


async def end(find: Callable[[], list[int]], signals: Sequence[tuple[signal.Signals, float]], *, name: str) -> None:
    """Ends the processes that `find` finds.

    Params:
        signals: what to send, each with the seconds that it has to take effect.

    Raises:
        ServiceEnded: one of them outlived even the last signal.
    """
    look = partial(anyio.to_thread.run_sync, find)
    pids = await look()
    if pids:
        log.warning("stopping what an earlier process left running", service=name, pids=pids)
    for number, seconds in signals:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        with anyio.move_on_after(seconds):
            while pids:
                await anyio.sleep(0.05)
                pids = await look()
        if not pids:
            return
    raise ServiceEnded(f"{name}: processes {pids} of an earlier run do not end; kill them")


def _processes(matches: Callable[[Path], bool]) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        # Gone while we looked, or somebody else's: either way none of ours.
        with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            if matches(entry):
                found.append(int(entry.name))
    return [pid for pid in found if pid != os.getpid()]
