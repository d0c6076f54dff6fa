"""A load generator: keep-alive connections that each send the next request as soon as the last is answered.

It is as thin as it can be in Python, because it may have one core together with PostgreSQL: requests are made in
advance, and of a reply only the status, the length and `connection: close` are looked at.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from time import perf_counter
from types import MappingProxyType
from typing import cast

import anyio

_END_OF_HEAD = b"\r\n\r\n"
_LENGTH = b"\r\ncontent-length:"
_NONE: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Outcome:
    """How many requests were answered, and in how many seconds."""

    answered: int
    seconds: float

    @property
    def rate(self) -> float:
        return self.answered / self.seconds


def get(path: str, headers: Mapping[str, str] = _NONE) -> bytes:
    """A GET request."""
    return _head("GET", path, {"Accept": "application/json", **headers})


def post(path: str, body: bytes, headers: Mapping[str, str] = _NONE) -> bytes:
    """A POST request with a JSON body."""
    described = {"Content-Type": "application/json", "Content-Length": f"{len(body)}"}
    return _head("POST", path, {**described, **headers}) + body


def _head(method: str, path: str, headers: Mapping[str, str]) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join(lines).encode() + _END_OF_HEAD


async def drive(port: int, requests: Iterator[bytes], *, status: int, connections: int, seconds: float) -> Outcome:
    """Keeps `connections` requests in flight for so many seconds, then waits for those that are under way.

    Params:
        requests: sent in turn; there is no end to them.
        status: what each has to be answered with.

    Raises:
        RuntimeError: a request was answered otherwise.
    """
    load = _Load(requests, status)
    began = perf_counter()
    async with anyio.create_task_group() as group:
        for _ in range(connections):
            group.start_soon(load.keep_connected, port)
        await anyio.sleep(seconds)
        load.over = True
    return Outcome(load.answered, load.last_answer - began)


class _Load:
    def __init__(self, requests: Iterator[bytes], status: int) -> None:
        self.requests = requests
        self.status_line = f"HTTP/1.1 {status} ".encode()
        self.answered = 0
        self.last_answer = 0.0
        self.over = False

    async def keep_connected(self, port: int) -> None:
        """One connection after the other: servers end theirs after some number of requests."""
        loop = asyncio.get_running_loop()
        while not self.over:
            _, connection = await loop.create_connection(lambda: _Connection(self), "127.0.0.1", port)
            await connection.closed.wait()
            if connection.failure:
                raise RuntimeError(connection.failure)


class _Connection(asyncio.Protocol):
    def __init__(self, load: _Load) -> None:
        self.closed = anyio.Event()
        self.failure = ""
        self._load = load
        self._received = b""
        self._expected = 0
        self._closing = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's does not say that it is one
        self._next()

    def data_received(self, data: bytes) -> None:
        self._received = received = self._received + data
        if not self._expected:
            end = received.find(_END_OF_HEAD)
            if end < 0:
                return
            self._read_head(received[:end].lower(), end + len(_END_OF_HEAD))
        if self._expected and len(received) >= self._expected:
            self._load.answered += 1
            self._load.last_answer = perf_counter()
            self._next()

    def connection_lost(self, error: Exception | None) -> None:
        if self._expected or self._received or not self._closing:
            self.failure = self.failure or f"the connection was lost in the middle of a reply: {error}"
        self.closed.set()

    def _next(self) -> None:
        self._received, self._expected = b"", 0
        if self._closing or self._load.over:
            self._closing = True
            self._transport.close()
        else:
            self._transport.write(next(self._load.requests))

    def _read_head(self, head: bytes, size: int) -> None:
        start = head.find(_LENGTH)
        if start < 0 or not self._received.startswith(self._load.status_line):
            self.failure = f"expected {self._load.status_line.decode()}and a content-length:\n{self._received!r}"
            self._transport.abort()
            return
        self._expected = size + int(head[start + len(_LENGTH) :].partition(b"\r")[0])
        self._closing = b"\r\nconnection: close" in head
