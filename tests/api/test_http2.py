"""HTTP/2, frame by frame: what is no request ends its stream, and neither the connection nor in an error of ours."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import h2.config
import h2.connection
import h2.events
import pytest
from structlog.testing import capture_logs

from tests.api.support import RunningApi, StartApi
from tests.clients.stub import PEM

pytestmark = pytest.mark.anyio

GET = [(b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"x"), (b":path", b"/api/v1/students")]
TUNNEL = [(b":method", b"CONNECT"), (b":authority", b"x:443")]
WEBSOCKET = [(b":method", b"CONNECT"), (b":protocol", b"websocket"), *GET[1:]]
NOT_ASCII = [*GET[:3], (b":path", b"/\xff")]


@pytest.fixture
async def api(start_api: StartApi) -> AsyncIterator[RunningApi]:
    async with start_api(api={"tls_certificate": str(PEM), "tls_key": str(PEM), "max_content_length": 1000}) as api:
        yield api


class Client:
    """One connection."""

    def __init__(self, stream: anyio.abc.ByteStream) -> None:
        self._stream = stream
        config = h2.config.H2Configuration(validate_outbound_headers=False, header_encoding=None)
        self.http2 = h2.connection.H2Connection(config)
        self.http2.initiate_connection()

    async def send(self) -> None:
        await self._stream.send(self.http2.data_to_send())

    async def outcome(self, stream: int) -> str:
        """The status that this stream is answered with, or `reset`."""
        with anyio.fail_after(60):
            while True:
                for event in self.http2.receive_data(await self._stream.receive()):
                    if isinstance(event, h2.events.StreamReset) and event.stream_id == stream:
                        return "reset"
                    if isinstance(event, h2.events.ResponseReceived) and event.stream_id == stream:
                        return dict(event.headers or ())[b":status"].decode()


@asynccontextmanager
async def connected(api: RunningApi) -> AsyncIterator[Client]:
    context = ssl.create_default_context(cafile=PEM)
    context.check_hostname = False
    context.set_alpn_protocols(["h2"])
    async with await anyio.connect_tcp(
        api.host, api.port, ssl_context=context, tls_standard_compatible=False
    ) as stream:
        yield Client(stream)


@pytest.mark.parametrize("headers", [TUNNEL, WEBSOCKET, NOT_ASCII], ids=["a tunnel", "a websocket", "not ASCII"])
async def test_what_is_no_request_ends_its_stream_alone(headers: list[tuple[bytes, bytes]], api: RunningApi) -> None:
    with capture_logs() as logs:
        async with connected(api) as client:
            client.http2.send_headers(1, headers, end_stream=True)
            await client.send()
            assert await client.outcome(1) == "reset"
            client.http2.send_headers(3, GET, end_stream=True)
            await client.send()
            assert await client.outcome(3) == "200"
    assert not [entry for entry in logs if entry["log_level"] == "error"]


async def test_a_body_that_goes_on_after_the_answer_does_not_end_the_connection(api: RunningApi) -> None:
    with capture_logs() as logs:
        async with connected(api) as client:
            client.http2.send_headers(1, [(b":method", b"POST"), *GET[1:]])
            client.http2.send_data(1, b"a" * 1001)
            await client.send()
            assert await client.outcome(1) == "413"
            with anyio.fail_after(60):
                while api.tally.in_flight:  # noqa: ASYNC110 - until nobody waits for the rest of it
                    await anyio.sleep(0.01)
            client.http2.send_data(1, b"a" * 1000, end_stream=True)
            client.http2.send_headers(3, GET, end_stream=True)
            await client.send()
            assert await client.outcome(3) == "200"
    assert not [entry for entry in logs if entry["log_level"] == "error"]
