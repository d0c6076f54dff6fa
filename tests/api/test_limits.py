"""How much, how long, and who went away: over sockets, because Quart's test client knows nothing of these."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import anyio.lowlevel
import pytest
from hypercorn.typing import ASGIReceiveEvent
from structlog.testing import capture_logs

from roles.api.client_watch import ClientWatch
from tests.api.support import BOTH, Faults, RawReply, RunningApi, StartApi, read_all
from tests.web.support import eventually

pytestmark = [pytest.mark.anyio, BOTH]

ECHO = b"POST /api/v1/faults/echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
LIMIT = 10_000


@pytest.fixture
async def api(faults: Faults, start_api: StartApi) -> AsyncIterator[RunningApi]:
    async with start_api(api={"max_content_length": LIMIT, "request_timeout": "400ms"}) as api:
        yield api


def chunked(size: int) -> bytes:
    return b"%x\r\n%s\r\n" % (size, b"a" * size)


async def test_a_body_may_be_as_long_as_the_limit(api: RunningApi) -> None:
    reply = await api.raw(ECHO + b"Content-Length: %d\r\n\r\n" % LIMIT, b"a" * LIMIT)
    assert (reply.status, reply.body) == (200, str(LIMIT).encode())
    reply = await api.raw(ECHO + b"Transfer-Encoding: chunked\r\n\r\n", chunked(LIMIT - 1), chunked(1), b"0\r\n\r\n")
    assert (reply.status, reply.body) == (200, str(LIMIT).encode())


async def test_a_body_that_announces_too_much_is_refused_before_it_is_sent(api: RunningApi) -> None:
    async with await api.connect() as stream:
        await stream.send(ECHO + b"Content-Length: %d\r\n\r\n" % (LIMIT + 1))
        with anyio.fail_after(60):
            assert RawReply.parse(await stream.receive()).status == 413


async def test_a_client_that_sends_too_much_all_the_same_can_read_why_it_failed(api: RunningApi) -> None:
    size = 50 * LIMIT
    reply = await api.raw(ECHO + b"Content-Length: %d\r\n\r\n" % size, b"a" * size)
    assert reply.status == 413
    assert reply.problem()["type"] == "/problems/content-too-large"


async def test_a_body_that_does_not_say_how_long_it_is_is_counted(api: RunningApi) -> None:
    async with await api.connect() as stream:
        await stream.send(ECHO + b"Transfer-Encoding: chunked\r\n\r\n")
        await stream.send(chunked(LIMIT))
        await stream.send(chunked(1))
        with anyio.fail_after(60):
            reply = RawReply.parse(await stream.receive())
        assert reply.status == 413  # and the body has not even ended


async def test_a_request_that_takes_too_long_is_given_up(faults: Faults, api: RunningApi) -> None:
    began = anyio.current_time()
    response = await api.http.get("/api/v1/faults/slow")
    assert anyio.current_time() - began < 20
    assert response.status_code == 503
    assert response.json()["type"] == "/problems/timed-out"
    assert response.headers["Retry-After"] == "1"
    assert faults.cancelled.is_set()
    assert (await api.http.get("/api/v1/students")).status_code == 200


async def test_a_request_that_takes_too_long_within_a_statement_is_given_up_too(api: RunningApi) -> None:
    for _ in range(6):  # more often than there are connections in the pool
        response = await api.http.get("/api/v1/faults/slow-statement")
        assert response.status_code == 503
        assert response.json()["type"] == "/problems/timed-out"
    assert (await api.http.get("/api/v1/students")).status_code == 200


async def test_a_request_that_takes_too_long_is_given_up_even_if_a_library_hides_it(api: RunningApi) -> None:
    for _ in range(2):
        response = await api.http.get("/api/v1/faults/replaced")
        assert response.json()["type"] == "/problems/timed-out"


async def test_a_client_that_goes_away_is_noticed_even_if_a_library_hides_it(
    faults: Faults, start_api: StartApi
) -> None:
    with capture_logs() as logs:
        async with start_api() as api:
            async with await api.connect() as stream:
                await stream.send(b"GET /api/v1/faults/replaced HTTP/1.1\r\nHost: x\r\n\r\n")
                await faults.entered.wait()
            await eventually(lambda: not api.tally.in_flight)
            assert api.tally.failed == 1
    assert not [entry for entry in logs if entry["log_level"] == "error"]


async def test_a_client_that_has_gone_before_its_request_is_handled_cancels_it_too() -> None:
    async def receive() -> ASGIReceiveEvent:
        return {"type": "http.disconnect"}

    with anyio.CancelScope() as scope, ClientWatch(receive, scope) as client:
        await anyio.lowlevel.checkpoint()
    assert client.gone
    assert scope.cancelled_caught


@pytest.mark.usefixtures("faults")
async def test_a_client_that_goes_away_within_a_statement_cancels_it(start_api: StartApi) -> None:
    async with start_api() as api:
        for _ in range(6):
            async with await api.connect() as stream:
                await stream.send(b"GET /api/v1/faults/slow-statement HTTP/1.1\r\nHost: x\r\n\r\n")
                await eventually(lambda: api.tally.in_flight)
                await anyio.sleep(0.05)  # long enough for the statement to have begun; it takes 500 ms
            await eventually(lambda: not api.tally.in_flight, within=0.3)
        assert (api.tally.finished, api.tally.failed) == (0, 6)
        assert (await api.http.get("/api/v1/students")).status_code == 200


async def test_a_child_task_that_failed_leaves_nothing_behind(faults: Faults, api: RunningApi) -> None:
    faults.error = RuntimeError("of a child")
    response = await api.http.get("/api/v1/faults/group")
    assert response.status_code == 204


async def test_a_body_that_does_not_come_is_not_waited_for(api: RunningApi) -> None:
    for header in (b"Content-Length: 10", b"Transfer-Encoding: chunked"):
        reply = await api.raw(ECHO + header + b"\r\n\r\n")
        assert reply.status == 408
        assert reply.problem()["type"] == "/problems/slow-request"


@pytest.mark.usefixtures("faults")
async def test_a_cancellation_that_nobody_asked_for_is_answered_as_a_bug(api: RunningApi) -> None:
    with capture_logs() as logs:
        response = await api.http.get("/api/v1/faults/stray")
    assert response.status_code == 500
    assert response.json()["type"] == "/problems/internal-error"
    assert [entry for entry in logs if entry["event"] == "request failed"]
    assert (await api.http.get("/api/v1/students")).status_code == 200


@pytest.mark.parametrize("body", [b"", b"Content-Length: 2\r\n"])
async def test_a_client_that_goes_away_cancels_its_request(body: bytes, faults: Faults, start_api: StartApi) -> None:
    with capture_logs() as logs:
        async with start_api() as api:
            async with await api.connect() as stream:
                await stream.send(
                    b"POST /api/v1/faults/slow HTTP/1.1\r\nHost: x\r\n" + body + b"\r\n" + b"ab" * bool(body)
                )
                await faults.entered.wait()
            with anyio.fail_after(60):
                await faults.cancelled.wait()
            await eventually(lambda: not api.tally.in_flight)
            assert (api.tally.finished, api.tally.failed) == (0, 1)
    [entry] = [entry for entry in logs if entry["event"] == "request"]
    assert (entry["status"], entry["complete"]) == (None, False)
    assert not [entry for entry in logs if entry["log_level"] == "error"]


async def test_a_client_that_goes_away_within_its_body_leaves_nothing_behind(
    start_api: StartApi, faults: Faults
) -> None:
    async with start_api() as api:
        async with await api.connect() as stream:
            await stream.send(b"POST /api/v1/faults/slow HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc")
            await eventually(lambda: api.tally.in_flight)
        await eventually(lambda: not api.tally.in_flight)
        assert not faults.entered.is_set()
        assert api.tally.failed == 1


async def test_a_client_that_closes_its_half_of_the_connection_is_taken_to_be_gone(
    faults: Faults, start_api: StartApi
) -> None:
    async with start_api() as api, await api.connect() as stream:
        await stream.send(b"GET /api/v1/faults/slow HTTP/1.1\r\nHost: x\r\n\r\n")
        await faults.entered.wait()
        await stream.send_eof()
        assert await read_all(stream) == b""
        with anyio.fail_after(60):
            await faults.cancelled.wait()


async def test_targets_and_headers_have_a_length_each(start_api: StartApi) -> None:
    async with start_api(api={"max_target_length": 100, "max_headers_length": 200}) as api:
        path = "/api/v1/students?name="
        longest = await api.http.get(path + "a" * (100 - len(path)))
        over = await api.http.get(path + "a" * (101 - len(path)))
        large = await api.http.get("/api/v1/students", headers={"X-Large": "a" * 200})
        many = await api.http.get("/api/v1/students", headers={f"X-{n}": "a" for n in range(30)})
        assert longest.status_code == 200
        assert (over.status_code, over.json()["type"]) == (414, "/problems/target-too-long")
        assert (large.status_code, large.json()["type"]) == (431, "/problems/headers-too-large")
        assert many.status_code == 431
        assert (await api.http.get("/api/v1/students")).status_code == 200


@pytest.mark.usefixtures("faults")
async def test_bodies_that_are_large_together_are_refused_and_small_ones_are_not(start_api: StartApi) -> None:
    large = 16 * 1024 + 6000
    async with start_api(api={"max_bodies_length": 10_000}) as api:

        async def echo(size: int) -> int:
            return (await api.http.post("/api/v1/faults/echo", content=b"a" * size)).status_code

        async with await api.connect() as slow:
            await slow.send(ECHO + b"Content-Length: %d\r\n\r\n" % large + b"a" * (large - 1))
            await eventually(lambda: api.tally.in_flight)
            while await echo(large) != 503:  # noqa: ASYNC110 - until all of the other one is there
                await anyio.sleep(0.01)
            reply = await api.http.post("/api/v1/faults/echo", content=b"a" * large)
            assert reply.json()["type"] == "/problems/unavailable"
            assert reply.headers["Retry-After"] == "1"
            assert await echo(16 * 1024) == 200
            await slow.send(b"a")
            assert RawReply.parse(await read_all(slow)).status == 200
        assert await echo(large) == 200


async def test_requests_on_one_connection_are_answered_in_turn(api: RunningApi) -> None:
    one = b"GET /api/v1/students HTTP/1.1\r\nHost: x\r\n\r\n"
    last = b"GET /nope HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    async with await api.connect() as stream:
        await stream.send(one + one + last)
        data = await read_all(stream)
    assert data.count(b"HTTP/1.1 200") == 2
    assert data.count(b"HTTP/1.1 404") == 1
    assert api.tally.finished == 3


async def test_a_connection_serves_many_requests_and_a_timeout_does_not_end_it(api: RunningApi) -> None:
    for _ in range(3):
        assert (await api.http.get("/api/v1/faults/slow")).status_code == 503
        assert (await api.http.get("/api/v1/students")).status_code == 200


async def test_of_two_credentials_none_is_believed(api: RunningApi) -> None:
    reply = await api.raw(ECHO + b"Authorization: Bearer a\r\nauthorization: Bearer b\r\nContent-Length: 0\r\n\r\n")
    assert reply.status == 400
    assert reply.problem()["detail"] == "There is more than one Authorization header."
