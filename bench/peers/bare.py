"""A server that does nothing: what the load generator reaches with it is the most that it can measure."""

from __future__ import annotations

import asyncio
import sys
from typing import cast

import anyio

REPLY = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"


class Reply(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's does not say that it is one

    def data_received(self, _data: bytes) -> None:
        self._transport.write(REPLY)


async def main(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Reply, "127.0.0.1", port)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    anyio.run(main, int(sys.argv[1]), backend_options={"use_uvloop": True})
