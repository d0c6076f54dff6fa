"""What a call of another service promises, against a service that misbehaves."""

from __future__ import annotations

import gzip
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import anyio
import httpx
import pytest
import structlog
from structlog.testing import capture_logs

from clients.errors import UpstreamInvalid, UpstreamTimeout, UpstreamUnavailable
from clients.http import open_http_client
from clients.service import Service, path
from schema.settings import Client
from tests.clients.stub import PEM, Stub, answer, free_port, gibberish, reset, running_stub, silence

pytestmark = pytest.mark.anyio

OK = answer(200, b"{}")


def settings(url: str, **values: Any) -> Client:
    return Client(url=url, **{"attempts": 3, "backoff": "1ms", "timeout": "5s", **values})


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with open_http_client() as client:
        yield client


async def test_an_answer_is_returned_whatever_it_is_below_500(stub: Stub, http: httpx.AsyncClient) -> None:
    stub.plays(answer(404, b"nowhere"))
    response = await Service("stub", settings(stub.url), http).call("GET", "/x", params={"a": "b c"})
    assert (response.status_code, response.text) == (404, "nowhere")
    assert stub.requests[0].target == "/x?a=b+c"


@pytest.mark.parametrize("trouble", [answer(502), answer(503), answer(504), reset])
async def test_a_passing_trouble_is_not_noticed(trouble: Any, stub: Stub, http: httpx.AsyncClient) -> None:
    stub.plays(trouble, OK)
    response = await Service("stub", settings(stub.url), http).call("GET", "/")
    assert response.status_code == 200
    assert len(stub.requests) == 2


@pytest.mark.parametrize("attempts", [1, 2, 4])
async def test_a_lasting_trouble_is_an_error_after_exactly_so_many_attempts(
    attempts: int, stub: Stub, http: httpx.AsyncClient
) -> None:
    stub.plays(answer(503))
    with pytest.raises(UpstreamUnavailable, match=r"stub service: GET http://127.* answered 503"):
        await Service("stub", settings(stub.url, attempts=attempts), http).call("GET", "/")
    assert len(stub.requests) == attempts


@pytest.mark.parametrize("trouble", [answer(503), reset])
async def test_a_call_that_may_have_had_an_effect_is_not_repeated(
    trouble: Any, stub: Stub, http: httpx.AsyncClient
) -> None:
    stub.plays(trouble, OK)
    with pytest.raises(UpstreamUnavailable):
        await Service("stub", settings(stub.url), http).call("POST", "/", json={"name": "Ada"})
    assert len(stub.requests) == 1


async def test_a_bug_of_the_service_is_not_asked_for_again(stub: Stub, http: httpx.AsyncClient) -> None:
    stub.plays(answer(500))
    with pytest.raises(UpstreamUnavailable, match="answered 500"):
        await Service("stub", settings(stub.url), http).call("GET", "/")
    assert len(stub.requests) == 1


async def test_the_pauses_grow_and_are_logged(
    stub: Stub, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clients.service.random.random", lambda: 1.0)
    stub.plays(answer(503))
    with capture_logs() as logs, pytest.raises(UpstreamUnavailable):
        await Service("stub", settings(stub.url, attempts=4, backoff="10ms"), http).call("GET", "/")
    repeated = [entry for entry in logs if entry["event"] == "upstream call repeated"]
    assert [entry["wait"] for entry in repeated] == [0.01, 0.02, 0.04]
    assert {entry["service"] for entry in repeated} == {"stub"}


async def test_retry_after_is_honoured(stub: Stub, http: httpx.AsyncClient) -> None:
    stub.plays(answer(503, retry_after="1"), OK)
    await Service("stub", settings(stub.url), http).call("GET", "/")
    first, second = stub.requests
    assert second.at - first.at >= 1


async def test_retry_after_may_be_a_date(stub: Stub, http: httpx.AsyncClient) -> None:
    stub.plays(answer(503, retry_after=format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)), OK)
    await Service("stub", settings(stub.url), http).call("GET", "/")
    first, second = stub.requests
    assert second.at - first.at >= 0.5  # dates have whole seconds


@pytest.mark.parametrize("value", ["3600", "Fri, 31 Dec 2100 23:59:59 GMT", "9" * 400])
async def test_a_service_that_wants_to_be_left_alone_for_longer_than_we_have_is_left_alone(
    value: str, stub: Stub, http: httpx.AsyncClient
) -> None:
    stub.plays(answer(503, retry_after=value))
    with anyio.fail_after(60), pytest.raises(UpstreamUnavailable):
        await Service("stub", settings(stub.url), http).call("GET", "/")
    assert len(stub.requests) == 1


@pytest.mark.parametrize("value", ["soon", "-1", "Fri, 31 Feb", ""])
async def test_a_retry_after_that_makes_no_sense_is_ignored(value: str, stub: Stub, http: httpx.AsyncClient) -> None:
    stub.plays(answer(503, retry_after=value), OK)
    assert (await Service("stub", settings(stub.url), http).call("GET", "/")).status_code == 200


async def test_a_service_that_says_nothing_costs_no_more_than_the_timeout(
    stub: Stub, http: httpx.AsyncClient
) -> None:
    stub.plays(silence)
    service = Service("stub", settings(stub.url, timeout="200ms"), http)
    with anyio.fail_after(60), pytest.raises(UpstreamTimeout, match="no answer in 200ms"):
        await service.call("GET", "/")
    assert len(stub.requests) == 1


async def test_the_caller_may_have_less_time_than_the_call(stub: Stub, http: httpx.AsyncClient) -> None:
    stub.plays(answer(503, retry_after="2"))
    with anyio.fail_after(60), pytest.raises(UpstreamUnavailable):
        await Service("stub", settings(stub.url), http).call("GET", "/")


async def test_a_service_that_is_not_there_is_unavailable(http: httpx.AsyncClient) -> None:
    with pytest.raises(UpstreamUnavailable, match="stub service: GET"):
        await Service("stub", settings(f"http://127.0.0.1:{free_port()}"), http).call("GET", "/")


async def test_what_is_no_http_is_unavailable_too(stub: Stub, http: httpx.AsyncClient) -> None:
    stub.plays(gibberish)
    with pytest.raises(UpstreamUnavailable):
        await Service("stub", settings(stub.url), http).call("GET", "/")


async def test_a_compressed_body_that_does_not_unpack_makes_no_sense(stub: Stub, http: httpx.AsyncClient) -> None:
    stub.plays(answer(200, b"not gzip", content_encoding="gzip"))
    with pytest.raises(UpstreamInvalid):
        await Service("stub", settings(stub.url), http).call("GET", "/")


async def test_redirects_are_not_followed(stub: Stub, http: httpx.AsyncClient) -> None:
    stub.plays(answer(302, location="http://169.254.169.254/"))
    response = await Service("stub", settings(stub.url), http).call("GET", "/")
    assert response.status_code == 302
    assert len(stub.requests) == 1


async def test_a_certificate_that_nobody_vouches_for_is_refused() -> None:
    async with running_stub(tls=True) as stub, open_http_client() as http:
        stub.plays(OK)
        with pytest.raises(UpstreamUnavailable, match="certificate verify failed"):
            await Service("stub", settings(stub.url, attempts=1), http).call("GET", "/")
        assert not stub.requests


async def test_a_certificate_of_a_private_authority_is_accepted_if_we_trust_it() -> None:
    async with running_stub(tls=True) as stub:
        stub.plays(OK)
        async with open_http_client(trust=ssl.create_default_context(cafile=str(PEM))) as http:
            assert (await Service("stub", settings(stub.url), http).call("GET", "/")).status_code == 200


async def test_hooks_say_who_asks_and_for_which_request(stub: Stub, http: httpx.AsyncClient) -> None:
    stub.plays(OK)
    with structlog.contextvars.bound_contextvars(request_id="abc-123"):
        await Service("stub", settings(stub.url), http).call("GET", "/")
    await Service("stub", settings(stub.url), http).call("GET", "/")
    assert [request.headers["user-agent"] for request in stub.requests] == ["rolecall"] * 2
    assert [request.headers.get("x-request-id") for request in stub.requests] == ["abc-123", None]


async def test_hooks_log_each_answer(stub: Stub, http: httpx.AsyncClient) -> None:
    stub.plays(answer(503), OK)
    with capture_logs() as logs:
        await Service("stub", settings(stub.url), http).call("GET", "/x")
    answers = [entry for entry in logs if entry["event"] == "upstream answered"]
    assert [(entry["status"], entry["url"]) for entry in answers] == [(503, f"{stub.url}/x"), (200, f"{stub.url}/x")]


def test_a_path_is_made_of_segments_that_cannot_climb_or_add_one() -> None:
    assert path("api", "timezone", "Europe", "a/b?c#d e%2f") == "/api/timezone/Europe/a%2Fb%3Fc%23d%20e%252f"
    for step in ("", ".", ".."):
        with pytest.raises(ValueError, match="cannot be a segment"):
            path("api", step)


async def test_the_password_of_a_service_is_sent_and_shown_nowhere(stub: Stub, http: httpx.AsyncClient) -> None:
    url = stub.url.replace("http://", "http://app:hunter2@")
    stub.plays(answer(503), answer(404))
    service = Service("stub", settings(url), http)
    with capture_logs() as logs:
        response = await service.call("GET", "/x")
        with pytest.raises(UpstreamInvalid) as caught:
            service.decode(response, Client)
    assert stub.requests[0].headers["authorization"].startswith("Basic ")
    assert str(caught.value) == f"stub service: GET {stub.url}/x: answered 404"
    assert "hunter2" not in str(logs)


@pytest.mark.parametrize("when", ["Mon, 01 Jan 99999999999999999999 00:00:00 GMT", "9" * 5000, "-1", "soon"])
async def test_a_retry_after_that_makes_no_sense_is_no_bug_of_ours(
    when: str, stub: Stub, http: httpx.AsyncClient
) -> None:
    stub.plays(answer(503, retry_after=when))
    with pytest.raises(UpstreamUnavailable, match="answered 503"):
        await Service("stub", settings(stub.url), http).call("GET", "/")


@pytest.mark.parametrize("compressed", [False, True])
async def test_an_answer_takes_only_so_much_memory(
    *, compressed: bool, stub: Stub, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clients.service.LONGEST_ANSWER", 100_000)
    service = Service("stub", settings(stub.url), http)
    for length in (100_000, 100_001):
        body = b"x" * length
        encoding = {"content_encoding": "gzip"} if compressed else {}
        stub.plays(answer(200, gzip.compress(body) if compressed else body, **encoding))
        if length == 100_000:
            assert (await service.call("GET", "/")).content == body
        else:
            with pytest.raises(UpstreamInvalid, match="longer than 100000 bytes"):
                await service.call("GET", "/")
