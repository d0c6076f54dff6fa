"""Short paths without odd characters, for programs that cannot take any other."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from pathlib import Path

from schema.errors import ConfigurationError

# sun_path of struct sockaddr_un holds 104 bytes on the BSDs and macOS, 108 on Linux, a NUL among them.
_SOCKET_PATH_BYTES = 103
_SOCKET_NAME = ".s.PGSQL.5432"


def socket_directory(directory: Path) -> Path:
    """Where to keep PostgreSQL's socket: `directory`, or its stand-in if clients could not name it there.

    A path can be too long for a socket, and libpq takes a comma for the start of another host.
    """
    longest = directory / _SOCKET_NAME
    if len(os.fsencode(longest)) <= _SOCKET_PATH_BYTES and "," not in str(directory):
        return directory
    return stand_in(directory)


def stand_in(directory: Path) -> Path:
    """A short path in the directory for temporary files: the same for the same `directory`, every time."""
    digest = hashlib.sha256(os.fsencode(directory)).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"rolecall-{os.geteuid()}-{digest}"


def make_private(directory: Path, *, owner: int | None = None) -> None:
    """Makes a directory that only `owner` (by default this user) may enter.

    Raises:
        ConfigurationError: it is there already and is somebody else's.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in {os.geteuid(), owner}:
        raise ConfigurationError(f"{directory} belongs to user id {found.st_uid} and not to us: remove it")
    directory.chmod(0o700)
    if owner is not None:
        os.chown(directory, owner, -1)
