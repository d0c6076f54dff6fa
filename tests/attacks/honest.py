"""An honest client: it asks for a student again and again, and measures how long the answers take.

It is a process of its own, so that what it measures is the server's time and not that of the attackers beside it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from select import select
from time import perf_counter

import anyio
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

from tests.attacks.target import LONG, Target
from tests.e2e.support import ROOT

PATH = "/api/v1/students/1"

PAUSE = 0.01
"""Seconds between requests: there is time for others."""


@dataclass
class Measured:
    """What one time of asking came to."""

    seconds: list[float] = field(default_factory=list)
    """Of each request, in order of length."""
    failures: list[str] = field(default_factory=list)

    @property
    def median(self) -> float:
        return self.seconds[len(self.seconds) // 2]


class Honest:
    """The client, which asks while it is told to."""

    def __init__(self, process: Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._commands = process.stdin
        self._answers = BufferedByteReceiveStream(process.stdout)

    @asynccontextmanager
    async def asking(self) -> AsyncIterator[Measured]:
        """Asks within the block, over a connection of its own; the result is complete after it."""
        measured = Measured()
        await self._commands.send(b"ask\n")
        with anyio.fail_after(LONG):
            await self._answers.receive_until(b"\n", 100)
        try:
            yield measured
        finally:
            with anyio.fail_after(2 * LONG, shield=True):
                await self._commands.send(b"enough\n")
                answer = json.loads(await self._answers.receive_until(b"\n", 100_000_000))
        measured.seconds, measured.failures = sorted(answer["seconds"]), answer["failures"]


@asynccontextmanager
async def honest_client(target: Target) -> AsyncIterator[Honest]:
    """One for the target."""
    process = await anyio.open_process(
        [sys.executable, "-m", __name__, target.host, str(target.port)], cwd=ROOT, stderr=subprocess.DEVNULL
    )
    try:
        yield Honest(process)
    finally:
        with anyio.CancelScope(shield=True):
            process.kill()
            await process.aclose()


def main(host: str, port: int) -> None:
    """Asks from one line of standard input to the next; says when it has begun, and in the end how long each took."""
    while sys.stdin.readline():
        found = Measured()
        connection = HTTPConnection(host, port, timeout=LONG)
        _ask(connection, found)
        _say("begun")
        while not select([sys.stdin], [], [], PAUSE)[0]:
            _ask(connection, found)
        connection.close()
        sys.stdin.readline()
        _say(json.dumps({"seconds": found.seconds, "failures": found.failures}))


def _ask(connection: HTTPConnection, found: Measured) -> None:
    began = perf_counter()
    try:
        connection.request("GET", PATH)
        reply = connection.getresponse()
        reply.read()
    except (OSError, HTTPException) as error:
        found.failures.append(repr(error))
        connection.close()
        return
    found.seconds.append(perf_counter() - began)
    if reply.status != HTTPStatus.OK:
        found.failures.append(str(reply.status))


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
