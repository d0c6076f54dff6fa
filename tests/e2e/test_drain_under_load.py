"""Ten thousand requests on 32 connections, and SIGTERM in the middle: none fails that was accepted."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import psycopg
import pytest

from tests.e2e.support import running
from tests.web.support import Client

pytestmark = pytest.mark.anyio

REQUESTS = 10_000
CONNECTIONS = 32
WRITES = 40
"""Each of so many requests makes a student; the others read one."""
STUDENTS = "/api/v1/students"


@dataclass
class Load:
    """What became of each request, by its number."""

    port: int
    numbers: Iterator[int] = field(default_factory=lambda: iter(range(REQUESTS)))
    answered: set[int] = field(default_factory=set)
    lost: set[int] = field(default_factory=set)
    """The connection ended before a byte of a reply."""
    refused: set[int] = field(default_factory=set)
    """There was no connection to be had."""
    half: anyio.Event = field(default_factory=anyio.Event)

    async def ask(self) -> None:
        """Sends one request after the other, on a new connection where the last one ended."""
        client: Client | None = None
        for number in self.numbers:
            try:
                client = client or Client(await anyio.connect_tcp("127.0.0.1", self.port))
            except OSError:
                self.refused.add(number)
                continue
            if not await self._ask(client, number):
                await client.stream.aclose()
                client = None
        if client is not None:
            await client.stream.aclose()

    async def _ask(self, client: Client, number: int) -> bool:
        """Sends a request; returns whether the connection is good for another one."""
        fields = f"X-Request-Id: load-{number}\r\n"
        try:
            if number % WRITES:
                await client.send(f"{STUDENTS}/1", fields)
            else:
                student = json.dumps({"name": f"load-{number}"})
                fields += f"Content-Type: application/json\r\nContent-Length: {len(student)}\r\n"
                await client.stream.send(f"POST {STUDENTS} HTTP/1.1\r\nHost: x\r\n{fields}\r\n{student}".encode())
            status, headers, body = await client.reply()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            assert not client.buffer, "a reply broke off"
            self.lost.add(number)
            return False
        assert status == (200 if number % WRITES else 201), body
        assert headers["x-request-id"] == f"load-{number}"
        self.answered.add(number)
        if len(self.answered) == REQUESTS // 2:
            self.half.set()
        return headers.get("connection") != "close"


@pytest.mark.parametrize("server", ["hypercorn", "granian"])
async def test_none_of_ten_thousand_requests_fails_that_was_accepted(
    server: str, here: Path, services: dict[str, str]
) -> None:
    environ = {**services, "APP_API__SERVER": server, "APP_API__RATE_LIMIT": ""}
    async with running(here, "--roles", "api", environ=environ) as app:
        assert (await app.api.post(STUDENTS, json={"name": "the one to read"})).json()["id"] == 1
        load = Load(int(app.api.base_url.port or 0))
        async with anyio.create_task_group() as clients:
            for _ in range(CONNECTIONS):
                clients.start_soon(load.ask)
            await load.half.wait()
            app.kill(signal.SIGTERM)
        assert await app.exited() == 0

    assert len(load.answered) >= REQUESTS // 2
    assert load.refused
    assert load.answered | load.lost | load.refused == set(range(REQUESTS))
    taken = {record["request_id"] for record in app.records if record["event"] == "request"}
    assert not taken & {f"load-{number}" for number in load.lost | load.refused}, "what was taken was answered"
    receipt = app.receipt()["api"]
    assert receipt["in_flight"] == receipt["finished"]
    with psycopg.connect(services["APP_DATABASE__URL"]) as conn:
        made = {row[0] for row in conn.execute("SELECT name FROM student WHERE name LIKE 'load-%'")}
    assert made == {f"load-{number}" for number in load.answered if number % WRITES == 0}, "what took effect was said"
    complaints = [record for record in app.records if record["level"] in ("warning", "error")]
    assert not [record for record in complaints if record["logger"] != "roles.relay.batch"]  # nobody takes the events
    assert not app.output
