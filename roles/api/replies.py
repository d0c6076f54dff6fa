"""What a route returns: `reply(model)`, `reply(model, 201)`, `reply(status=204)`, `reply(not_found(…))`.

Where there is no way to return a problem, it is raised: `raise Refusal(problem)`.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from pydantic import BaseModel
from quart import Response, request
from werkzeug.datastructures import Headers

from roles.api.conditions import entity_tag, is_known
from roles.api.request import Request
from roles.web.gate import STATE_KEY
from schema.problems import MEDIA_TYPE, NOT_FOUND, Problem


class Refusal(Exception):
    """The answer is this problem, with these headers."""

    def __init__(self, problem: Problem, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(problem.detail)
        self.problem, self.headers = problem, Headers(headers)


class NoContent(BaseModel):
    """Done; there is nothing to say about it."""


def reply(model: BaseModel | None = None, status: int = 200, *, location: str | None = None) -> Response:
    """The model as JSON, with `status` and an ETag; a problem has its own status. The model is not validated again.

    A client that asks for what it has already, by `If-None-Match`, is answered with 304.

    Params:
        location: the URL of what was created, for a 201.
    """
    if isinstance(model, Problem):
        return problem_reply(model, request.path, request.scope["state"].get(STATE_KEY))
    if model is None:
        response = Response(b"", status=status)
        del response.headers["Content-Type"]
        return response
    body = model.__pydantic_serializer__.to_json(model, by_alias=True)  # as the document has it
    current: Request = request._get_current_object()  # type: ignore[attr-defined]  # noqa: SLF001 - the proxy is looked up once
    tag = entity_tag(model, body, current.method)
    if tag is not None and status == HTTPStatus.OK and is_known(current, tag):
        response = reply(status=HTTPStatus.NOT_MODIFIED)
    else:
        response = Response(body, status=status, content_type="application/json")
    if tag is not None:
        response.headers["ETag"] = tag
    if location is not None:
        response.headers["Location"] = location
    return response


def not_found(kind: str, name: object) -> Problem:
    """The problem that there is no `kind` with this name or id."""
    return NOT_FOUND(f"There is no {kind} {name}.")


def problem_reply(problem: Problem, path: str, request_id: str | None, headers: Headers | None = None) -> Response:
    """The problem as `application/problem+json`, completed with where it occurred."""
    complete = problem.model_copy(update={"instance": path[:500], "request_id": request_id})
    body = complete.model_dump_json(exclude_none=True).encode()
    return Response(body, status=problem.status, headers=headers, content_type=MEDIA_TYPE)
