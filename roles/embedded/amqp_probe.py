"""Logs in over AMQP 0-9-1 to learn whether a broker serves.

An open port says little: RabbitMQ opens it before the virtual hosts are up. This walks the whole handshake of the
specification (section 2.2.4), to `connection.open-ok`, and says goodbye. By hand, because the one AMQP library of
this program belongs to the brokers' own module, and a connection that may fail at any byte is not what it is for.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

import anyio
from anyio.streams.buffered import BufferedByteReceiveStream

_METHOD = 1
_FRAME_END = 0xCE
_CONNECTION = 10
_START, _START_OK, _TUNE, _TUNE_OK, _OPEN, _OPEN_OK, _CLOSE, _CLOSE_OK = 10, 11, 30, 31, 40, 41, 50, 51


# Whoever announces it is told that a login was refused; for others the connection merely ends
# (https://www.rabbitmq.com/docs/auth-notification).
_WANTS_TO_BE_TOLD = "authentication_failure_close"
_ACCESS_REFUSED = 403


class NotServing(Exception):
    """The broker does not answer as it should (yet)."""


class LoginRefused(NotServing):
    """It answers, and does not know the user or the password."""


async def log_in(*, port: int, user: str, password: str, vhost: str = "/") -> None:
    """Opens a connection to `vhost` on loopback and closes it again.

    Raises:
        NotServing: anything went wrong; the message says what. A `LoginRefused` will not get better.
    """
    try:
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            receive = BufferedByteReceiveStream(stream)
            await stream.send(b"AMQP\x00\x00\x09\x01")
            await _expect(receive, _START)
            properties = _table({"capabilities": b"F" + _table({_WANTS_TO_BE_TOLD: b"t\1"})})
            response = _long(f"\0{user}\0{password}".encode())
            await stream.send(_frame(_START_OK, properties + _short("PLAIN") + response + _short("en_US")))
            tune = await _expect(receive, _TUNE)
            await stream.send(_frame(_TUNE_OK, tune[:8]))
            await stream.send(_frame(_OPEN, _short(vhost) + _short("") + b"\0"))
            await _expect(receive, _OPEN_OK)
            await stream.send(_frame(_CLOSE, struct.pack(">H", 200) + _short("") + struct.pack(">HH", 0, 0)))
            await _expect(receive, _CLOSE_OK)
    except (OSError, anyio.EndOfStream, anyio.IncompleteRead, anyio.BrokenResourceError) as error:
        raise NotServing(f"port {port}: {str(error) or type(error).__name__}") from error


async def _expect(receive: BufferedByteReceiveStream, method: int) -> bytes:
    """The arguments of the next frame, which must be this method of the connection."""
    kind, _, size = struct.unpack(">BHI", await receive.receive_exactly(7))
    payload = await receive.receive_exactly(size)
    end = await receive.receive_exactly(1)
    if kind != _METHOD or end[0] != _FRAME_END:
        raise NotServing("what answered does not speak AMQP 0-9-1")
    found = struct.unpack(">HH", payload[:4])
    if found == (_CONNECTION, _CLOSE):
        (code,) = struct.unpack(">H", payload[4:6])
        error = LoginRefused if code == _ACCESS_REFUSED else NotServing
        raise error(f"{code} {payload[7 : 7 + payload[6]].decode(errors='replace')}")
    if found != (_CONNECTION, method):
        raise NotServing(f"it sent method {found} where {(_CONNECTION, method)} was due")
    return payload[4:]


def _frame(method: int, arguments: bytes) -> bytes:
    payload = struct.pack(">HH", _CONNECTION, method) + arguments
    return struct.pack(">BHI", _METHOD, 0, len(payload)) + payload + bytes([_FRAME_END])


def _short(text: str) -> bytes:
    data = text.encode()
    return bytes([len(data)]) + data


def _table(fields: Mapping[str, bytes]) -> bytes:
    return _long(b"".join(_short(name) + value for name, value in fields.items()))


def _long(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data
