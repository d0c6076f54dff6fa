"""The cache of the process: in its memory by default, or in a Redis that all processes share (`cache.url`).

```
found = await cache().fetch("rooms:7", Room, load, lifetime=timedelta(minutes=1), stale_for=timedelta(hours=1))
```
What is kept here can be lost at any time. A Redis that is away, or slow, makes things slower and nothing else: it is
left alone for a while, and the memory of the process takes its place. Values are kept as JSON and never unpickled, so
that whoever can write into the Redis cannot run code here.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from datetime import timedelta
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit
from weakref import WeakValueDictionary

import anyio
import structlog
from pydantic import BaseModel

from clients.lean_cashews import (
    BackendNotAvailableError,
    CacheBackendInteractionError,
    Memory,
    PicklerType,
    cashews,
    shared_cache,
)
from schema import settings
from schema.errors import ConfigurationError

Model = TypeVar("Model", bound=BaseModel)

PREFIX: Final = "rolecall:"
"""Of every key, for a Redis is often shared with others."""

SWEEP: Final = 60
"""Seconds between two looks at all of the memory for what has expired: `size` bounds it, and each look takes time."""

log = structlog.get_logger(__name__)


class Cache:
    """Text by key, for a time."""

    def __init__(self, section: settings.Cache) -> None:
        self._memory = Memory(size=section.size, check_interval=SWEEP)
        """Without cashews' layers for tags, callbacks and switches, which take far longer than what is inside."""
        self._shared: cashews.Cache | None = None
        self._timeout = section.timeout.total_seconds()
        self._rest = section.rest.total_seconds()
        self._rests_until = 0.0
        self._loading: WeakValueDictionary[str, anyio.Lock] = WeakValueDictionary()
        url = section.url.get_secret_value()
        if url != settings.IN_MEMORY:
            self._shared = shared_cache()
            try:
                self._shared.setup(
                    url,
                    suppress=False,
                    pickle_type=PicklerType.JSON,
                    socket_connect_timeout=self._timeout,
                    socket_timeout=self._timeout,
                    wait_for_connection_timeout=self._timeout,
                )
            except BackendNotAvailableError as error:
                raise ConfigurationError(
                    f"cache.url is a {urlsplit(url).scheme} URL, which needs the extra `redis`: "
                    'install it (`uv sync --extra redis`), or set cache.url = "mem://"'
                ) from error

    async def get(self, key: str) -> str | None:
        """What was kept under `key`; None if nothing is, or not any more."""
        found: str | None = await self._ask("get", PREFIX + key)
        return found

    async def set(self, key: str, value: str, *, lifetime: timedelta) -> None:
        """Keeps `value` under `key` for so long, or until there is no room."""
        await self._ask("set", PREFIX + key, value, expire=lifetime.total_seconds())

    async def delete(self, key: str) -> None:
        """Forgets what is kept under `key`."""
        await self._ask("delete", PREFIX + key)

    async def fetch(
        self,
        key: str,
        model: type[Model],
        load: Callable[[], Awaitable[Model | None]],
        *,
        lifetime: timedelta,
        stale_for: timedelta = timedelta(0),
        stale_if: type[Exception] = Exception,
    ) -> Model | None:
        """What is kept under `key`, or else what `load` returns, which is then kept.

        Of many callers in this process that find nothing, one loads and the others wait for it. None is not kept.

        Params:
            lifetime: how long what was loaded is good.
            stale_for: how much longer it is returned if `load` fails with `stale_if`.

        Raises:
            Exception: `load` failed, and there is nothing to fall back on.
        """
        good_until, found = await self._find(key, model)
        if time.time() < good_until:
            return found
        lock = self._loading.get(key) or self._loading.setdefault(key, anyio.Lock())
        async with lock:
            good_until, found = await self._find(key, model)  # who had the lock before may have brought it
            if time.time() < good_until:
                return found
            try:
                loaded = await load()
            except stale_if as error:
                if found is None:
                    raise
                log.warning("stale value served", key=key, age=round(time.time() - good_until, 1), error=str(error))
                return found
            if loaded is not None:
                until = time.time() + lifetime.total_seconds()
                await self.set(
                    key, f"{until!r} {loaded.model_dump_json(by_alias=False)}", lifetime=lifetime + stale_for
                )
            return loaded

    async def open(self) -> None:
        """Begins to look for what has expired."""
        await self._memory.init()

    async def aclose(self) -> None:
        """Ends that, and closes the connections."""
        await self._memory.close()
        if self._shared is not None:
            with anyio.move_on_after(self._timeout, shield=True):
                await self._shared.close()

    async def _find(self, key: str, model: type[Model]) -> tuple[float, Model | None]:
        """Until when what is kept is good, and what it is."""
        text = await self.get(key)
        if text is None:
            return 0.0, None
        until, _, value = text.partition(" ")
        try:
            return float(until), model.model_validate_json(value, by_alias=False, by_name=True)
        except ValueError as error:  # another version of this program, or somebody else, has written it
            log.warning("cached value is of no use", key=key, error=str(error).partition("\n")[0])
            return 0.0, None

    async def _ask(self, command: str, *arguments: str, **options: float) -> Any:
        """Calls the method of this name of a store: they have the same."""
        if self._shared is not None and time.monotonic() >= self._rests_until:
            try:
                with anyio.fail_after(self._timeout):
                    return await getattr(self._shared, command)(*arguments, **options)
            except (CacheBackendInteractionError, TimeoutError, OSError) as error:
                self._rests_until = time.monotonic() + self._rest
                cause = error.__cause__ or error
                log.warning("shared cache left alone", seconds=self._rest, error=str(cause) or type(cause).__name__)
        return await getattr(self._memory, command)(*arguments, **options)


_current: ContextVar[Cache] = ContextVar("cache")


@asynccontextmanager
async def open_cache(section: settings.Cache) -> AsyncIterator[Cache]:
    """Opens the cache for this task, and for all that it starts inside the block.

    Raises:
        ConfigurationError: `cache.url` needs what is not installed.
    """
    opened = Cache(section)
    token = _current.set(opened)
    await opened.open()
    try:
        yield opened
    finally:
        _current.reset(token)
        await opened.aclose()


def cache() -> Cache:
    """The cache that is open here."""
    return _current.get()
