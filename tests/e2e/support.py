"""The real process: started as a user would, watched through its logs and its ports."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiormq
import anyio
import httpx
from anyio.abc import Process
from anyio.streams.text import TextReceiveStream

ROOT = Path(__file__).parent.parent.parent
APP = ROOT / "app.py"
FAULTY_APP = Path(__file__).parent / "faulty_app.py"

Record = Mapping[str, Any]


class App:
    """A running `app.py`. `records` has every line of its log so far."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.records: list[Record] = []
        self.output = ""
        """What was not a log record: usage, errors, tracebacks."""
        self.api: httpx.AsyncClient
        self.ops: httpx.AsyncClient
        self._changed = anyio.Event()

    async def logged(self, event: str, *, within: float = 60, since: int = 0, **fields: object) -> Record:
        """The first record (after number `since`) of an event with these fields; waits for it."""
        seen = since
        with anyio.move_on_after(within):
            while True:
                changed = self._changed
                while seen < len(self.records):
                    record = self.records[seen]
                    seen += 1
                    if record["event"] == event and fields.items() <= record.items():
                        return record
                if self.process.returncode is not None:
                    break
                await changed.wait()
        raise AssertionError(f"no {event!r} {fields} in:\n{self.text()}")

    def text(self) -> str:
        """All of its output, for the message of a failed test."""
        return "\n".join([*(json.dumps(record) for record in self.records[-60:]), self.output[-4000:]])

    def written(self) -> str:
        """The whole of its output, to be searched for what must not be there."""
        return json.dumps(self.records) + self.output

    async def connect(self) -> None:
        """Finds out where it listens."""
        self.ops.base_url = httpx.URL((await self.logged("ops listening"))["url"])
        if any(role["name"] == "api" for role in (await self.status())["roles"]):
            self.api.base_url = httpx.URL((await self.logged("api listening"))["url"])

    async def ready(self, *, within: float = 60) -> None:
        """Returns when `/health/ready` says so."""
        await self.until(self._is_ready, within=within)

    async def not_ready(self, *checks: str, within: float = 60) -> dict[str, str]:
        """The reasons, by check, once `/health/ready` gives some, and these checks are among them."""
        reasons: dict[str, str] = {}

        async def look() -> bool:
            nonlocal reasons
            reasons = await self.reasons()
            return bool(reasons) and reasons.keys() >= set(checks)

        await self.until(look, within=within)
        return reasons

    async def reasons(self) -> dict[str, str]:
        answer = (await self.ops.get("/health/ready")).json()
        return {check["name"]: check["reason"] for check in answer["checks"] if not check["ok"]}

    async def status(self) -> dict[str, Any]:
        answer: dict[str, Any] = (await self.ops.get("/status")).json()
        return answer

    async def role(self, name: str) -> dict[str, Any]:
        return next(role for role in (await self.status())["roles"] if role["name"] == name)

    async def consumer(self, queue: str = "example.main") -> dict[str, Any]:
        return next(each for each in (await self.status())["consumers"] if each["queue"] == queue)

    async def until(self, condition: Callable[[], Any], *, within: float = 60) -> None:
        """Returns when the awaited condition holds."""
        try:
            with anyio.fail_after(within):
                while not await condition():  # noqa: ASYNC110 - what is waited for is another process
                    await anyio.sleep(0.1)  # each look takes time from what is looked at
        except TimeoutError:
            raise AssertionError(f"not within {within} s: {condition}\n{self.text()}") from None

    def kill(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def exited(self, *, within: float = 60) -> int:
        """The exit code."""
        with anyio.move_on_after(within):
            return await self.process.wait()
        raise AssertionError(f"still running after {within} s:\n{self.text()}")

    async def stop(self, *, within: float = 60) -> int:
        self.kill(signal.SIGTERM)
        return await self.exited(within=within)

    def receipt(self) -> dict[str, dict[str, int]]:
        """The lines of the receipt, by role."""
        record = next(record for record in self.records if record["event"] == "drain finished")
        return {line["role"]: line for line in record["receipt"]}

    async def _is_ready(self) -> bool:
        try:
            return (await self.ops.get("/health/ready")).status_code == 200
        except httpx.TransportError:
            return False

    async def read(self) -> None:
        """Collects the output until it ends."""
        assert self.process.stdout is not None
        pending = ""
        async for chunk in TextReceiveStream(self.process.stdout):
            *lines, pending = (pending + chunk).split("\n")
            for line in lines:
                try:
                    self.records.append(json.loads(line))
                except ValueError:
                    self.output += line + "\n"
            self._changed.set()
            self._changed = anyio.Event()
        self.output += pending
        await self.process.wait()
        self._changed.set()


@asynccontextmanager
async def running(
    directory: Path,
    *arguments: str,
    environ: Mapping[str, str] | None = None,
    script: Path = APP,
    wait: bool = True,
) -> AsyncIterator[App]:
    """Starts the application in `directory`, on free ports, and kills what is left of it at the end.

    Params:
        environ: settings, over the defaults of these tests.
        wait: whether to wait until it is ready.
    """
    settings = {"APP_API__BIND": "127.0.0.1:0", "APP_OPS__BIND": "127.0.0.1:0", "APP_CONSOLE": "json"}
    clean = {name: value for name, value in os.environ.items() if name not in ("ROLES", "DEBUG")}
    process = await anyio.open_process(
        [sys.executable, str(script), *arguments],
        cwd=directory,
        env={**clean, "PYTHONPATH": str(ROOT), **settings, **(environ or {})},
        stdin=None,
        stderr=-2,  # subprocess.STDOUT
    )
    app = App(process)
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(app.read)
            async with (
                httpx.AsyncClient(timeout=20, trust_env=False, verify=False) as api,
                httpx.AsyncClient(timeout=20, trust_env=False, verify=False) as ops,
            ):
                app.api, app.ops = api, ops
                if wait:
                    await app.connect()
                    await app.logged("ready", within=60)
                    await app.ready()
                yield app
            if process.returncode is None:
                process.kill()
    finally:
        with anyio.CancelScope(shield=True):
            if process.returncode is None:
                process.kill()
                await process.wait()
            await process.aclose()


@asynccontextmanager
async def channel(url: str) -> AsyncIterator[aiormq.abc.AbstractChannel]:
    """Another AMQP client, as a producer would have one."""
    connection = await aiormq.connect(url)
    try:
        yield await connection.channel()
    finally:
        await connection.close()


async def publish(
    channel: aiormq.abc.AbstractChannel,
    body: object,
    *,
    exchange: str = "example.exchange",
    queue: str = "example.main",
    **properties: Any,
) -> None:
    """Publishes JSON (or the bytes as they are), persistent, mandatory and confirmed."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    fields = {"content_type": "application/json", "delivery_mode": 2, **properties}
    await channel.basic_publish(
        data,
        exchange=exchange,
        routing_key=queue,
        properties=aiormq.spec.Basic.Properties(**fields),
        mandatory=True,
        timeout=10,
    )
