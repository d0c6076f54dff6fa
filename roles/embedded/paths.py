"""Directories of our own, and stand-ins for those whose paths a program cannot take."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import tempfile
from pathlib import Path

from schema.errors import ConfigurationError

# sun_path of struct sockaddr_un holds 104 bytes on the BSDs and macOS, 108 on Linux, a NUL among them.
_SOCKET_PATH_BYTES = 103
_SOCKET_NAME = ".s.PGSQL.5432"
_UNQUOTED = re.compile(r"[\w./+@%=-]+", re.ASCII)


def socket_directory(directory: Path) -> Path:
    """Where to keep PostgreSQL's socket: `directory`, or its stand-in if it could not be named there.

    A path can be too long for a socket; libpq takes a comma for the start of another host, and the server takes
    quotes for its own.
    """
    longest = directory / _SOCKET_NAME
    if len(os.fsencode(longest)) <= _SOCKET_PATH_BYTES and not set(str(directory)) & set(",\"'\\"):
        return directory
    return stand_in(directory)


def needs_quotes(path: Path) -> bool:
    """Whether a shell script that forgets its quotes would stumble over this path."""
    return _UNQUOTED.fullmatch(str(path)) is None


def stand_in(directory: Path) -> Path:
    """A short, plain path in the directory for temporary files: the same for the same `directory`, every time."""
    digest = hashlib.sha256(os.fsencode(directory)).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"rolecall-{os.geteuid()}-{digest}"


def make_private(directory: Path, *, owner: int | None = None) -> None:
    """Makes a directory that only `owner` (a user id; by default our own) may enter.

    Raises:
        ConfigurationError: it is there already and is somebody else's.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in {os.geteuid(), owner}:
        raise ConfigurationError(
            f"{directory} belongs to user id {found.st_uid}: run this program as that user, or choose another "
            "embedded.directory"
        )
    directory.chmod(0o700)
    if owner is not None:
        os.chown(directory, owner, -1)


def write_private(file: Path, text: str) -> None:
    """Writes a file that only we may read, whole or not at all."""
    unfinished = file.with_name(f"{file.name}.unfinished")
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(text)
    unfinished.replace(file)
