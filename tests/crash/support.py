"""A process that is killed at a step and started again, and what it leaves behind."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import psycopg

from roles.consume.declarations import Consumer
from roles.consume.topology import queues
from schema.settings import Settings
from schema.steps import Step
from tests.e2e.support import ROOT, channel, publish

LONG = 60
"""Seconds to wait for something that is bound to happen."""


class Process:
    """The application in `directory`, one life after the other, all on the same servers (see `tests.crash.lives`).

    Params:
        script: what calls `live_on_request`, and runs the command line in each life.
    """

    def __init__(self, script: Path, directory: Path, environ: Mapping[str, str], *, roles: str) -> None:
        self._directory = directory
        self._log = directory / "log"
        self._begin = 0
        """Where the log of the present life begins, in bytes."""
        self._lives = 0
        self._id: int | None = None
        self._code: int | None = None
        defaults = {"APP_API__BIND": "127.0.0.1:0", "APP_OPS__BIND": "127.0.0.1:0", "APP_CONSOLE": "json"}
        clean = {name: value for name, value in os.environ.items() if name not in ("ROLES", "DEBUG")}
        with self._log.open("ab") as log:
            self._source = subprocess.Popen(
                [sys.executable, str(script), "--roles", roles],
                cwd=directory,
                env={**clean, "PYTHONPATH": str(ROOT), **defaults, **environ},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                bufsize=0,  # a line that Python has read ahead would not show in `select`
            )

    def start(self, line: str | None = None) -> None:
        """Begins the next life; the one before must have ended.

        Params:
            line: what the script is to know of this life; by default, which one it is, from 1 on.
        """
        assert not self.is_running
        self._begin = self._log.stat().st_size
        self._lives += 1
        self._write(f"{self._lives if line is None else line}\n")
        self._id, self._code = int(self._read()), None

    def close(self) -> None:
        self.kill()
        assert self._source.stdin is not None
        assert self._source.stdout is not None
        self._source.stdin.close()
        self._source.wait(timeout=LONG)
        self._source.stdout.close()

    async def ready(self) -> None:
        """Returns when all of its roles have started."""

        async def said_so() -> bool:
            return b'"event":"ready"' in self._log.read_bytes()[self._begin :]

        await self.until(said_so, "ready")

    def arm(self, step: Step) -> None:
        """Has it die at the step, when that is reached next."""
        told = self._directory / "told"
        told.write_text(step)
        told.rename(self._directory / "armed")

    async def ended(self) -> int | None:
        """Its exit code, when it has ended; below zero, the number of the signal that it died by."""

        async def has_ended() -> bool:
            return not self.is_running

        await self.until(has_ended, "its end")
        return self._code

    async def dies(self, step: Step) -> None:
        """Returns when it has died, and did so there."""
        assert await self.ended() == -signal.SIGKILL, self.text()
        died = self._directory / "died"
        assert died.exists(), f"it died, but not where it was told\n{self.text()}"
        assert died.read_text() == step
        died.unlink()

    def kill(self) -> None:
        """Ends it without a word, wherever it is."""
        if self.is_running and self._id is not None:
            os.kill(self._id, signal.SIGKILL)
            self._code = int(self._read())

    async def drain(self) -> None:
        """Ends it as it should be, with exit code 0."""
        assert self._id is not None
        os.kill(self._id, signal.SIGTERM)
        assert await self.ended() == 0, self.text()

    @property
    def is_running(self) -> bool:
        """Between its start and its end, which is told by one more line."""
        if self._id is None or self._code is not None:
            return False
        assert self._source.stdout is not None
        readable, _, _ = select.select([self._source.stdout], [], [], 0)
        if readable:
            self._code = int(self._read())
        return self._code is None

    async def until(self, condition: Callable[[], Awaitable[bool]], what: str, *, within: float = LONG) -> None:
        """Returns when the awaited condition holds; fails with the end of the log."""
        with anyio.move_on_after(within):
            while not await condition():  # noqa: ASYNC110 - it happens in other processes
                await anyio.sleep(0.1)
            return
        raise AssertionError(f"not within {within} s: {what}\n{self.text()}")

    def text(self) -> str:
        return self._log.read_text(errors="replace")[-6000:]

    def _write(self, text: str) -> None:
        assert self._source.stdin is not None
        self._source.stdin.write(text.encode())

    def _read(self) -> bytes:
        assert self._source.stdout is not None
        line = self._source.stdout.readline()
        assert line, self.text()
        return line


class World:
    """What there is to see after a death, and what there is to do about it."""

    def __init__(
        self, process: Process, database_url: str, amqp_url: str, consumers: Sequence[Consumer[Any]]
    ) -> None:
        self.process = process
        self.consumers = consumers
        self.amqp_url = amqp_url
        self._database = psycopg.connect(database_url, autocommit=True)

    def close(self) -> None:
        self._database.close()

    def rows(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        return self._database.execute(statement.encode(), parameters).fetchall()

    def count(self, statement: str, *parameters: object) -> int:
        return int(self.rows(statement, *parameters)[0][0])

    def traces(self, name: str) -> int:
        """How often something has taken effect."""
        return self.count("SELECT count(*) FROM student WHERE name = %s", name)

    async def sees(self, condition: Callable[[], bool], what: str) -> None:
        async def holds() -> bool:
            return condition()

        await self.process.until(holds, what)

    async def order(self, queue: str, how: str = "leave a trace") -> str:
        """Publishes an order, confirmed, and returns its id."""
        order_id = uuid4().hex
        async with channel(self.amqp_url) as producer:
            body = {"id": order_id, "how": how}
            await publish(producer, body, exchange="", queue=queue, message_id=order_id)
        return order_id

    async def passed(self, queue: str) -> None:
        """Returns when all that is in the queue by now has been handled: it keeps its order."""
        marker = await self.order(queue)
        await self.sees(lambda: self.traces(marker) == 1, f"what follows in {queue}")

    async def holds(self, queue: str, count: int) -> None:
        """Returns when so many messages are ready in the queue."""
        async with channel(self.amqp_url) as other:

            async def is_so() -> bool:
                found = await other.queue_declare(queue, passive=True, timeout=10)
                return found.message_count == count

            await self.process.until(is_so, f"{count} messages in {queue}")

    async def left_in_queues(self) -> dict[str, int]:
        """What is in the queues of all consumers, by queue; those that are empty left out."""
        settings = Settings()
        found: dict[str, int] = {}
        async with channel(self.amqp_url) as other:
            for consumer in self.consumers:
                for queue in queues(consumer, delivery_limit=settings.consume.delivery_limit):
                    count = (await other.queue_declare(queue.name, passive=True, timeout=10)).message_count
                    if count:
                        found[queue.name] = count
        return found
