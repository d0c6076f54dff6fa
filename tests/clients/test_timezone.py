"""The timezone client: what it asks, and what it makes of the answers."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import datetime

import pytest

from clients import clients, open_clients
from clients.cache import open_cache
from clients.errors import UpstreamInvalid
from schema import settings
from tests.clients.stub import MOSCOW, Stub, answer

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
async def opened(stub: Stub) -> AsyncIterator[None]:
    async with open_cache(settings.Cache()), open_clients(settings.Clients(timezone=settings.Timezone(url=stub.url))):
        yield


async def test_a_timezone_is_asked_for_by_name(stub: Stub) -> None:
    stub.plays(answer(200, MOSCOW))
    found = await clients().timezone.get("Europe", "Moscow")
    assert found
    assert found.timezone == "Europe/Moscow"
    assert found.utc_offset == "+03:00"
    assert found.datetime == datetime.fromisoformat("2026-01-31T15:00:00.123456+03:00")
    assert stub.requests[0].target == "/api/timezone/Europe/Moscow"


async def test_a_timezone_that_the_service_does_not_know_is_none(stub: Stub) -> None:
    stub.plays(answer(404, b'{"error":"unknown location Europe/Atlantis"}'))
    assert await clients().timezone.get("Europe", "Atlantis") is None


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"<html>Welcome to nginx!</html>", "Invalid JSON"),
        (b"", "Invalid JSON"),
        (b"[]", "its body"),
        (b"{}", "timezone: Field required"),
        (json.dumps({**json.loads(MOSCOW), "utc_offset": "three"}).encode(), "utc_offset"),
        (json.dumps({**json.loads(MOSCOW), "datetime": "2026-01-31T15:00:00"}).encode(), "datetime"),
    ],
)
async def test_an_answer_that_is_no_timezone_says_what_is_wrong_with_it(body: bytes, reason: str, stub: Stub) -> None:
    stub.plays(answer(200, body))
    with pytest.raises(UpstreamInvalid, match=reason):
        await clients().timezone.get("Europe", "Moscow")


@pytest.mark.parametrize("status", [301, 400, 401, 429])
async def test_an_answer_that_nobody_expects_makes_no_sense(status: int, stub: Stub) -> None:
    stub.plays(answer(status, MOSCOW))
    with pytest.raises(UpstreamInvalid, match=f"answered {status}"):
        await clients().timezone.get("Europe", "Moscow")


async def test_no_name_leaves_the_path(stub: Stub) -> None:
    stub.plays(answer(404))
    await clients().timezone.get("../admin", "a?b#c")
    assert stub.requests[0].target == "/api/timezone/..%2Fadmin/a%3Fb%23c"
    with pytest.raises(ValueError, match="cannot be a segment"):
        await clients().timezone.get("..", "..")


async def test_an_answer_is_given_again_for_its_lifetime(stub: Stub) -> None:
    stub.plays(answer(200, MOSCOW), answer(200, MOSCOW))
    first = await clients().timezone.get("Europe", "Moscow")
    assert await clients().timezone.get("Europe", "Moscow") == first
    assert await clients().timezone.get("Europe", "Samara") == first  # another name is another question
    assert [request.target for request in stub.requests] == [
        "/api/timezone/Europe/Moscow",
        "/api/timezone/Europe/Samara",
    ]
