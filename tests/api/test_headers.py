"""Headers that keep browsers from doing what nobody meant, CORS, compression, and TLS with HTTP/2."""

from __future__ import annotations

import ssl
from pathlib import Path

import httpx
import psycopg
import pytest
from quart import Response

from db.pool import Pool, connection
from roles.api.compression import is_worth_compressing
from schema.errors import ConfigurationError
from tests.api.support import BOTH, Faults, RunningApi, StartApi
from tests.clients.stub import PEM
from tests.web.support import ServerName

pytestmark = [pytest.mark.anyio, BOTH]

STUDENTS = "/api/v1/students"
PAGE = "https://app.example.org"


@pytest.mark.parametrize("path", [STUDENTS, "/nowhere", "/problems/not-found", "/api/v1/faults/raise"])
async def test_every_reply_forbids_what_nobody_needs(path: str, faults: Faults, start_api: StartApi) -> None:
    faults.error = psycopg.errors.UniqueViolation("a bug")
    async with start_api() as api:
        headers = (await api.http.get(path)).headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cache-Control"] == ("private, no-cache" if "ETag" in headers else "no-store")
    assert headers["Referrer-Policy"] == "no-referrer"
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert not headers.get("Server")
    assert "Strict-Transport-Security" not in headers
    assert len(headers.get_list("Content-Security-Policy")) == 1


async def test_a_reply_with_an_etag_may_be_kept_and_asked_about(api: RunningApi) -> None:
    created = await api.http.post(STUDENTS, json={"name": "Ada"})
    reply = await api.http.get(created.headers["Location"])
    assert reply.headers["ETag"]
    assert reply.headers["Cache-Control"] == "private, no-cache"


async def test_pages_of_listed_origins_may_call(start_api: StartApi) -> None:
    preflight = {
        "Origin": PAGE,
        "Access-Control-Request-Method": "PATCH",
        "Access-Control-Request-Headers": "authorization, content-type, x-evil",
    }
    async with start_api(api={"cors_origins": [PAGE]}) as api:
        asked = await api.http.options(f"{STUDENTS}/1", headers=preflight)
        reply = await api.http.get(STUDENTS, headers={"Origin": PAGE})
        stranger = await api.http.get(STUDENTS, headers={"Origin": "https://evil.example"})
        missing = await api.http.get(f"{STUDENTS}/1", headers={"Origin": PAGE})
    assert asked.headers["Access-Control-Allow-Origin"] == PAGE
    assert "PATCH" in asked.headers["Access-Control-Allow-Methods"]
    allowed = asked.headers["Access-Control-Allow-Headers"].lower()
    assert "authorization" in allowed
    assert "x-evil" not in allowed
    assert reply.headers["Access-Control-Allow-Origin"] == PAGE
    assert "RateLimit-Remaining" in reply.headers["Access-Control-Expose-Headers"]
    assert "Origin" in reply.headers["Vary"]
    assert "Access-Control-Allow-Origin" not in stranger.headers
    assert missing.headers["Access-Control-Allow-Origin"] == PAGE, "its page may read the problem"


@pytest.mark.usefixtures("faults")
@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /?%s HTTP/1.1" % (b"a" * 8192), 414),
        (b"GET / HTTP/1.1\r\nX-Large: %s" % (b"a" * 16384), 431),
        (b"POST / HTTP/1.1\r\nContent-Length: 1001", 413),
        (b"POST / HTTP/1.1\r\nContent-Length: 1", 408),
        (b"GET /api/v1/faults/slow HTTP/1.1", 503),
        (b"GET http://[ HTTP/1.1", 400),
    ],
)
async def test_pages_may_read_why_a_request_did_not_even_come_to_a_route(
    sent: bytes, status: int, start_api: StartApi, server_name: ServerName
) -> None:
    limits = {"cors_origins": [PAGE], "request_timeout": "300ms", "max_content_length": 1000}
    async with start_api(api=limits) as api:
        rest = b"\r\nHost: x\r\nConnection: close\r\nOrigin: %s\r\nX-Request-Id: abc\r\n\r\n"
        reply = await api.raw(sent + rest % PAGE.encode())
        stranger = await api.raw(sent + rest % b"https://evil.example")
    assert reply.status == stranger.status == status
    if server_name == "granian" and not reply.body:
        return  # what its parser refuses never comes to us
    assert reply.problem()["request_id"] == reply.headers["x-request-id"] == "abc"
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.headers["access-control-allow-origin"] == PAGE
    assert "X-Request-Id" in reply.headers["access-control-expose-headers"]
    assert "access-control-allow-origin" not in stranger.headers


async def test_pages_may_read_that_there_are_too_many_requests(faults: Faults, start_api: StartApi) -> None:
    preflight = {"Origin": PAGE, "Access-Control-Request-Method": "POST"}
    async with start_api(api={"cors_origins": [PAGE], "max_in_flight": 1}) as api, await api.connect() as stream:
        await stream.send(b"GET /api/v1/faults/slow HTTP/1.1\r\nHost: x\r\n\r\n")
        await faults.entered.wait()
        asked = await api.http.options(STUDENTS, headers=preflight)
        refused = await api.http.post(STUDENTS, json={"name": "Ada"}, headers={"Origin": PAGE})
    assert asked.status_code == 200
    assert asked.headers["Access-Control-Allow-Origin"] == PAGE
    assert refused.status_code == 503
    assert refused.headers["Access-Control-Allow-Origin"] == PAGE
    assert "Retry-After" in refused.headers["Access-Control-Expose-Headers"]


async def test_without_a_setting_no_page_may(api: RunningApi) -> None:
    reply = await api.http.get(STUDENTS, headers={"Origin": PAGE})
    assert "Access-Control-Allow-Origin" not in reply.headers


async def many_students(pool: Pool) -> None:
    async with connection() as conn:
        await conn.execute("INSERT INTO student (name) SELECT 'Ada ' || n FROM generate_series(1, 50) n")


async def test_large_replies_are_compressed_for_those_who_take_it(pool: Pool, api: RunningApi) -> None:
    await many_students(pool)
    sizes = {}
    for accepted in ("gzip", "identity", "gzip;q=0", "br, *;q=0.1"):
        async with api.http.stream("GET", STUDENTS, headers={"Accept-Encoding": accepted}) as reply:
            raw = b"".join([chunk async for chunk in reply.aiter_raw()])
            assert len(raw) == int(reply.headers["Content-Length"])
            assert "Accept-Encoding" in reply.headers["Vary"]
            sizes[accepted] = len(raw), reply.headers.get("Content-Encoding")
    assert sizes["gzip"][1] == "gzip"
    assert sizes["gzip"][0] * 4 < sizes["identity"][0]
    assert sizes["identity"][1] is sizes["gzip;q=0"][1] is None
    whole = (await api.http.get(STUDENTS, headers={"Accept-Encoding": "gzip"})).json()
    assert whole == (await api.http.get(STUDENTS, headers={"Accept-Encoding": "identity"})).json()


def test_what_a_route_has_compressed_itself_stays_as_it_is() -> None:
    response = Response(b"x" * 5000, content_type="application/json", headers={"Content-Encoding": "br"})
    assert not is_worth_compressing(response)
    del response.headers["Content-Encoding"]
    assert is_worth_compressing(response)
    response.headers["ETag"] = '"3"'
    assert not is_worth_compressing(response)


async def test_small_replies_are_not(api: RunningApi) -> None:
    reply = await api.http.get(f"{STUDENTS}/1", headers={"Accept-Encoding": "gzip"})
    assert "Content-Encoding" not in reply.headers


@pytest.fixture
def certified(tmp_path: Path) -> dict[str, str]:
    return {"tls_certificate": str(PEM), "tls_key": str(PEM)}


def trusting() -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=PEM)
    context.check_hostname = False
    return context


@pytest.mark.parametrize("http2", [False, True])
async def test_a_certificate_makes_it_https(http2: bool, certified: dict[str, str], start_api: StartApi) -> None:
    async with start_api(api=certified) as api:
        url = f"https://{api.host}:{api.port}"
        async with httpx.AsyncClient(base_url=url, verify=trusting(), http2=http2, trust_env=False) as client:
            reply = await client.get(STUDENTS)
            created = await client.post(STUDENTS, json={"name": "Ada"})
    assert reply.http_version == ("HTTP/2" if http2 else "HTTP/1.1")
    assert reply.headers["Strict-Transport-Security"] == "max-age=31536000"
    assert created.status_code == 201


async def test_a_request_over_http2_is_finished_by_a_drain(
    certified: dict[str, str], faults: Faults, start_api: StartApi
) -> None:
    async with start_api(api={**certified, "request_timeout": "300ms"}) as api:
        url = f"https://{api.host}:{api.port}"
        async with httpx.AsyncClient(
            base_url=url, verify=trusting(), http2=True, trust_env=False, timeout=60
        ) as client:
            await client.get(STUDENTS)
            async with client.stream("GET", "/api/v1/faults/slow") as reply:
                api.stop.set()
                assert reply.status_code == 503
                assert (await reply.aread()).startswith(b"{")


async def test_plain_http_on_the_port_for_tls_costs_a_connection_and_no_more(
    certified: dict[str, str], start_api: StartApi
) -> None:
    async with start_api(api=certified) as api:
        async with await api.connect() as stream:
            await stream.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        url = f"https://{api.host}:{api.port}"
        async with httpx.AsyncClient(base_url=url, verify=trusting(), trust_env=False) as client:
            assert (await client.get(STUDENTS)).status_code == 200


async def test_a_certificate_that_is_none_is_said_at_the_start(tmp_path: Path, start_api: StartApi) -> None:
    broken = tmp_path / "broken.pem"
    broken.write_text("nonsense")
    with pytest.raises(ExceptionGroup) as failed:
        async with start_api(api={"tls_certificate": str(broken), "tls_key": str(broken)}):
            raise AssertionError("it has started")
    error = failed.value.exceptions[0]
    assert isinstance(error, ConfigurationError)
    assert "api.tls_certificate" in str(error)
