"""API keys over HTTP, on a real table."""

from __future__ import annotations

import hmac
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest

from db import api_keys
from db.api_keys import ApiKey
from db.pool import connection
from roles.api import guard
from tests.api.support import Faults, RunningApi, StartApi
from tests.fakes import FakeClock

pytestmark = pytest.mark.anyio

URL = "/api/v1/students"
CACHE = 10


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def api(start_api: StartApi, clock: FakeClock) -> AsyncIterator[RunningApi]:
    async with start_api(auth={"mode": "api_key", "cache": f"{CACHE}s"}, clock=clock) as api:
        yield api


async def key_for(*scopes: str, expires_at: datetime | None = None) -> tuple[ApiKey, str]:
    async with connection() as conn:
        return await api_keys.create(conn, "Ada", scopes=scopes, expires_at=expires_at)


async def stored(key_id: str) -> ApiKey:
    async with connection() as conn:
        found = await api_keys.get(conn, key_id)
    assert found is not None
    return found


def bearer(credentials: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {credentials}"}


async def get(api: RunningApi, credentials: str) -> httpx.Response:
    return await api.http.get(URL, headers=bearer(credentials))


def check_refused(response: httpx.Response, detail: str) -> None:
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"] == 'Bearer realm="rolecall", error="invalid_token"'
    assert response.json()["type"] == "/problems/unauthenticated"
    assert response.json()["detail"] == detail


async def test_a_key_lets_its_holder_do_what_its_scopes_say(api: RunningApi) -> None:
    _, reads = await key_for("students:read")
    _, both = await key_for("students:read", "students:write")
    assert (await get(api, reads)).status_code == 200
    refused = await api.http.post(URL, json={"name": "Ada"}, headers=bearer(reads))
    assert refused.status_code == 403
    assert refused.json()["type"] == "/problems/forbidden"
    assert "students:write" in refused.json()["detail"]
    assert refused.headers["WWW-Authenticate"] == (
        'Bearer realm="rolecall", error="insufficient_scope", scope="students:write"'
    )
    created = await api.http.post(URL, json={"name": "Ada"}, headers=bearer(both))
    assert created.status_code == 201


async def test_a_key_may_be_good_until_infinity(api: RunningApi) -> None:
    row, key = await key_for("students:read")
    async with connection() as conn:
        await conn.execute("UPDATE api_key SET expires_at = 'infinity' WHERE id = %s", [row.id])
    assert (await get(api, key)).status_code == 200


async def test_without_credentials_a_caller_is_told_what_to_send_and_of_no_error(api: RunningApi) -> None:
    response = await api.http.get(URL)
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"] == 'Bearer realm="rolecall"'
    assert response.json()["type"] == "/problems/unauthenticated"
    assert "Authorization: Bearer" in response.json()["detail"]


async def test_credentials_come_before_everything_else_of_a_request(api: RunningApi) -> None:
    for response in (
        await api.http.post(URL, content=b"{", headers={"Content-Type": "text/plain"}),
        await api.http.get(f"{URL}?limit=nonsense"),
        await api.http.get(f"{URL}/1"),
        await api.http.delete(f"{URL}/1"),
    ):
        assert response.status_code == 401


async def test_what_does_not_exist_and_what_is_public_needs_none(api: RunningApi) -> None:
    assert (await api.http.get("/problems/unauthenticated")).status_code == 200
    assert (await api.http.get("/nope")).status_code == 404
    assert (await api.http.put(URL)).status_code == 405
    assert (await api.http.options(URL)).status_code == 200


@pytest.mark.parametrize(
    "credentials",
    ["rk_", "nonsense", "rk_0123456789ab_short", "rk_0123456789AB_" + "a" * 43, "rk_0123456789ab_" + "é" * 43, "\0"],
)
async def test_what_is_no_key_is_refused_without_a_query(credentials: str, api: RunningApi) -> None:
    async with await api.connect() as stream:
        await stream.send(
            b"GET "
            + URL.encode()
            + b" HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "
            + credentials.encode()
            + b"\r\nConnection: close\r\n\r\n"
        )
        reply = await stream.receive()
    assert reply.split()[1] in (b"401", b"400")


async def test_a_key_is_all_of_it(api: RunningApi) -> None:
    made, key = await key_for("students:read")
    other = "A" if key[-1] != "A" else "B"
    for wrong in (key[:-1] + other, f"rk_{made.id}_{'A' * 43}", f"rk_{'0' * 12}_{key[-43:]}"):
        check_refused(await get(api, wrong), "There is no such API key.")
    for wrong in (key + "A", key[:-1], key.upper()):
        check_refused(await get(api, wrong), "This is not an API key.")
    assert (await get(api, key)).status_code == 200


@pytest.mark.parametrize("authorization", ["Basic QWRhOkFkYQ==", "{key}", "Token {key}", "bearer", "bearer,"])
async def test_other_schemes_are_refused(authorization: str, api: RunningApi) -> None:
    _, key = await key_for("students:read")
    response = await api.http.get(URL, headers={"Authorization": authorization.replace("{key}", key)})
    assert response.status_code == 401


@pytest.mark.parametrize("scheme", ["bEARER ", "Bearer   "])
async def test_the_scheme_may_be_written_in_any_case_and_spaces_follow(scheme: str, api: RunningApi) -> None:
    _, key = await key_for("students:read")
    assert (await api.http.get(URL, headers={"Authorization": f"{scheme}{key}"})).status_code == 200


async def test_a_key_ends_when_it_expires_to_the_second(api: RunningApi, clock: FakeClock) -> None:
    _, key = await key_for("students:read", expires_at=clock.now() + timedelta(seconds=CACHE / 2))
    assert (await get(api, key)).status_code == 200
    clock.elapsed += CACHE / 2 - 0.001
    assert (await get(api, key)).status_code == 200
    clock.elapsed += 0.001
    check_refused(await get(api, key), "The API key has expired.")


async def test_a_revoked_key_is_refused_within_the_lifetime_of_the_cache(api: RunningApi, clock: FakeClock) -> None:
    made, key = await key_for("students:read")
    assert (await get(api, key)).status_code == 200
    async with connection() as conn:
        await api_keys.revoke(conn, made.id)
    clock.elapsed += CACHE
    check_refused(await get(api, key), "The API key was revoked.")


async def test_without_a_cache_a_revoked_key_is_refused_at_once(start_api: StartApi) -> None:
    made, key = await key_for("students:read")
    async with start_api(auth={"mode": "api_key", "cache": "0s"}) as api:
        assert (await get(api, key)).status_code == 200
        async with connection() as conn:
            await api_keys.revoke(conn, made.id)
        check_refused(await get(api, key), "The API key was revoked.")


async def test_a_key_costs_no_query_while_it_is_remembered(
    api: RunningApi, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries: list[str] = []
    look_up = api_keys.get

    async def counted(conn: Any, key_id: str) -> Any:
        queries.append(key_id)
        return await look_up(conn, key_id)

    monkeypatch.setattr("db.api_keys.get", counted)
    made, key = await key_for("students:read")
    for _ in range(3):
        assert (await get(api, key)).status_code == 200
    assert queries == [made.id]
    clock.elapsed += CACHE
    assert (await get(api, key)).status_code == 200
    assert queries == [made.id] * 2


async def test_a_wrong_key_is_not_remembered_and_forgets_nobody(
    api: RunningApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "REMEMBERED", 2)
    made, key = await key_for("students:read")
    assert (await get(api, key)).status_code == 200
    async with connection() as conn:
        await conn.execute("DELETE FROM api_key WHERE id = %s", [made.id])
    for number in range(5):
        check_refused(await get(api, f"rk_{number:012x}_{'A' * 43}"), "There is no such API key.")
    assert (await get(api, key)).status_code == 200


async def test_so_many_are_remembered_and_no_more(api: RunningApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "REMEMBERED", 2)
    keys = [(await key_for("students:read"))[1] for _ in range(3)]
    for key in keys:
        assert (await get(api, key)).status_code == 200
    async with connection() as conn:
        await conn.execute("TRUNCATE api_key")
    assert [(await get(api, key)).status_code for key in keys] == [401, 200, 200]


async def test_the_last_use_is_written_once_a_minute_at_the_most(api: RunningApi, clock: FakeClock) -> None:
    made, key = await key_for("students:read")
    assert (await stored(made.id)).last_used_at is None
    first = clock.now()
    for _ in range(5):
        assert (await get(api, key)).status_code == 200
        assert (await stored(made.id)).last_used_at == first
        clock.elapsed += CACHE
    clock.elapsed = 60
    assert (await get(api, key)).status_code == 200
    assert (await stored(made.id)).last_used_at == clock.now()


async def test_a_wrong_key_is_no_use_of_it(api: RunningApi) -> None:
    made, _ = await key_for("students:read")
    check_refused(await get(api, f"rk_{made.id}_{'A' * 43}"), "There is no such API key.")
    assert (await stored(made.id)).last_used_at is None


async def test_what_is_stored_and_remembered_is_no_key(api: RunningApi) -> None:
    made, key = await key_for("students:read")
    assert (await get(api, key)).status_code == 200
    row = await stored(made.id)
    secret = key.split("_", 2)[2]
    assert secret not in repr(row)
    assert row.digest == api_keys.digest_of(key)
    assert len({(await key_for("a"))[1] for _ in range(20)}) == 20


async def test_credentials_are_compared_in_constant_time(api: RunningApi, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def noting(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return hmac.compare_digest(one, other)

    monkeypatch.setattr("roles.api.api_keys.compare_digest", noting)
    made, key = await key_for("students:read")
    wrong = f"rk_{made.id}_{'A' * 43}"
    assert (await get(api, wrong)).status_code == 401
    assert (await get(api, key)).status_code == 200
    assert compared == [(made.digest, api_keys.digest_of(wrong)), (made.digest, made.digest)]


async def test_a_database_that_cannot_say_whose_a_key_is_is_no_reason_to_refuse_it(api: RunningApi) -> None:
    _, key = await key_for("students:read")
    async with connection() as conn:
        await conn.execute("BEGIN")
        await conn.execute("LOCK TABLE api_key")
        response = await get(api, key)
        await conn.execute("ROLLBACK")
    assert response.status_code == 503
    assert response.headers["Retry-After"] == "1"
    assert (await get(api, key)).status_code == 200


async def test_a_route_can_ask_who_calls_and_so_can_the_logs(
    faults: Faults, start_api: StartApi, clock: FakeClock
) -> None:
    made, key = await key_for("students:read")
    async with start_api(auth={"mode": "api_key"}, clock=clock) as api:
        response = await api.http.get("/api/v1/faults/caller", headers=bearer(key))
    assert response.text == f"key:{made.id}"
    assert faults.bound["caller"] == f"key:{made.id}"
