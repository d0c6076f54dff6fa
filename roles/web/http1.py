"""HTTP/1.1 as Hypercorn and h11 speak it, less what they let pass, and with refusals that say why.

A request that one server reads in one way and the next in another is how requests are smuggled past a proxy
(RFC 9112 §11.2). So what leaves a choice is refused, and ends the connection: a length beside a transfer coding, a
transfer coding in HTTP/1.0, a version that is neither. And the connection stays HTTP/1.1: an upgrade to HTTP/2
without TLS (`h2c`) would take all that follows past a proxy that had looked at the first request alone.
"""

from __future__ import annotations

from contextlib import suppress
from http import HTTPStatus

import h11
import structlog
from hypercorn.events import Closed, RawData
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.typing import H11SendableEvent

from roles.web.gate import new_request_id
from roles.web.headers import complete, problem_reply
from schema.problems import HEADERS_TOO_LARGE, MALFORMED, SLOW_REQUEST, TARGET_TOO_LONG, Problem, untyped

VERSIONS = (b"1.1", b"1.0")

_PROBLEMS = {
    HTTPStatus.BAD_REQUEST: MALFORMED("This is not a request as RFC 9112 (HTTP/1.1) has it."),
    HTTPStatus.REQUEST_TIMEOUT: SLOW_REQUEST("The headers of the request did not arrive in time."),
    HTTPStatus.REQUEST_URI_TOO_LONG: TARGET_TOO_LONG("The target of the request is too long."),
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: HEADERS_TOO_LARGE("The headers of the request are too large."),
    HTTPStatus.NOT_IMPLEMENTED: untyped(501, "The only transfer coding is `chunked`."),
    HTTPStatus.HTTP_VERSION_NOT_SUPPORTED: untyped(505, "The version is neither HTTP/1.1 nor HTTP/1.0."),
}

log = structlog.get_logger(__name__)


class _Ambiguous(Exception):
    """Others could read this request in another way."""

    def __init__(self, status: HTTPStatus) -> None:
        super().__init__(status)
        self.status = status


class Http1(H11Protocol):
    """The protocol of one connection."""

    refused = False
    """Whether the client was told that what it sent is no request. It may still be sending."""

    async def refuse(self, status: HTTPStatus) -> None:
        """Answers with the problem of this status, unless a reply has begun, and ends the connection."""
        if self.connection.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            await self._send_error_response(status)
        await self.send(Closed())

    async def _handle_events(self) -> None:
        try:
            await super()._handle_events()
        except _Ambiguous as request:
            await self.refuse(request.status)

    async def _check_protocol(self, event: h11.Request) -> None:
        """Takes the place of Hypercorn's, which looks for upgrades to HTTP/2."""
        if event.http_version not in VERSIONS:
            raise _Ambiguous(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED)
        names = {name for name, _ in event.headers}
        if b"transfer-encoding" in names and (b"content-length" in names or event.http_version == b"1.0"):
            raise _Ambiguous(HTTPStatus.BAD_REQUEST)

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
        if status == HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE and b"\n" not in self.connection.trailing_data[0]:
            status = HTTPStatus.REQUEST_URI_TOO_LONG  # not even the first line came to an end
        return _PROBLEMS[status]
