"""Where logs leave the process, without ever holding it up.

A write to a pipe blocks when its reader is slow (a log collector that stalls, a terminal stopped with Ctrl-S),
and raises when it is gone; either would take the whole process along. So what a reader does not take at once
waits here, up to a limit; what exceeds it is counted and dropped; and once the reader is gone, all is dropped.
"""

from __future__ import annotations

import os
import select
import time
from typing import TextIO

LIMIT = 1024 * 1024
"""Bytes that wait for a slow reader; about five thousand records."""

_CHUNK = select.PIPE_BUF
"""What a pipe that is ready takes without blocking (POSIX); a terminal makes no such promise."""


class Outlet:
    """A text stream for `logging` and Rich over another one. Not thread-safe: its users have locks of their own."""

    def __init__(self, stream: TextIO | None) -> None:
        """Wraps `stream`; None, as `sys.stdout` is in a process that was started without one, drops all."""
        self._stream = stream
        self._waiting = bytearray()
        self._lost = 0
        self._fd = self._shared = -1
        self._ready = select.poll()
        self.encoding = getattr(stream, "encoding", None) or "utf-8"
        if stream is not None:
            try:
                stream.flush()
                self._shared = stream.fileno()
                self._fd = _without_blocking(self._shared)
                self._ready.register(self._fd, select.POLLOUT)
            except (OSError, ValueError):
                pass  # in memory, or closed already: `write` finds out

    def isatty(self) -> bool:
        return self._fd >= 0 and os.isatty(self._fd)

    def fileno(self) -> int:
        return self._fd

    def write(self, text: str) -> int:
        """Sends the text, keeps it for later, or drops it, but does not wait."""
        self.keep(text)
        self.flush()
        return len(text)

    def keep(self, text: str) -> None:
        """Keeps the text until `flush`, or drops it if there is no room."""
        if self._stream is None:
            return
        data = text.encode(self.encoding, "backslashreplace")
        if len(self._waiting) + len(data) > LIMIT:
            self._lost += 1
        else:
            self._waiting += data

    def flush(self, patience: float = 0.0) -> None:
        """Sends what waits for as long as the reader takes it, and gives a slow one up to `patience` seconds."""
        try:
            self._send(time.monotonic() + patience)
        except BlockingIOError:
            pass  # somebody made the pipe non-blocking, and it is full: the rest goes next time
        except (OSError, ValueError):  # a broken pipe, a terminal that hung up; ValueError: closed by ourselves
            self._abandon()

    def take_lost(self) -> int:
        """How many texts were dropped since the last call, once there is room to say so; zero until then."""
        if self._waiting:
            return 0
        lost, self._lost = self._lost, 0
        return lost

    def _send(self, deadline: float) -> None:
        if self._stream is not None and self._fd < 0:
            self._stream.write(self._waiting.decode(self.encoding))
            self._waiting.clear()
        while self._waiting and self._ready.poll(max(0.0, deadline - time.monotonic()) * 1000):
            del self._waiting[: os.write(self._fd, self._waiting[:_CHUNK])]

    def _abandon(self) -> None:
        self._stream = None
        self._waiting.clear()
        if self._fd >= 0:  # what others have buffered must not fail at exit, which would end the process with 120
            nowhere = os.open(os.devnull, os.O_WRONLY)
            for descriptor in {self._fd, self._shared}:
                os.dup2(nowhere, descriptor)
            os.close(nowhere)


def _without_blocking(descriptor: int) -> int:
    """A descriptor for the same place whose writes never wait.

    A terminal that was stopped is opened once more: made non-blocking as it is, it would be so for the shell as
    well, which shares it.
    """
    if not os.isatty(descriptor):
        return descriptor
    return os.open(os.ttyname(descriptor), os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
