"""What schemathesis cannot read in the document and this API promises all the same: checks of each reply.

`schemathesis.toml` loads them into the process of `st`; there they are run after its own.
"""

from __future__ import annotations

from typing import Any

import schemathesis
from schemathesis import Case, CheckContext, GenerationMode, Response

from schema.problems import MEDIA_TYPE, PROBLEM_TYPES

STATUSES = {kind.type: kind.status for kind in PROBLEM_TYPES}
ALWAYS = {"x-request-id", "x-content-type-options", "content-security-policy", "referrer-policy", "cache-control"}


@schemathesis.check
def errors_are_problems(_ctx: CheckContext, response: Response, _case: Case[Any]) -> None:
    """Each error is a problem detail whose type has a page of its own, and names its request."""
    if response.status_code < 400:
        return
    assert response.headers["content-type"] == [MEDIA_TYPE]
    problem = response.json()
    assert STATUSES.get(problem["type"]) == response.status_code == problem["status"]
    assert problem["title"]
    assert problem["detail"]
    assert "traceback" not in problem
    assert [problem["request_id"]] == response.headers["x-request-id"]


@schemathesis.check
def refusals_of_valid_data(_ctx: CheckContext, response: Response, case: Case[Any]) -> None:
    """What the document allows is refused only for what it cannot know: a version, a cursor, an earlier request."""
    if case.meta is None or case.meta.generation.mode is not GenerationMode.POSITIVE:
        return
    if response.status_code == 412:
        assert "If-Match" in (case.headers or {})
    if response.status_code == 422:
        problem = response.json()
        found = {error["code"] for error in problem.get("errors", [])}
        assert found == {"cursor"} or problem["type"] == "/problems/idempotency-key-reused"


@schemathesis.check
def headers_are_complete(_ctx: CheckContext, response: Response, _case: Case[Any]) -> None:
    """Each reply has what every reply has, and says what its sender has to know of an error."""
    headers = response.headers
    assert headers.keys() >= ALWAYS
    assert not any(headers.get("server", []))  # one without a value says nothing
    assert ("www-authenticate" in headers) == (response.status_code in (401, 403))
    if response.status_code == 405:
        assert headers["allow"]
