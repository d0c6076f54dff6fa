"""The listening socket. It is bound first, so that a port that cannot be had is said before anything is started."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from schema.errors import ConfigurationError
from schema.settings import Address

BACKLOG = 1024
"""Connections that may wait to be accepted; the kernel has the last word (`net.core.somaxconn`)."""


def listen(bind: Address, *, setting: str) -> socket.socket:
    """A socket that listens on `bind`; with port 0 on a free port (see `address_of`).

    Params:
        setting: where `bind` was configured, for the error: `api.bind`.

    Raises:
        ConfigurationError: it cannot be had; the message says why, and what to change.
    """
    family, target = _resolve(bind, setting)
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET:
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.bind(target)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise ConfigurationError(f"{_where(bind, setting)}: {_explain(error, bind)}") from error
    return listener


def give_up_after(listener: socket.socket, timeout: timedelta) -> None:
    """Lets the kernel end connections of `listener` whose client takes nothing of what is sent to it for so long.

    It is gone, or does not read. Connections inherit this when they are accepted.
    """
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(timeout.total_seconds() * 1000))


def is_loopback(bind: Address, *, setting: str) -> bool:
    """Whether only this machine can reach what listens on `bind`.

    Raises:
        ConfigurationError: it is no address.
    """
    _, target = _resolve(bind, setting)
    return ip_address(str(target[0])).is_loopback


def address_of(listener: socket.socket) -> Address:
    """Where it really listens."""
    host, port = listener.getsockname()[:2]
    return Address(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")


def _resolve(bind: Address, setting: str) -> tuple[socket.AddressFamily, Any]:
    try:
        family, _, _, _, target = socket.getaddrinfo(
            bind.host, bind.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise ConfigurationError(
            f"{_where(bind, setting)}: {bind.host} is no address of a host: {error.strerror}"
        ) from error
    return family, target


def _where(bind: Address, setting: str) -> str:
    return f'{setting} = "{bind}" (APP_{setting.upper().replace(".", "__")})'


def _explain(error: OSError, bind: Address) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"the port is in use by {_occupant(bind.port) or 'another program'}: choose another"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{bind.host} is no address of this machine: try 127.0.0.1, or 0.0.0.0 for all of them"
    if error.errno == errno.EACCES:
        return "this user may not listen on that port: choose one above 1023"
    return f"cannot listen there: {error.strerror}"


def _occupant(port: int) -> str | None:
    """Who listens on a port, as far as `/proc` tells this user."""
    sockets = {f"socket:[{inode}]" for inode in _listening_inodes(port)}
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):  # processes end, and those of others are closed to us
            if str(descriptor.readlink()) in sockets:
                process = descriptor.parent.parent
                program, script, *_ = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
                # No options: a password may be among them.
                command = program if script.startswith("-") else f"{program} {script}".strip()
                return f"process {process.name} ({command})"
    return None


def _listening_inodes(port: int) -> Iterator[str]:
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with suppress(OSError), Path(table).open() as lines:
            for fields in map(str.split, lines):
                if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                    yield fields[9]
