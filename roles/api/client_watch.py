"""Notices that a client has gone while its request is handled."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Self, cast

import anyio
from hypercorn.typing import ASGIReceiveCallable


class ClientWatch:
    """Cancels `scope` if the client closes its connection within the block, which is for after its whole body.

    The next that `receive` has to give then is the client's going. A task that waits for it would cost more than
    many a handler, so no task does: `receive` is stepped to the future that it waits for in the end (of Hypercorn's
    queue, or of `roles.web.granian_requests`), and that one calls back. The end of the reply does so too, so leave
    the block before.
    """

    __slots__ = ("_event", "_receive", "_scope", "_waiting", "gone")

    def __init__(self, receive: ASGIReceiveCallable, scope: anyio.CancelScope) -> None:
        self._receive, self._scope = receive, scope
        self._event: asyncio.Future[Any] | None = None
        self.gone = False
        """Whether it went."""

    def __enter__(self) -> Self:
        self._waiting = cast("Coroutine[asyncio.Future[Any], None, object]", self._receive())
        try:
            self._event = self._waiting.send(None)
        except StopIteration:  # it had gone already
            self._went()
        else:
            self._event.add_done_callback(self._went)
        return self

    def __exit__(self, *_: object) -> None:
        if self._event is not None:
            self._event.remove_done_callback(self._went)
        self._waiting.close()

    def _went(self, _event: object = None) -> None:
        self.gone = True
        self._scope.cancel()
