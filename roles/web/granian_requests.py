"""The gate as Granian calls it: with what its hyper lets pass looked at first, and with few questions to its thread.

A question is a journey to that thread and back, and what it answers is not always so: a body that is none it takes
for a client that has gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, cast

import structlog
from hypercorn.typing import ASGIFramework, ASGIReceiveEvent

from roles.web.gate import STATE_KEY, Gate, new_request_id
from roles.web.headers import complete, problem_reply
from schema.problems import MALFORMED, Problem, untyped

GONE_AFTER: Final = 0.05
"""Seconds after which a request that is still being handled is worth the question whether its client is there."""

EMPTY: Final[ASGIReceiveEvent] = {"type": "http.request", "body": b"", "more_body": False}

GONE: Final[ASGIReceiveEvent] = {"type": "http.disconnect"}

UNNAMED: Final = (b"server", b"")
"""Granian says its name where there is no such header, and there is no other way to keep it from that."""

log = structlog.get_logger(__name__)


def for_granian(gate: Gate) -> ASGIFramework:
    """The gate as Granian calls it."""

    async def app(scope: Any, receive: Callable[[], Any], send: Any) -> None:
        problem, has_body = _look_at(scope)
        incoming = _Incoming(receive, has_body=has_body)
        answered = False

        async def send_unnamed(event: Any) -> None:
            nonlocal answered
            if event["type"] == "http.response.start":
                answered = True
                event["headers"].append(UNNAMED)
            await send(event)

        if problem is None:
            with suppress(asyncio.CancelledError):  # it was cut off, and is answered; nobody awaits its task
                await gate(scope, incoming.next_event, send_unnamed)
            if not (answered or incoming.arrived):  # to Granian, who sends a body that is none has gone
                problem = MALFORMED("The body of the request breaks off, or is none.")
        if problem is not None:
            await _refuse(problem, scope, send_unnamed)

    return app


class _Incoming:
    """What the client has to say. Each question to Granian is a journey to its thread and back, so few are asked.

    That there is no body is known without one, and whether the client has gone is asked once a request takes long.
    """

    __slots__ = ("_receive", "_whole", "arrived")

    def __init__(self, receive: Callable[[], Any], *, has_body: bool) -> None:
        self._receive, self._whole = receive, not has_body
        self.arrived = False
        """Whether the whole body was handed on."""

    async def next_event(self) -> ASGIReceiveEvent:
        if self.arrived:
            return await self._disconnect()
        if self._whole:
            self.arrived = True
            return EMPTY
        try:
            event: Any = await self._receive()
        except asyncio.CancelledError:
            if cast("asyncio.Task[Any]", asyncio.current_task()).cancelling():
                raise
            return GONE  # Granian gives questions up that nobody is left to answer
        self.arrived = self._whole = not event.get("more_body", True)
        return cast("ASGIReceiveEvent", event)

    async def _disconnect(self) -> ASGIReceiveEvent:
        loop = asyncio.get_running_loop()
        gone: asyncio.Future[ASGIReceiveEvent] = loop.create_future()  # what `roles.api.client_watch` waits for
        asked: list[Any] = []

        def ask(_: object = None) -> None:
            if asked and _answer(asked[-1])["type"] == "http.disconnect":
                gone.set_result(GONE)
                return
            asked.append(self._receive())
            asked[-1].add_done_callback(ask)

        timer = loop.call_later(GONE_AFTER, ask)
        try:
            return await gone
        finally:
            timer.cancel()
            if asked:
                asked[-1].remove_done_callback(ask)
                asked[-1].cancel()


def _answer(question: Any) -> Any:
    try:
        return question.result()
    except asyncio.CancelledError:
        return GONE


def _look_at(scope: Any) -> tuple[Problem | None, bool]:
    """What speaks against a request that hyper lets pass, and others could read in another way (RFC 9112 §11.2).

    Returns:
        The problem, if there is one; and whether the request may have a body.
    """
    if scope["http_version"] >= "2":
        return None, True
    hosts, codings, has_length = [], [], False
    for name, value in scope["headers"]:
        if name == b"host":
            hosts.append(value)
        elif name == b"content-length":
            has_length = True
        elif name == b"transfer-encoding":
            codings.append(value)
    problem = None
    if codings and codings != [b"chunked"]:
        problem = untyped(501, "The only transfer coding is `chunked`.")
    elif len(hosts) > 1 or (not hosts[0] and scope["http_version"] == "1.1"):  # Granian adds an empty one to none
        problem = MALFORMED("A request has one `Host`.")
    return problem, has_length or bool(codings)


async def _refuse(problem: Problem, scope: Any, send: Any) -> None:
    """Answers for the application, which has no part in it, and ends the connection."""
    request_id = scope["state"].get(STATE_KEY) or new_request_id()
    headers, body = problem_reply(problem, request_id)
    complete(headers, request_id, secure=scope["scheme"] == "https")
    if scope["http_version"] < "2":
        headers.append((b"connection", b"close"))
    log.info(
        "request refused",
        request_id=request_id,
        status=problem.status,
        client=scope["client"][0],
        reason=problem.detail,
    )
    await send({"type": "http.response.start", "status": problem.status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
