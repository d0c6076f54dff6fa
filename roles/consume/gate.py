"""Many at a time, or one alone."""

from __future__ import annotations

import anyio


class Gate:
    """Lets handlers in side by side, until one has to be alone.

    Who wants to be alone goes before those who do not: they wait until nobody wants it any more. With nobody who
    does, to enter and to leave is to count.
    """

    def __init__(self) -> None:
        self._inside = 0
        self._wanted = 0
        self._turn = anyio.Lock()
        self._empty = anyio.Event()
        self._open = anyio.Event()

    def enter(self) -> bool:
        """Enters, to be followed by `leave`; False, and nothing happens, if somebody is or wants to be alone."""
        if self._wanted:
            return False
        self._inside += 1
        return True

    async def opened(self) -> None:
        """Returns when nobody is or wants to be alone; they may before the caller has entered."""
        if self._wanted:
            await self._open.wait()

    def leave(self) -> None:
        self._inside -= 1
        if not self._inside:
            self._empty.set()

    async def enter_alone(self) -> None:
        """Returns when nobody else is inside, in the order of the calls. To be followed by `leave_alone`."""
        self._wanted += 1
        try:
            await self._turn.acquire()
            try:
                while self._inside:
                    self._empty = anyio.Event()
                    await self._empty.wait()
            except BaseException:
                self._turn.release()
                raise
        except BaseException:
            self._unwanted()
            raise

    def leave_alone(self) -> None:
        self._turn.release()
        self._unwanted()

    def _unwanted(self) -> None:
        self._wanted -= 1
        if not self._wanted:
            self._open.set()
            self._open = anyio.Event()
