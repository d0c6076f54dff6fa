"""The socket below aiormq: it shows messages in a form that aiormq cannot choke on, and can be cut.

aiormq decodes the properties of every message on the task that reads the connection. A timestamp that is no
date, or a message id that is no UTF-8, ends that task and the connection with it; the broker then delivers
the message to the next connection, for ever. So the properties are handed to it sealed, as one header with
bytes in it, and are opened by whoever wants to know. A routing key that is no UTF-8 is made legible.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

from aiormq import spec
from aiormq.connection import TCPTransportFactory, TLSTransportFactory, TransportFactory
from yarl import URL

from roles.amqp.properties import MalformedProperties, Properties

_HEAD = 7
_METHOD_FRAME, _HEADER_FRAME = 1, 2
_CONNECTION_CLOSE = b"\x00\x0a\x00\x32"
_OF_A_MESSAGE = {b"\x00\x3c\x00\x3c": (4, 9), b"\x00\x3c\x00\x32": (6, 0)}
"""basic.deliver and basic.return: where the first string is, and the bytes between it and the exchange's name."""
_LEGIBLE = bytes(range(0x80)) + b"?" * 0x80
_FIXED = 12
"""Bytes of a content header before the properties: class, weight, size of the body."""
_SEAL = ""
_HEADERS_AND_ID = b"\x20\x80"


class Socket(TransportFactory):
    """Makes one connection's reader and writer."""

    def __init__(self) -> None:
        self.last_words = ""
        """What the broker closed the connection with."""
        self._transport: asyncio.WriteTransport | None = None

    async def create(self, url: URL, **kwargs: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        factory = TLSTransportFactory() if url.scheme == "amqps" else TCPTransportFactory()
        reader, writer = await factory.create(url, **kwargs)
        self._transport = writer.transport
        return cast("asyncio.StreamReader", _FrameReader(reader, self)), writer

    def cut(self) -> None:
        """Closes the connection without a word, and without waiting for anything."""
        if self._transport is not None:
            self._transport.abort()


class Published(spec.Basic.Properties):
    """Properties for aiormq to publish: written as they are. It matches returned messages by `message_id`."""

    def __init__(self, properties: Properties) -> None:
        super().__init__(message_id=_matching_id(properties))
        self._encoded = properties.encode()

    def marshal(self) -> bytes:
        return self._encoded


def unseal(properties: spec.Basic.Properties) -> Properties:
    """The properties that were sealed.

    Raises:
        MalformedProperties: they are none.
    """
    sealed = (properties.headers or {})[_SEAL]
    return Properties.decode(bytes(cast("bytearray", sealed)))


class _FrameReader:
    """As much of a `StreamReader` as aiormq uses: it reads a frame in pieces, and here gets it from one read."""

    def __init__(self, reader: asyncio.StreamReader, socket: Socket) -> None:
        self._reader = reader
        self._socket = socket
        self._frame = b""

    def at_eof(self) -> bool:
        return not self._frame and self._reader.at_eof()

    async def read(self) -> bytes:
        return await self._reader.read()

    async def readexactly(self, size: int) -> bytes:
        if not self._frame:
            self._frame = await self._next_frame()
        piece, self._frame = self._frame[:size], self._frame[size:]
        return piece

    async def _next_frame(self) -> bytes:
        head = await self._reader.readexactly(_HEAD)
        if head.startswith(b"AMQP"):  # the answer to a protocol that it does not speak
            return head
        rest = await self._reader.readexactly(int.from_bytes(head[3:]) + 1)
        if head[0] == _HEADER_FRAME:
            return _seal(head, rest)
        if head[0] != _METHOD_FRAME:  # a body may begin like a method
            return head + rest
        method = rest[:4]
        if method in _OF_A_MESSAGE:
            return head + _legible(rest, skip=_OF_A_MESSAGE[method])
        if method == _CONNECTION_CLOSE:  # aiormq forgets it if it comes while the connection is opened
            self._socket.last_words = rest[7 : 7 + rest[6]].decode(errors="replace")
        return head + rest


def _legible(rest: bytes, *, skip: tuple[int, int]) -> bytes:
    start, gap = skip
    exchange = start + 1 + rest[start] + gap
    key = exchange + 1 + rest[exchange] + 1
    if not rest[key:-1].isascii():
        try:
            rest[key:-1].decode()
        except UnicodeDecodeError:
            return rest[:key] + rest[key:-1].translate(_LEGIBLE) + rest[-1:]
    return rest


def _seal(head: bytes, rest: bytes) -> bytes:
    encoded = rest[_FIXED:-1]
    entry = b"\x00x" + len(encoded).to_bytes(4) + encoded
    try:
        message_id = (_matching_id(Properties.decode(encoded)) or "").encode()
    except MalformedProperties:
        message_id = b""
    sealed = b"".join([
        rest[:_FIXED],
        _HEADERS_AND_ID,
        len(entry).to_bytes(4), entry,
        len(message_id).to_bytes(1), message_id,
    ])  # fmt: skip
    return b"".join([head[:3], len(sealed).to_bytes(4), sealed, rest[-1:]])


def _matching_id(properties: Properties) -> str | None:
    """The message id in a form that aiormq can read back."""
    text = properties.text("message_id")
    return text and text.encode()[:255].decode(errors="ignore")
