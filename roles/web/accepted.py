"""The connections of a server that does not show them, found among the descriptors of this process (Linux).

Who is at the other end, and since when nothing was sent, the kernel knows. What is shut down here ends for the server
as if its client had gone, so a server can be made to part with connections that it would keep.
"""

from __future__ import annotations

import os
import socket
import stat
import struct
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from datetime import timedelta
from fcntl import ioctl
from pathlib import Path
from termios import TIOCOUTQ
from typing import Any, Final

Client = tuple[str, int]
"""Host and port of the other end."""

_TCP_INFO: Final = struct.Struct("=8x10I")
"""The beginning of Linux's `struct tcp_info`; the last of these are the milliseconds since data was sent."""
_COUNT: Final = struct.Struct("=i")


class Accepted:
    """The connections that were accepted on `listener`."""

    def __init__(self, listener: socket.socket) -> None:
        self._address = listener.getsockname()[:2]
        self._everywhere = self._address[0] in ("0.0.0.0", "::")  # noqa: S104 - compared, not bound

    def end(self) -> int:
        """Ends all; returns how many that were."""
        return self._end(lambda _: True)

    def end_idle(self, since: timedelta, *, busy: Collection[Client]) -> int:
        """Ends those on which nothing was sent for that long, and nothing waits to be; returns how many that were.

        Params:
            busy: clients whose requests are in flight: theirs stay.
        """
        return self._end(lambda connection: _is_idle(connection, busy) and _since_sent(connection) >= since)

    def make_place(self, most: int, *, busy: Collection[Client]) -> int:
        """If there are as many as there may be, ends a tenth of them: those that are idle for longest.

        Returns:
            How many that were: fewer, if the others are not idle.
        """
        count = 0
        idle: list[tuple[timedelta, int]] = []
        for connection in self._each():
            with suppress(OSError):  # it has ended by itself
                count += 1
                if _is_idle(connection, busy):
                    idle.append((_since_sent(connection), _identity(connection)))
        if count < most or not idle:
            return 0
        longest = {identity for _, identity in sorted(idle, reverse=True)[: max(most // 10, 1)]}
        return self._end(lambda connection: _identity(connection) in longest)

    def _end(self, condition: Callable[[socket.socket], bool]) -> int:
        ended = 0
        for connection in self._each():
            with suppress(OSError):  # it has ended by itself
                if condition(connection):
                    connection.shutdown(socket.SHUT_RDWR)
                    ended += 1
        return ended

    def _each(self) -> Iterator[socket.socket]:
        """One after the other, as a copy: it stays this very socket, whatever its number is given to meanwhile.

        One at a time, for there may be few descriptors left.
        """
        for descriptor in [int(path.name) for path in Path("/proc/self/fd").iterdir()]:
            try:
                if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                    continue
                connection = socket.socket(fileno=os.dup(descriptor))
            except OSError:  # another thread has closed it
                continue
            with connection:
                if self._is_ours(connection):
                    yield connection

    def _is_ours(self, connection: socket.socket) -> bool:
        if connection.family not in (socket.AF_INET, socket.AF_INET6) or connection.type != socket.SOCK_STREAM:
            return False
        try:
            connection.getpeername()
            host, port, *_ = connection.getsockname()
        except OSError:  # it listens, or has ended by itself
            return False
        return port == self._address[1] and (self._everywhere or host == self._address[0])


def _is_idle(connection: socket.socket, busy: Collection[Client]) -> bool:
    return connection.getpeername()[:2] not in busy and not _unsent(connection)


def _identity(connection: socket.socket) -> int:
    return os.fstat(connection.fileno()).st_ino


def _unsent(connection: socket.socket) -> int:
    """Bytes that were written and have not arrived at the other end."""
    count: Any = _COUNT.unpack(ioctl(connection, TIOCOUTQ, bytes(_COUNT.size)))
    return int(count[0])


def _since_sent(connection: socket.socket) -> timedelta:
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
    return timedelta(milliseconds=_TCP_INFO.unpack(info)[-1])
