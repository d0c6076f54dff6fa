"""The gate: what every request goes through, whatever the application behind it.

It gives the request an id (the caller's own in `X-Request-Id`, if it looks like one), binds it to the logs of the
request and returns it; it counts the request, logs it once it is over, answers for an application that raised or was
cut off, puts the headers in that keep browsers from doing what nobody meant, and ends connections while the server
drains.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Iterable
from time import perf_counter

import anyio
import structlog
from hypercorn.typing import ASGIFramework, ASGIReceiveCallable, ASGISendCallable, ASGISendEvent, HTTPScope, Scope

from roles.tally import Tally
from roles.web.headers import REQUEST_ID, complete, problem_reply
from schema.problems import INTERNAL, UNAVAILABLE, Problem

STATE_KEY = "request_id"
"""Where the application finds the id: `scope["state"]["request_id"]`."""

LAST_WORDS = 1.0
"""Seconds that a client has to take the answer that its request was cut off."""

_VALID_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")

log = structlog.get_logger(__name__)


class Gate:
    """An ASGI application around an ASGI application.

    Params:
        tally: a request is taken when it is accepted. It is finished when its reply was handed over completely,
            and failed if that never happened (the client went away) or the reply was a 500.
        log_requests: whether each request is logged.
    """

    def __init__(self, app: ASGIFramework, *, tally: Tally, log_requests: bool = True) -> None:
        self._app, self._tally, self._log_requests = app, tally, log_requests
        self.draining = anyio.Event()
        """Once set, every reply tells the client that the connection ends with it."""
        self._in_flight: dict[asyncio.Task[None], tuple[str, int] | None] = {}
        self._cut_off = False
        self._log = log.bind()  # once: structlog's lazy logger is set up anew at each use

    async def __call__(self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        assert scope["type"] == "http", "neither server begins a websocket or a lifespan"
        await self._http(scope, receive, send)

    def cut_off(self) -> None:
        """Cancels all requests in flight; each is answered with 503, if it has not been answered yet."""
        self._cut_off = True
        for task in self._in_flight:
            task.cancel()

    def clients(self) -> set[tuple[str, int] | None]:
        """The addresses, as the server gives them, of those whose requests are in flight."""
        return set(self._in_flight.values())

    async def _http(self, scope: HTTPScope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        began = perf_counter()
        request_id = _request_id(scope["headers"])
        structlog.contextvars.bind_contextvars(request_id=request_id)
        scope["state"][STATE_KEY] = request_id
        status = 0
        complete = False

        async def forward(event: ASGISendEvent) -> None:
            nonlocal status, complete
            if event["type"] == "http.response.start":
                status = event["status"]
                event["headers"] = self._headers(list(event["headers"]), request_id, scope)
                await send(event)
            else:
                await send(event)
                complete = event["type"] == "http.response.body" and not event.get("more_body", False)

        task = asyncio.current_task()
        assert task is not None
        self._in_flight[task] = scope["client"]
        self._tally.taken += 1
        whole = False
        try:
            await self._app(scope, receive, forward)
            whole = complete and status != INTERNAL.status
        except (Exception, asyncio.CancelledError) as error:
            problem = self._explain(error, scope)
            if not status:
                with anyio.move_on_after(LAST_WORDS, shield=True):
                    await _send_problem(problem, request_id, forward)
            if isinstance(error, asyncio.CancelledError):
                raise
        finally:
            self._in_flight.pop(task, None)
            if whole:
                self._tally.finished += 1
            else:
                self._tally.failed += 1
            if self._log_requests:
                self._log.info(
                    "request",
                    method=scope["method"],
                    path=_printable(scope),
                    status=status or None,
                    duration_ms=round((perf_counter() - began) * 1000, 2),
                    complete=complete,
                )

    def _headers(
        self, headers: list[tuple[bytes, bytes]], request_id: str, scope: HTTPScope
    ) -> list[tuple[bytes, bytes]]:
        """The reply's headers with ours."""
        complete(headers, request_id, secure=scope["scheme"] == "https")
        if self.draining.is_set() and scope["http_version"] < "2":  # HTTP/2 ends connections in its own way
            headers.append((b"connection", b"close"))
        return headers

    def _explain(self, error: BaseException, scope: HTTPScope) -> Problem:
        if self._cut_off and isinstance(error, asyncio.CancelledError):
            return UNAVAILABLE("The server is shutting down.")
        self._log.error("request failed", method=scope["method"], path=_printable(scope), exc_info=error)
        return INTERNAL("Something went wrong on our side.")


def _request_id(headers: Iterable[tuple[bytes, bytes]]) -> str:
    for name, value in headers:
        if name == REQUEST_ID and _VALID_ID.fullmatch(value):
            return value.decode("ascii")
    return new_request_id()


def new_request_id() -> str:
    """A request id, for a request that came with none."""
    return f"{random.getrandbits(128):032x}"


def _printable(scope: HTTPScope) -> str:
    """The path as it was sent, percent-encoded: nobody writes control characters to our terminals."""
    return scope["raw_path"].decode("ascii", "backslashreplace")


async def _send_problem(problem: Problem, request_id: str, send: ASGISendCallable) -> None:
    headers, body = problem_reply(problem, request_id)
    await send({"type": "http.response.start", "status": problem.status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
