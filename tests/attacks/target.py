"""What is attacked: the real process, and what an attacker sees and leaves behind of it.

`APP_API__SERVER` in the environment chooses the server; what differs between them is data in the tables of attacks.
"""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
import psycopg
from anyio.abc import SocketStream

from tests.e2e.support import App, running

SERVER = os.environ.get("APP_API__SERVER") or "hypercorn"

WORDLESS = {"granian"}
"""Servers that answer bytes which are no request with a status alone, before anybody here sees them."""

LONG = 60
"""Seconds to wait for something that is bound to happen."""

STATUS_LINE = re.compile(rb"HTTP/1\.[01] (\d{3})(?: [ -~]*)?")
FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+): *([ -~]*)")

TCP_LISTEN = "0A"
PAGE_SIZE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Reply:
    """One reply; what is not in the form of one fails when it is read."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Target:
    """A running process with the role `api`, and a student in its database."""

    app: App
    database_url: str

    @property
    def host(self) -> str:
        return self.app.api.base_url.host

    @property
    def port(self) -> int:
        assert self.app.api.base_url.port is not None
        return self.app.api.base_url.port

    async def connect(self) -> SocketStream:
        return await anyio.connect_tcp(self.host, self.port)

    def connections(self) -> int:
        """Sockets of the API's port that the process holds."""
        return len(self._clients())

    def holds(self, port: int) -> bool:
        """Whether it still has the connection that comes from this port."""
        return port in self._clients()

    def _clients(self) -> set[int]:
        """The ports that connections come from. What the process has closed has no inode any more."""
        return {
            int(fields[2].rpartition(":")[2], 16)
            for fields in map(str.split, Path("/proc/net/tcp").read_text().splitlines()[1:])
            if fields[1].endswith(f":{self.port:04X}") and fields[3] != TCP_LISTEN and fields[9] != "0"
        }

    def memory(self) -> int:
        """Resident bytes of the process."""
        return int(Path(f"/proc/{self.app.process.pid}/statm").read_text().split()[1]) * PAGE_SIZE

    async def forgotten(self) -> None:
        """Returns when nothing of the attack is left: no socket, no request. The test has closed its own."""

        async def nothing_left() -> bool:
            return not self.connections() and not (await self.app.role("api"))["counts"]["in_flight"]

        await self.app.until(nothing_left, within=LONG)

    def bugs(self) -> list[str]:
        """What the logs call an error."""
        return [str(record) for record in self.app.records if record["level"] in ("error", "critical")]


@asynccontextmanager
async def attacked(
    directory: Path, database_url: str, environ: Mapping[str, str] | None = None
) -> AsyncIterator[Target]:
    """The process, with these settings; it must have logged no error in the end, and drain."""
    settings = {
        "APP_DATABASE__URL": database_url,
        "APP_AMQP__EXAMPLE__URL": "amqp://127.0.0.1:1/",  # nobody is there, and it is nobody's business here
        "APP_API__RATE_LIMIT": "",
        "APP_API__DOCS": "true",
        **(environ or {}),
    }
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as conn:
        await conn.execute("INSERT INTO student (name) VALUES ('Ada'), ('Grace')")
    async with running(directory, "--roles", "api", environ=settings) as app:
        target = Target(app, database_url)
        yield target
        await target.app.api.aclose()
        await target.forgotten()
        assert await app.stop() == 0
        assert not target.bugs(), "\n".join(target.bugs())
        assert not app.output, "something was printed past the logs"


async def received(stream: SocketStream) -> bytes:
    """All that comes until the server ends the connection."""
    data = bytearray()
    with anyio.fail_after(LONG):
        try:
            while True:
                data += await stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return bytes(data)


def replies(data: bytes, *, to_head: bool = False) -> list[Reply]:
    """The replies that `data` consists of, to the last byte.

    Params:
        to_head: whether they answer HEAD, and have no bodies.
    """
    found = []
    while data:
        head, _, data = data.partition(b"\r\n\r\n")
        first, *lines = head.split(b"\r\n")
        status = STATUS_LINE.fullmatch(first)
        fields = [FIELD.fullmatch(line) for line in lines]
        assert status, first
        assert all(fields), head
        headers = {field[1].decode().lower(): field[2].decode() for field in fields if field}
        assert len(headers) == len(lines), f"a header comes twice: {head!r}"
        length = 0 if to_head else int(headers.get("content-length", 0))
        assert len(data) >= length, "the reply breaks off"
        found.append(Reply(int(status[1]), headers, data[:length]))
        data = data[length:]
    return found
