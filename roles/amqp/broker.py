"""A broker as settings name it: one virtual host, with a connection for each direction."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Literal

import anyio
from yarl import URL

from roles.amqp.channel import Channel
from roles.amqp.connection import Connection
from roles.amqp.errors import BrokerUnavailable
from schema.settings import Amqp

Purpose = Literal["consume", "publish"]


class Broker:
    """Gives out channels; connections are opened when they are first needed, and again after they were lost.

    Consuming and publishing have a connection each: a broker short of memory or disk stops reading from those
    that publish, and must still read our acks.
    """

    def __init__(self, name: str, url: str, settings: Amqp) -> None:
        self.name = name
        self.user = URL(url).user or "guest"
        self.vhost = virtual_host(url)
        self._connections: Mapping[Purpose, _Reconnecting] = {
            purpose: _Reconnecting(name, url, purpose, settings) for purpose in ("consume", "publish")
        }

    async def channel(self, purpose: Purpose) -> Channel:
        """A new channel.

        Raises:
            BrokerUnavailable: there is no connection to be had.
        """
        return await Channel.open(await self._connections[purpose].get())

    @asynccontextmanager
    async def apart(self, purpose: Purpose) -> AsyncIterator[Channel]:
        """A channel on a connection of its own, for what could cost the others theirs.

        Raises:
            BrokerUnavailable: there is no connection to be had.
        """
        connection = await self._connections[purpose].another()
        try:
            yield await Channel.open(connection)
            await connection.aclose()
        finally:
            connection.cut("closed")

    async def aclose(self) -> None:
        """Closes both connections; nothing is raised."""
        for connection in self._connections.values():
            await connection.aclose()

    def cut(self) -> None:
        """Closes both connections without a word, and without waiting."""
        for connection in self._connections.values():
            connection.cut()


def virtual_host(url: str) -> str:
    """The virtual host that an AMQP URL names; without one it is `/`."""
    return URL(url).path.removeprefix("/") or "/"


class _Reconnecting:
    def __init__(self, broker: str, url: str, purpose: Purpose, settings: Amqp) -> None:
        self._broker = broker
        self._url = url
        self._purpose = purpose
        self._settings = settings
        self._lock = anyio.Lock()
        self._current: Connection | None = None
        self._attempts = 0
        self._failure = ""

    async def get(self) -> Connection:
        """The open connection. Those who wait for the same attempt to open it share its failure."""
        attempts = self._attempts
        async with self._lock:
            if self._current is not None and not self._current.lost.is_set():
                return self._current
            if attempts != self._attempts:
                raise BrokerUnavailable(self._failure)
            self._attempts += 1
            try:
                self._current = await self.another()
            except BrokerUnavailable as error:
                self._failure = str(error)
                raise
            return self._current

    async def another(self) -> Connection:
        """A new one, which nobody else is given."""
        return await Connection.open(self._url, broker=self._broker, purpose=self._purpose, settings=self._settings)

    async def aclose(self) -> None:
        if self._current is not None and not self._current.lost.is_set():
            await self._current.aclose()

    def cut(self) -> None:
        if self._current is not None:
            self._current.cut("closed")
