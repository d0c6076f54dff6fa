"""The connections of a server that does not show them, found among the descriptors of this process (Linux).

Who is at the other end, and since when nothing was sent, the kernel knows. What is shut down here ends for the server
as if its client had gone, so a server can be made to part with connections that it would keep.
"""

from __future__ import annotations

import os
import socket
import stat
import struct
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
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
        with self._all() as all_of_them:
            return _shut_down(all_of_them)

    def end_idle(self, since: timedelta, *, busy: Collection[Client]) -> int:
        """Ends those on which nothing was sent for that long, and nothing waits to be; returns how many that were.

        Params:
            busy: clients whose requests are in flight: theirs stay.
        """
        with self._all() as all_of_them:
            return _shut_down([each for each in _idle(all_of_them, busy) if _since_sent(each) >= since])

    def make_place(self, most: int, *, busy: Collection[Client]) -> int:
        """If there are as many as there may be, ends a tenth of them: those that are idle for longest.

        Returns:
            How many that were: fewer, if the others are not idle.
        """
        with self._all() as all_of_them:
            if len(all_of_them) < most:
                return 0
            idle = sorted(_idle(all_of_them, busy), key=_since_sent, reverse=True)
            return _shut_down(idle[: max(most // 10, 1)])

    @contextmanager
    def _all(self) -> Iterator[list[socket.socket]]:
        with ExitStack() as copies:
            found = []
            for descriptor in [int(path.name) for path in Path("/proc/self/fd").iterdir()]:
                with suppress(OSError):  # another thread has closed it, or it is not connected
                    if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                        # A copy stays this very socket, whatever its number is given to next.
                        connection = copies.enter_context(socket.socket(fileno=os.dup(descriptor)))
                        if self._is_ours(connection):
                            found.append(connection)
            yield found

    def _is_ours(self, connection: socket.socket) -> bool:
        if connection.family not in (socket.AF_INET, socket.AF_INET6) or connection.type != socket.SOCK_STREAM:
            return False
        connection.getpeername()  # raises for one that listens
        host, port, *_ = connection.getsockname()
        return port == self._address[1] and (self._everywhere or host == self._address[0])


def _shut_down(connections: list[socket.socket]) -> int:
    for connection in connections:
        with suppress(OSError):  # it has ended by itself
            connection.shutdown(socket.SHUT_RDWR)
    return len(connections)


def _idle(connections: list[socket.socket], busy: Collection[Client]) -> list[socket.socket]:
    def is_idle(connection: socket.socket) -> bool:
        with suppress(OSError):  # it has ended by itself
            return connection.getpeername()[:2] not in busy and not _unsent(connection)
        return False

    return [connection for connection in connections if is_idle(connection)]


def _unsent(connection: socket.socket) -> int:
    """Bytes that were written and have not arrived at the other end."""
    count: Any = _COUNT.unpack(ioctl(connection, TIOCOUTQ, bytes(_COUNT.size)))
    return int(count[0])


def _since_sent(connection: socket.socket) -> timedelta:
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
    return timedelta(milliseconds=_TCP_INFO.unpack(info)[-1])
