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
    kind = response.headers.get("content-type")
    assert kind == [MEDIA_TYPE], f"Content-Type: {kind}"
    problem = response.json()
    assert STATUSES.get(problem["type"]) == response.status_code == problem["status"], "type and status do not agree"
    assert problem["title"], "no title"
    assert problem["detail"], "no detail"
    assert "traceback" not in problem, "a traceback"
    assert [problem["request_id"]] == response.headers["x-request-id"], "request_id is not X-Request-Id"


@schemathesis.check
def refusals_of_valid_data(_ctx: CheckContext, response: Response, case: Case[Any]) -> None:
    """What the document allows is refused only for what it cannot know: a version, a cursor, an earlier request."""
    if case.meta is None or case.meta.generation.mode is not GenerationMode.POSITIVE:
        return
    if response.status_code == 412:
        assert "If-Match" in (case.headers or {}), "there is no If-Match that could have failed"
    if response.status_code == 422:
        problem = response.json()
        found = {error["code"] for error in problem.get("errors", [])}
        known = found == {"cursor"} or problem["type"] == "/problems/idempotency-key-reused"
        assert known, f"the document allows this: {problem}"


@schemathesis.check
def headers_are_complete(_ctx: CheckContext, response: Response, _case: Case[Any]) -> None:
    """Each reply has what every reply has, and says what its sender has to know of an error."""
    headers, status = response.headers, response.status_code
    assert headers.keys() >= ALWAYS, f"missing: {sorted(ALWAYS - headers.keys())}"
    assert not any(headers.get("server", [])), "a server that gives its name"  # one without a value says nothing
    assert ("www-authenticate" in headers) == (status in (401, 403)), f"WWW-Authenticate and {status} do not agree"
    assert status != 405 or headers.get("allow"), "405 without Allow"
