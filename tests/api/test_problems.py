"""Every error is a problem detail (RFC 9457): ours, Quart's, and what only a raw socket can provoke."""

from __future__ import annotations

import json
from typing import Any

import anyio
import pytest
from quart_schema import RequestSchemaValidationError
from structlog.testing import capture_logs

from db.pool import Pool, connection, create_pool, current_pool
from roles.api.errors import problem_for
from schema.errors import DependencyUnavailable
from schema.problems import PROBLEM_TYPES
from schema.settings import Database, Settings
from tests.api.support import BOTH, BUGS, FAILURES, Faults, RunningApi, StartApi, Unspeakable, running_api
from tests.clients.stub import free_port
from tests.web.support import ServerName

pytestmark = [pytest.mark.anyio, BOTH]

URL = "/api/v1/students"
JSON = {"Content-Type": "application/json"}


def check(response: Any, status: int, name: str) -> Any:
    """That it is a whole problem of that type; returns it."""
    assert response.status_code == status
    assert response.headers["Content-Type"] == "application/problem+json"
    problem = response.json()
    assert problem["type"] == f"/problems/{name}"
    assert problem["status"] == status
    assert problem["title"]
    assert problem["detail"]
    assert problem["instance"] == response.request.url.path
    assert problem["request_id"] == response.headers["X-Request-Id"]
    assert "traceback" not in problem
    return problem


@pytest.mark.parametrize(
    "path", ["/", "/nope", "/api/v1", "/api/v2/students", f"{URL}/", f"{URL}/x", f"{URL}/1/2", "/docs"]
)
async def test_a_path_that_does_not_exist_is_not_found(path: str, api: RunningApi) -> None:
    check(await api.http.get(path), 404, "not-found")


async def test_a_method_that_does_not_exist_is_answered_with_those_that_do(api: RunningApi) -> None:
    for method in ("PUT", "DELETE", "TRACE", "FOO"):
        response = await api.http.request(method, URL)
        check(response, 405, "method-not-allowed")
        assert response.headers["Allow"] == "GET, HEAD, OPTIONS, POST"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"{'name': 'Ada'}",
        b'{"name": NaN}',
        b'{"name": "Ada"} trailing',
        b'{"name": "Ada"}{"name": "Ben"}',
        b'{"name": "Ada",}',
        b'{"name": Infinity}',
        b'{"name": "Ada\x00"}',
        b'{"name": "\\udc00"}',
        b'{"name": "\\ud800"}',
        b'{"name": "\xff"}',
        b'{"name": ' + b"9" * 10_000 + b"}",
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b'{"name": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        "\ufeff{}".encode("utf-16"),
        "\ufeff{}".encode(),
    ],
)
async def test_what_is_no_json_is_malformed_and_it_says_where(body: bytes, api: RunningApi) -> None:
    problem = check(await api.http.post(URL, content=body, headers=JSON), 400, "malformed-request")
    assert problem["detail"].startswith("The body is not JSON: ")
    assert "line" in problem["detail"]


@pytest.mark.parametrize(
    "kind", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "x"]
)
async def test_a_body_that_is_not_said_to_be_json_is_of_an_unsupported_type(
    kind: str | None, api: RunningApi
) -> None:
    headers = {"Content-Type": kind} if kind else {}
    check(await api.http.post(URL, content=b'{"name": "Ada"}', headers=headers), 415, "unsupported-media-type")


async def test_a_body_that_is_compressed_is_of_an_unsupported_type(api: RunningApi) -> None:
    for encoding in ("gzip", "br", "deflate, gzip"):
        headers = {**JSON, "Content-Encoding": encoding}
        check(await api.http.post(URL, content=b'{"name": "Ada"}', headers=headers), 415, "unsupported-media-type")
    for encoding in ("identity", "Identity"):
        headers = {**JSON, "Content-Encoding": encoding}
        assert (await api.http.post(URL, content=b'{"name": "Ada"}', headers=headers)).status_code == 201


@pytest.mark.parametrize("accept", ["text/html", "application/xml, text/*;q=0.5", "application/json;q=0", "x"])
async def test_a_client_that_takes_no_json_is_told_so(accept: str, api: RunningApi) -> None:
    for response in (
        await api.http.get(URL, headers={"Accept": accept}),
        await api.http.post(URL, json={"name": "Ada"}, headers={"Accept": accept}),
    ):
        check(response, 406, "not-acceptable")
    assert (await api.http.get(URL)).json()["items"] == []
    assert (await api.http.get("/problems", headers={"Accept": accept})).status_code == 200


@pytest.mark.parametrize(
    "accept",
    ["", "*/*", "application/*", "text/html, */*;q=0.1", "Application/JSON; q=0.5", "application/json, text/html"],
)
async def test_a_client_that_takes_json_may_say_so_in_many_ways(accept: str, api: RunningApi) -> None:
    assert (await api.http.get(URL, headers={"Accept": accept})).status_code == 200


@pytest.mark.parametrize(
    "kind",
    [
        "application/json; charset=utf-8",
        "application/json; charset=utf-16",  # JSON is UTF-8 whatever is said of it (RFC 8259 §8.1, §11)
        "Application/JSON",
        "application/merge-patch+json",
    ],
)
async def test_json_may_be_said_in_more_than_one_way(kind: str, api: RunningApi) -> None:
    response = await api.http.post(URL, content='{"name": "Zoë"}'.encode(), headers={"Content-Type": kind})
    assert (response.status_code, response.json()["name"]) == (201, "Zoë")


async def test_of_two_members_with_one_name_the_last_counts(api: RunningApi) -> None:
    response = await api.http.post(URL, content=b'{"name": "Ada", "name": "Ben"}', headers=JSON)
    assert (response.status_code, response.json()["name"]) == (201, "Ben")
    response = await api.http.post(URL, content=b'{"name": "Ada", "name": 1}', headers=JSON)
    check(response, 422, "invalid-request")


@pytest.mark.parametrize(
    ("body", "errors"),
    [
        ({}, {"#/name": "missing"}),
        ({"name": None}, {"#/name": "string_type"}),
        ({"name": ""}, {"#/name": "string_too_short"}),
        ({"name": "a" * 201}, {"#/name": "string_too_long"}),
        ({"name": 1}, {"#/name": "string_type"}),
        ({"name": 1e400}, None),
        ({"name": ["Ada"]}, {"#/name": "string_type"}),
        ({"name": "Ada\0"}, {"#/name": "value_error"}),
        ({"name": "Ada", "a/b~c": 1}, {"#/a~1b~0c": "extra_forbidden"}),
        ({"nam": "Ada"}, {"#/name": "missing", "#/nam": "extra_forbidden"}),
        ([], {"#": "model_type"}),
        ("Ada", {"#": "model_type"}),
        (17, {"#": "model_type"}),
        (None, {"#": "model_type"}),
    ],
)
async def test_each_value_that_is_not_acceptable_is_named(
    body: Any, errors: dict[str, str] | None, api: RunningApi
) -> None:
    response = await api.http.post(URL, content=json.dumps(body), headers=JSON)
    if errors is None:  # Infinity is no JSON at all
        check(response, 400, "malformed-request")
        return
    problem = check(response, 422, "invalid-request")
    assert {error["pointer"]: error["code"] for error in problem["errors"]} == errors
    assert all(error["detail"] for error in problem["errors"])


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (b"1e400", "string_type"),
        (b"-1e400", "string_type"),
        (b"1e-400", "string_type"),
        (b"9" * 1000, "string_type"),
        (b"[" * 190 + b"]" * 190, "string_type"),
        (b"[" + b"0," * 200_000 + b"0]", "string_type"),
        (b'{"\\u0000": 1}', "string_type"),
        (b'"' + "é\U0001f600".encode() * 101 + b'"', "string_too_long"),
    ],
    ids=["huge", "huge below zero", "tiny", "many digits", "deep", "wide", "NUL in a name", "long"],
)
async def test_odd_values_are_values_and_named_like_others(value: bytes, code: str, api: RunningApi) -> None:
    response = await api.http.post(URL, content=b'{"name": ' + value + b"}", headers=JSON)
    problem = check(response, 422, "invalid-request")
    assert [(error["pointer"], error["code"]) for error in problem["errors"]] == [("#/name", code)]
    assert len(response.content) < 1000


@pytest.mark.parametrize(
    ("query", "errors"),
    [
        ("limit=0", {"limit": "greater_than_equal"}),
        ("limit=201", {"limit": "less_than_equal"}),
        ("limit=many", {"limit": "int_parsing"}),
        ("limit=1&limit=2", {"limit": "int_type"}),
        ("limit[]=1", {"limit": "int_type"}),
        ("limit=" + "9" * 5000, {"limit": "int_parsing_size"}),
        ("limit=%00", {"limit": "int_parsing"}),
        ("limit=%ff", {"limit": "int_parsing"}),
        ("active=perhaps", {"active": "bool_parsing"}),
        ("name=%00", {"name": "value_error"}),
        ("name=" + "a" * 201, {"name": "string_too_long"}),
        ("cursor=" + "a" * 501, {"cursor": "string_too_long"}),
        ("page=2", {"page": "extra_forbidden"}),
        ("limit=x&active=perhaps", {"limit": "int_parsing", "active": "bool_parsing"}),
    ],
)
async def test_each_parameter_that_is_not_acceptable_is_named(
    query: str, errors: dict[str, str], api: RunningApi
) -> None:
    problem = check(await api.http.get(f"{URL}?{query}"), 422, "invalid-request")
    assert {error["parameter"]: error["code"] for error in problem["errors"]} == errors


@pytest.mark.usefixtures("faults")
async def test_a_route_may_do_without_json_if_it_is_none(api: RunningApi) -> None:
    for body, found in ((b"{", "None"), (b"[1]", "[1]")):
        assert (await api.http.post("/api/v1/faults/silent", content=body, headers=JSON)).text == found


def test_a_model_that_is_not_pydantics_says_what_it_did_not_accept() -> None:
    problem, _ = problem_for(RequestSchemaValidationError(TypeError("not a date")), debug=False)
    assert (problem.type, problem.detail) == ("/problems/invalid-request", "not a date")


async def test_an_answer_to_many_mistakes_stays_small(api: RunningApi) -> None:
    response = await api.http.post(URL, json={f"{number}{'x' * 500}": number for number in range(1000)})
    problem = check(response, 422, "invalid-request")
    assert problem["detail"] == "1001 values are not acceptable."
    assert len(problem["errors"]) == 20
    assert len(response.content) < 10_000


@pytest.mark.parametrize("error", BUGS, ids=lambda error: type(error).__name__)
async def test_a_bug_is_answered_without_its_insides_and_logged_with_them(
    error: BaseException, faults: Faults, api: RunningApi
) -> None:
    faults.error = error
    with capture_logs() as logs:
        response = await api.http.get("/api/v1/faults/raise")
    check(response, 500, "internal-error")
    assert "secret" not in response.text
    [entry] = [entry for entry in logs if entry["event"] == "request failed"]
    assert entry["exc_info"] is error
    assert api.tally.failed == 1


async def test_with_debug_a_bug_shows_its_traceback(faults: Faults, start_api: StartApi) -> None:
    faults.error = RuntimeError("not so secret")
    async with start_api(debug=True) as api:
        problem = (await api.http.get("/api/v1/faults/raise")).json()
    assert problem["detail"] == "RuntimeError('not so secret')"
    assert problem["traceback"][0] == "Traceback (most recent call last):"


class UnspeakableOutage(Unspeakable, DependencyUnavailable):
    """Of something that is away."""


async def test_an_error_whose_text_cannot_be_had_is_answered_all_the_same(
    faults: Faults, start_api: StartApi
) -> None:
    async with start_api(debug=True) as api:
        faults.error = UnspeakableOutage()
        with capture_logs() as logs:
            response = await api.http.get("/api/v1/faults/raise")
        check(response, 503, "unavailable")
        [entry] = [entry for entry in logs if entry["event"] == "request not served"]
        assert entry["reason"] == "(its text cannot be had: RuntimeError)"
        faults.error = Unspeakable()
        response = await api.http.get("/api/v1/faults/raise")
    assert response.status_code == 500
    assert response.json()["detail"] == "(its text cannot be had: RuntimeError)"


@pytest.mark.parametrize(("error", "status", "kind"), FAILURES, ids=lambda value: type(value).__name__)
async def test_a_failure_of_the_world_is_told_from_a_bug(
    error: Exception, status: int, kind: str, faults: Faults, api: RunningApi
) -> None:
    faults.error = error
    with capture_logs() as logs:
        response = await api.http.get("/api/v1/faults/raise")
    check(response, status, kind.removeprefix("/problems/"))
    assert ("Retry-After" in response.headers) == (status == 503)
    assert "secret" not in response.text
    [entry] = [entry for entry in logs if entry["event"] == "request not served"]
    assert (entry["problem"], "secret" in entry["reason"]) == (kind, True)
    assert api.tally.failed == 0


@pytest.mark.usefixtures("faults")
async def test_a_route_may_abort_with_any_status(api: RunningApi) -> None:
    response = await api.http.get("/api/v1/faults/abort/410")
    assert response.status_code == 410
    assert response.headers["Content-Type"] == "application/problem+json"
    assert (response.json()["type"], response.json()["title"]) == ("about:blank", "Gone")


@pytest.mark.usefixtures("faults")
async def test_a_statement_that_takes_too_long_may_be_tried_again(api: RunningApi) -> None:
    response = await api.http.get("/api/v1/faults/slow-statement")
    check(response, 503, "unavailable")
    assert response.headers["Retry-After"] == "1"


async def test_a_pool_without_a_free_connection_is_an_answer_and_no_hang(pool: Pool, api: RunningApi) -> None:
    async with anyio.create_task_group() as tasks:
        held, release = [0], anyio.Event()

        async def hold() -> None:
            async with connection():
                held[0] += 1
                await release.wait()

        for _ in range(pool.max_size):
            tasks.start_soon(hold)
        with anyio.fail_after(60):
            response = await api.http.get(f"{URL}/1")
        assert held[0] == pool.max_size
        check(response, 503, "unavailable")
        assert response.headers["Retry-After"] == "1"
        release.set()
    assert (await api.http.get(f"{URL}/1")).status_code == 404


async def test_a_database_that_is_away_is_an_answer_and_no_hang() -> None:
    settings = Database.model_validate({"pool_timeout": "300ms"})
    async with create_pool(f"postgresql://127.0.0.1:{free_port()}/nowhere", settings) as pool:
        token = current_pool.set(pool)
        async with running_api(pool, Settings.model_validate({"api": {"bind": "127.0.0.1:0"}})) as api:
            with anyio.fail_after(60):
                for response in (await api.http.get(URL), await api.http.post(URL, json={"name": "Ada"})):
                    check(response, 503, "unavailable")
                    assert response.headers["Retry-After"] == "1"
                    assert "127.0.0.1" not in response.text
        current_pool.reset(token)


@pytest.mark.parametrize(
    ("request_line", "host", "status"),
    [
        (b"GET http://example.org/nope HTTP/1.1", b"x", 404),
        (b"GET http://[ HTTP/1.1", b"x", 400),
        (b"GET ?x=1 HTTP/1.1", b"x", 404),
        (b"GET //nope HTTP/1.1", b"x", 404),
        (b"GET /%00%ff/../%2e%2e HTTP/1.1", b"x", 404),
        (b"OPTIONS * HTTP/1.1", b"x", 404),
        (b"CONNECT example.org:443 HTTP/1.1", b"x", 404),
        (b"GET /nope HTTP/1.1", b"a..b", 404),
        (b"GET /nope HTTP/1.1", b"x" * 300, 404),
        (b"GET /nope HTTP/1.1", b"[", 404),
        (b"GET /nope HTTP/1.0", b"", 404),
        (b"PATCH /api/v1/students HTTP/1.1", b"\xe9", 405),
    ],
)
async def test_odd_requests_are_answered_with_problems(
    request_line: bytes, host: bytes, status: int, api: RunningApi, server_name: ServerName
) -> None:
    reply = await api.raw(request_line + b"\r\nHost: " + host + b"\r\nConnection: close\r\n\r\n")
    assert reply.status in (status, 400)
    if server_name == "granian" and not reply.body:
        assert reply.status == 400, "what its parser refuses never comes to us"
        return
    problem = reply.problem()
    assert problem["status"] == reply.status
    assert problem["request_id"] == reply.headers["x-request-id"]


async def test_an_absolute_target_is_the_same_as_its_path(api: RunningApi) -> None:
    line = b"GET http://example.org" + URL.encode() + b"?limit=1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    assert (await api.raw(line)).status == 200


@pytest.mark.parametrize(
    "sent", [b"GET /\xff HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00", b"GET / HTTP/1.1\r\nA" + b"a" * 99_999]
)
async def test_what_is_no_http_is_refused_by_the_server_and_hurts_nobody(sent: bytes, api: RunningApi) -> None:
    reply = await api.raw(sent + b"\r\n\r\n")
    assert reply.status in (400, 431)
    assert (await api.http.get(URL)).status_code == 200


async def test_types_are_stable_and_lead_to_a_page_that_explains_them(api: RunningApi) -> None:
    assert {kind.name: kind.status for kind in PROBLEM_TYPES} == {
        "malformed-request": 400,
        "unauthenticated": 401,
        "forbidden": 403,
        "not-found": 404,
        "method-not-allowed": 405,
        "not-acceptable": 406,
        "slow-request": 408,
        "conflict": 409,
        "in-progress": 409,
        "precondition-failed": 412,
        "content-too-large": 413,
        "target-too-long": 414,
        "unsupported-media-type": 415,
        "invalid-request": 422,
        "idempotency-key-reused": 422,
        "too-many-requests": 429,
        "headers-too-large": 431,
        "internal-error": 500,
        "upstream-failed": 502,
        "unavailable": 503,
        "timed-out": 503,
        "upstream-timed-out": 504,
    }
    index = await api.http.get("/problems")
    for kind in PROBLEM_TYPES:
        assert f'href="{kind.type}"' in index.text
        page = await api.http.get(kind.type)
        assert page.status_code == 200
        assert page.headers["Content-Type"] == "text/html; charset=utf-8"
        assert kind.title in page.text
        assert f"HTTP status {kind.status}" in page.text
    check(await api.http.get("/problems/nope"), 404, "not-found")
