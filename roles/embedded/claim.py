"""One process at a time per data directory."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from schema.errors import ConfigurationError


def claim(directory: Path) -> None:
    """Makes this process the one that runs the service in `directory`, until it exits.

    The claim is a lock that the kernel drops with the process, however it ends, so it is never stale. A service
    that is restarted keeps it: between two runs nobody else can take the directory.

    Raises:
        ConfigurationError: another process has claimed it.
    """
    holder = _claim(directory.resolve())
    if holder is not None:
        raise ConfigurationError(
            f"{directory}: process {holder} already runs this embedded service. "
            "Stop it, or choose another embedded.directory, or use the running one: "
            "set database.url and amqp.example.url to its addresses"
        )


def is_claimed_elsewhere(directory: Path) -> bool:
    """Whether another process runs the service in `directory`; if none does, this one claims it."""
    return _claim(directory.resolve()) is not None


def _claim(directory: Path) -> str | None:
    """None once the directory is ours, else the pid of who has it."""
    return None if _hold(directory) else _holder(directory)


_held: dict[Path, int] = {}


def _hold(directory: Path) -> bool:
    if directory in _held:
        return True
    directory.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return False
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    _held[directory] = descriptor
    return True


def _holder(directory: Path) -> str:
    return (directory / "lock").read_text().strip() or "unknown"
