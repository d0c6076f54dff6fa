"""A service that fails is left alone, and tried again by one call; a slow one holds up no more than its share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio
import httpx
import pytest

from clients.errors import UpstreamTimeout, UpstreamUnavailable
from clients.http import open_http_client
from clients.service import Service
from schema.settings import Client
from tests.clients.stub import Stub, answer, silence

pytestmark = pytest.mark.anyio


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with open_http_client() as http:
        yield http


def service(stub: Stub, http: httpx.AsyncClient, **values: Any) -> Service:
    section = {"url": stub.url, "attempts": 1, "circuit_failures": 3, "circuit_rest": "1h", **values}
    return Service("stub", Client.model_validate(section), http)


async def fails(tried: Service, times: int) -> None:
    for _ in range(times):
        with pytest.raises(UpstreamUnavailable, match="answered 500"):
            await tried.call("GET", "/")


async def test_after_failures_in_a_row_it_is_not_asked_any_more(stub: Stub, http: httpx.AsyncClient) -> None:
    tried = service(stub, http)
    stub.plays(*[answer(500)] * 3)
    await fails(tried, 3)
    with pytest.raises(UpstreamUnavailable, match=r"left alone after 3 failures, for 3\d+\.\d s more"):
        await tried.call("GET", "/")
    assert len(stub.requests) == 3


async def test_a_success_between_failures_starts_the_count_anew(stub: Stub, http: httpx.AsyncClient) -> None:
    tried = service(stub, http)
    stub.plays(*[answer(500)] * 2, answer(200), *[answer(500)] * 2, answer(404), *[answer(500)] * 2)
    for answered in (200, 404):
        await fails(tried, 2)
        assert (await tried.call("GET", "/")).status_code == answered
    await fails(tried, 2)


async def test_when_it_has_rested_one_call_tries_it_for_all(stub: Stub, http: httpx.AsyncClient) -> None:
    tried = service(stub, http, circuit_rest="1ms", timeout="60s")
    stub.plays(*[answer(500)] * 3)
    await fails(tried, 3)
    await anyio.sleep(0.002)
    stub.plays(silence)
    async with anyio.create_task_group() as group:
        group.start_soon(tried.call, "GET", "/")
        with anyio.fail_after(60):
            while len(stub.requests) < 4:  # noqa: ASYNC110 - the service is another server
                await anyio.sleep(0.01)
        with pytest.raises(UpstreamUnavailable, match="while another call tries it"):
            await tried.call("GET", "/")
        group.cancel_scope.cancel()  # says nothing of the service: the next one tries it
    stub.plays(answer(500), answer(200), answer(200))
    await fails(tried, 1)
    await anyio.sleep(0.002)
    for _ in range(2):
        assert (await tried.call("GET", "/")).status_code == 200


async def test_a_slow_service_has_no_more_calls_than_its_share(stub: Stub, http: httpx.AsyncClient) -> None:
    tried = service(stub, http, concurrency=2, timeout="300ms", circuit_failures=100)
    stub.plays(*[silence] * 10)
    late = 0

    async def call() -> None:
        nonlocal late
        with pytest.raises(UpstreamTimeout, match="no answer in 300ms"):
            await tried.call("GET", "/")
        late += 1

    async with anyio.create_task_group() as group:
        for _ in range(10):
            group.start_soon(call)
        with anyio.fail_after(60):
            while not stub.requests:  # noqa: ASYNC110
                await anyio.sleep(0.01)
        assert tried.turns.borrowed_tokens <= 2
    assert late == 10, "the wait for a turn counts"
