"""One process at a time per data directory."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from schema.errors import ConfigurationError

_claimed: dict[Path, int] = {}
"""The directories that are ours, each with the descriptor that holds its lock."""


def claim(directory: Path) -> None:
    """Makes this process the one that runs the service in `directory`, until it exits.

    The claim is a lock that the kernel drops with the process, however that ends, so it is never stale. A service
    that is restarted keeps it: nobody else can take the directory between two runs.

    Raises:
        ConfigurationError: another process has it.
    """
    holder = _claimed_by(directory)
    if holder is not None:
        raise ConfigurationError(
            f"{directory}: process {holder} runs this embedded service already: stop it, or choose another "
            "embedded.directory, or set database.url and amqp.example.url to the addresses that it printed"
        )


def is_claimed_elsewhere(directory: Path) -> bool:
    """Whether another process runs the service in `directory`; if none does, the claim is ours now."""
    return directory.exists() and _claimed_by(directory) is not None


def _claimed_by(directory: Path) -> str | None:
    """The id of the other process that has the claim; None once it is ours."""
    directory = directory.resolve()
    if directory in _claimed:
        return None
    descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(descriptor, 20).decode() or "of unknown id"
        os.close(descriptor)
        return holder
    os.ftruncate(descriptor, 0)
    os.write(descriptor, str(os.getpid()).encode())
    _claimed[directory] = descriptor
    return None
