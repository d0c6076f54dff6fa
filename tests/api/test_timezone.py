"""The timezone route: the other service's answers, and its failures, as ours."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from clients import open_clients
from schema import settings
from tests.api.support import RunningApi, StartApi
from tests.clients.stub import MOSCOW, Stub, answer, free_port, gibberish, reset, running_stub, silence

pytestmark = pytest.mark.anyio

URL = "/api/v1/timezone"
MOSCOW_QUERY = {"area": "Europe", "city": "Moscow"}


@pytest.fixture
async def stub() -> AsyncIterator[Stub]:
    async with running_stub() as stub:
        client = settings.Timezone.model_validate({"url": stub.url, "timeout": "300ms", "backoff": "1ms"})
        async with open_clients(settings.Clients(timezone=client)):
            yield stub


@pytest.fixture
async def api(stub: Stub, start_api: StartApi) -> AsyncIterator[RunningApi]:
    async with start_api() as api:
        yield api


async def test_the_answer_is_the_services_without_what_we_do_not_promise(stub: Stub, api: RunningApi) -> None:
    stub.plays(answer(200, MOSCOW))
    response = await api.http.get(URL, params=MOSCOW_QUERY, headers={"X-Request-Id": "abc"})
    assert response.status_code == 200
    assert response.json() == {
        "timezone": "Europe/Moscow",
        "abbreviation": "MSK",
        "utc_offset": "+03:00",
        "datetime": "2026-01-31T15:00:00.123456+03:00",
        "dst": False,
    }
    assert stub.requests[0].headers["x-request-id"] == "abc"


async def test_a_timezone_that_the_service_does_not_know_is_not_found(stub: Stub, api: RunningApi) -> None:
    stub.plays(answer(404))
    response = await api.http.get(URL, params={"area": "Europe", "city": "Atlantis"})
    assert response.status_code == 404
    assert response.json()["detail"] == "There is no timezone Europe/Atlantis."


@pytest.mark.parametrize(
    ("step", "status", "problem"),
    [
        (answer(500), 502, "upstream-failed"),
        (answer(503), 502, "upstream-failed"),
        (answer(503, retry_after="3600"), 502, "upstream-failed"),
        (answer(200, b"<html>"), 502, "upstream-failed"),
        (answer(200, b"{}"), 502, "upstream-failed"),
        (answer(302, location="http://127.0.0.1:1/"), 502, "upstream-failed"),
        (reset, 502, "upstream-failed"),
        (gibberish, 502, "upstream-failed"),
        (silence, 504, "upstream-timed-out"),
    ],
)
async def test_a_failure_of_the_service_is_a_problem_that_says_nothing_of_our_insides(
    step: Any, status: int, problem: str, stub: Stub, api: RunningApi
) -> None:
    stub.plays(step)
    response = await api.http.get(URL, params=MOSCOW_QUERY)
    assert response.status_code == status
    assert response.json()["type"] == f"/problems/{problem}"
    assert "127.0.0.1" not in response.text
    assert "Traceback" not in response.text


async def test_a_service_that_is_away_is_a_problem(start_api: StartApi) -> None:
    away = settings.Timezone.model_validate({"url": f"http://127.0.0.1:{free_port()}", "backoff": "1ms"})
    async with open_clients(settings.Clients(timezone=away)), start_api() as api:
        assert (await api.http.get(URL, params=MOSCOW_QUERY)).status_code == 502


async def test_a_trouble_of_the_service_that_passes_is_not_noticed(stub: Stub, api: RunningApi) -> None:
    stub.plays(answer(502), reset, answer(200, MOSCOW))
    assert (await api.http.get(URL, params=MOSCOW_QUERY)).status_code == 200


@pytest.mark.parametrize("area", ["", "..", "../x", "a/b", "a%2fb", "a?b", "\0", "a" * 65, "Ü"])
async def test_what_is_no_name_of_a_timezone_is_not_asked_for(area: str, stub: Stub, api: RunningApi) -> None:
    response = await api.http.get(URL, params={"area": area, "city": "Moscow"})
    assert response.status_code == 422
    assert [error["parameter"] for error in response.json()["errors"]] == ["area"]
    assert not stub.requests
