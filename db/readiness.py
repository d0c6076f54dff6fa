"""Tells when PostgreSQL has answered: one `epoll` for the sockets of a pool, in the place of a reader for each wait.

psycopg has the event loop watch a socket anew for each answer, and a timer beside it: seven system calls and a handle
of libuv, half of what a round trip costs. Here the loop watches one descriptor all the time. A socket is armed when
its answer is awaited, for one event, which takes one call and finds what has come before. In between it wakes nobody.
One that is closed leaves by itself, whoever closes it, libpq included.
"""

from __future__ import annotations

import asyncio
import select
from typing import Final

POSSIBLE: Final = hasattr(select, "epoll")
"""It is Linux's."""

AT_ONCE: Final = 64
"""Sockets that are told of in one turn of the loop, at most; the others follow in the next."""


class Readiness:
    """Which sockets have something to be read. For one event loop."""

    def __init__(self) -> None:
        self.closed = False
        self._epoll: select.epoll | None = None
        """None before the first wait, and in the end."""
        self._loop: asyncio.AbstractEventLoop
        self._awaited: dict[int, asyncio.Future[None]] = {}
        """By descriptor."""

    def readable(self, descriptor: int) -> asyncio.Future[None]:
        """Done once there is something to read, an end or an error included, or after `wake`.

        Raises:
            OSError: the descriptor is closed.
        """
        epoll, once = self._epoll or self._open(), select.EPOLLIN | select.EPOLLONESHOT
        future = self._loop.create_future()
        try:
            epoll.modify(descriptor, once)
        except FileNotFoundError:  # its first time, or the number was another socket's before
            epoll.register(descriptor, once)
        self._awaited[descriptor] = future
        return future

    def wake(self, descriptor: int) -> None:
        """Ends the wait for this one, which is about to be closed, and has no event then."""
        self._end(self._awaited.pop(descriptor, None))

    def close(self) -> None:
        """Gives its own descriptor back, and wakes all, who have to wait in another way."""
        self.closed = True
        if self._epoll is not None:
            self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()
            self._epoll = None
        for descriptor in tuple(self._awaited):
            self.wake(descriptor)

    def _open(self) -> select.epoll:
        self._loop = asyncio.get_running_loop()
        self._epoll = select.epoll()
        self._loop.add_reader(self._epoll.fileno(), self._tell)
        return self._epoll

    def _tell(self) -> None:
        assert self._epoll is not None, "the loop does not call any more then"
        for descriptor, _ in self._epoll.poll(0, AT_ONCE):
            self._end(self._awaited.pop(descriptor, None))

    def _end(self, future: asyncio.Future[None] | None) -> None:
        if future is not None and not future.done():
            future.set_result(None)
