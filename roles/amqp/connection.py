"""One connection to a broker: opened with a deadline, known to be lost as soon as it is, and cut when silent."""

from __future__ import annotations

import asyncio
import math
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import aiormq
import anyio
import anyio.lowlevel
from aiormq import exceptions
from yarl import URL

from roles.amqp.errors import BrokerUnavailable, said, unavailable
from roles.amqp.transport import Socket
from roles.cancellation import stray_cancellation_as
from schema.duration import format_duration
from schema.settings import Amqp

T = TypeVar("T")


class _Link(aiormq.Connection):
    HEARTBEAT_GRACE_MULTIPLIER = 2
    """The broker writes twice per interval: after two intervals of silence it is gone. aiormq waits for three."""


class Connection:
    """A connection that is open. It is not repaired when it is lost, but replaced."""

    def __init__(self, link: aiormq.Connection, peer: Socket, *, broker: str, settings: Amqp) -> None:
        self.link = link
        self.broker = broker
        self.lost = anyio.Event()
        self.on_lost: set[Callable[[], None]] = set()
        self.reason = ""
        self._peer = peer
        self._timeout = settings.timeout
        link.closing.add_done_callback(self._on_closing)

    @classmethod
    async def open(cls, url: str, *, broker: str, purpose: str, settings: Amqp) -> Connection:
        """Connects and logs in. The management page shows the connection as `rolecall <purpose>@<host>`.

        Raises:
            BrokerUnavailable: nobody there, nobody answers, or we are not let in.
        """
        heartbeat = max(1, math.ceil(settings.heartbeat.total_seconds()))
        target = URL(url).update_query(heartbeat=str(heartbeat), name=f"rolecall {purpose}@{socket.gethostname()}")
        peer = Socket()
        link = _Link(target, transport_factory=peer)
        where = f"broker {broker} at {target.host}:{target.port}"
        try:
            with anyio.fail_after(settings.timeout.total_seconds()):
                await _answer(link.connect())
        except TimeoutError:
            peer.cut()
            raise BrokerUnavailable(f"{where}: no answer within {format_duration(settings.timeout)}") from None
        except Exception as error:
            raise BrokerUnavailable(f"{where}: {peer.last_words or said(error)}") from error
        except BaseException:
            peer.cut()
            raise
        return cls(link, peer, broker=broker, settings=settings)

    async def call(self, what: str, action: Awaitable[T]) -> T:
        """Awaits a call of aiormq's.

        Raises:
            BrokerUnavailable: the connection is lost; or the call was not answered in time, and then it is cut.
            Exception: as aiormq raised it, which `roles.amqp.errors` makes sense of.
        """
        try:
            with anyio.fail_after(self._timeout.total_seconds()), self.explaining():
                return await _answer(action)
        except TimeoutError:
            self.cut(f"no answer to {what} within {format_duration(self._timeout)}")
            raise BrokerUnavailable(f"broker {self.broker}: {self.reason}") from None

    @contextmanager
    def explaining(self) -> Iterator[None]:
        """Has an error that says nothing, because the connection is lost, say why it is lost."""
        try:
            yield
        except Exception as error:
            told = isinstance(error, aiormq.AMQPError) and type(error) is not exceptions.AMQPConnectionError
            if self.lost.is_set() and not told:
                raise BrokerUnavailable(f"broker {self.broker}: {self.reason}") from error
            raise

    def cut(self, reason: str) -> None:
        """Closes it without a word, and without waiting."""
        self._lose(reason)
        self._peer.cut()

    async def aclose(self) -> None:
        """Says goodbye, and cuts the connection if the broker takes too long."""
        self._lose("closed")
        try:
            await self.call("connection.close", self.link.close(None))
        except Exception as error:  # noqa: BLE001 - it is closed either way
            self.cut(str(unavailable(self.broker, error)))

    def _on_closing(self, closing: asyncio.Future[object]) -> None:
        error = None if closing.cancelled() else closing.exception()
        silent = error is None or isinstance(error, asyncio.CancelledError)
        self._lose("the connection was lost (no heartbeat)" if silent or error is None else said(error))

    def _lose(self, reason: str) -> None:
        if not self.lost.is_set():
            self.reason = reason
            self.lost.set()
            for callback in tuple(self.on_lost):
                callback()


async def _answer(action: Awaitable[T]) -> T:
    """Awaits a call of aiormq's, and makes sure of what a `CancelledError` means.

    aiormq runs calls in tasks of its own, and raises errors of its own when these are cancelled. anyio does not
    know them again as what it has asked for, and would let them through the scope that was cancelled.
    """
    with stray_cancellation_as():
        try:
            return await action
        except asyncio.CancelledError:
            await anyio.lowlevel.checkpoint_if_cancelled()
            raise
