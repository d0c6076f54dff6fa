"""HTTP/1.1 as Hypercorn and h11 speak it, less what they let pass, and with refusals that say why.

A request that one server reads in one way and the next in another is how requests are smuggled past a proxy
(RFC 9112 §11.2). So what leaves a choice is refused, and ends the connection: a length beside a transfer coding, a
transfer coding in HTTP/1.0, a header that goes on in the next line, a version that is neither. And the connection
stays HTTP/1.1: an upgrade to HTTP/2 without TLS (`h2c`) would take all that follows past a proxy that had looked at
the first request alone.
"""

from __future__ import annotations

import re
from contextlib import suppress
from http import HTTPStatus
from typing import Any

import h11
import structlog
from hypercorn.events import Closed, RawData
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.typing import H11SendableEvent

from roles.web.gate import new_request_id
from roles.web.headers import complete, problem_reply
from schema.problems import HEADERS_TOO_LARGE, MALFORMED, SLOW_REQUEST, TARGET_TOO_LONG, Problem, untyped

VERSIONS = (b"1.1", b"1.0")

_FOLDED = re.compile(rb"\n[ \t]")

_PROBLEMS = {
    HTTPStatus.BAD_REQUEST: MALFORMED("This is not a request as RFC 9112 (HTTP/1.1) has it."),
    HTTPStatus.REQUEST_TIMEOUT: SLOW_REQUEST("The headers of the request did not arrive in time."),
    HTTPStatus.REQUEST_URI_TOO_LONG: TARGET_TOO_LONG("The target of the request is too long."),
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: HEADERS_TOO_LARGE("The headers of the request are too large."),
    HTTPStatus.NOT_IMPLEMENTED: untyped(501, "The only transfer coding is `chunked`."),
    HTTPStatus.HTTP_VERSION_NOT_SUPPORTED: untyped(505, "The version is neither HTTP/1.1 nor HTTP/1.0."),
}

log = structlog.get_logger(__name__)


class StrictConnection(h11.Connection):
    """What a server has received and sends, as h11 has it, but for requests that could be read otherwise."""

    def next_event(self) -> h11.Event | type[h11.NEED_DATA | h11.PAUSED]:
        """What comes next; see h11's.

        Raises:
            RemoteProtocolError: it is no request, or not clearly one.
        """
        if self.their_state is h11.MUST_CLOSE and self.trailing_data[0]:
            return h11.PAUSED  # behind their last request; h11 would refuse that one, which nothing is wrong with
        before = self.trailing_data[0] if self.their_state is h11.IDLE else b""
        event = super().next_event()
        if isinstance(event, h11.Request):
            head = before[: len(before) - len(self.trailing_data[0])]
            _ensure_unambiguous(event, head)
        return event


def _ensure_unambiguous(request: h11.Request, head: bytes) -> None:
    if request.http_version not in VERSIONS:
        raise h11.RemoteProtocolError("unknown version", error_status_hint=HTTPStatus.HTTP_VERSION_NOT_SUPPORTED)
    names = {name for name, _ in request.headers}
    if b"transfer-encoding" in names and (b"content-length" in names or request.http_version == b"1.0"):
        raise h11.RemoteProtocolError("the length of the body is said in two ways")
    if _FOLDED.search(head):
        raise h11.RemoteProtocolError("a header goes on in the next line")


class Http1(H11Protocol):
    """The protocol of one connection."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.connection = StrictConnection(h11.SERVER, max_incomplete_event_size=self.config.h11_max_incomplete_size)
        self.refused = False
        """Whether the client was told that what it sent is no request. It may still be sending."""
        self._head = b""
        """Of a reply that has begun: it is sent with the first of what follows."""

    async def refuse(self, status: HTTPStatus) -> None:
        """Answers with the problem of this status, unless a reply has begun, and ends the connection."""
        if self.connection.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            await self._send_error_response(status)
        await self.send(Closed())

    async def _check_protocol(self, _request: h11.Request) -> None:
        """Hypercorn's looks for upgrades to HTTP/2."""

    async def _create_stream(self, request: h11.Request) -> None:
        """Begins no websocket: there are none, and one whose handshake is none would keep its connection for ever."""
        if any(name == b"upgrade" for name, _ in request.headers):
            request = h11.Request(
                method=request.method,
                headers=[header for header in request.headers if header[0] != b"upgrade"],
                target=request.target,
                http_version=request.http_version,
            )
        await super()._create_stream(request)

    async def _send_h11_event(self, event: H11SendableEvent) -> None:
        """Sends the head of a reply and its body at once: that is one write, and mostly one packet, for both."""
        try:
            data = self.connection.send(event)
        except h11.LocalProtocolError:
            if self.connection.their_state is not h11.ERROR:
                raise
            return
        if isinstance(event, h11.Response):
            self._head = data
        elif data := self._head + data:
            self._head = b""
            await self.send(RawData(data=data))

    async def _send_error_response(self, status_code: int) -> None:
        problem = self._problem(HTTPStatus(status_code))
        request_id = new_request_id()
        headers, body = problem_reply(problem, request_id)
        complete(headers, request_id, secure=self.ssl)
        headers += [*self.config.response_headers("h11"), (b"connection", b"close")]
        events: tuple[H11SendableEvent, ...] = (
            h11.Response(status_code=problem.status, headers=headers),
            h11.Data(data=body),
            h11.EndOfMessage(),
        )
        reply = b""
        with suppress(h11.LocalProtocolError):  # a reply to HEAD has no body
            for event in events:
                reply += self.connection.send(event)
        self.refused = True
        log.info(
            "request refused", request_id=request_id, status=problem.status, client=self.client and self.client[0]
        )
        await self.send(RawData(data=reply))

    def _problem(self, status: HTTPStatus) -> Problem:
        too_large = status == HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
        if too_large and self.stream is None and b"\n" not in self.connection.trailing_data[0]:
            status = HTTPStatus.REQUEST_URI_TOO_LONG  # not even the first line came to an end
        return _PROBLEMS[status]
