"""Problem details (RFC 9457): the one shape of every error that the API answers with.

A problem's `type` is a relative reference with its full path, `/problems/not-found`, as RFC 9457 §3.1.1 allows.
It is the same on every host and needs no domain of ours, and it leads to a page on the API itself that says
what the problem means and what to do. A status that has no type here is `about:blank`, as the RFC has it.
"""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus

from pydantic import BaseModel, ConfigDict, Field

BASE = "/problems"
MEDIA_TYPE = "application/problem+json"


class FieldError(BaseModel):
    """One value that was not accepted."""

    detail: str = Field(description="What is wrong with the value.", examples=["Field required"])
    code: str = Field(description="The same for programs; stable.", examples=["missing"])
    pointer: str | None = Field(None, description="Where in the body: a JSON Pointer.", examples=["#/name"])
    parameter: str | None = Field(None, description="Or which query parameter.", examples=["limit"])


class Problem(BaseModel):
    """What went wrong, as problem details (RFC 9457)."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "/problems/not-found",
                    "title": "Not found",
                    "status": 404,
                    "detail": "There is no student 17.",
                    "instance": "/api/v1/students/17",
                    "request_id": "0b7f6a2e4d5c4f0f9f6c0c7f2b1f7a10",
                }
            ]
        }
    )

    type: str = Field(
        description="The kind of problem, stable; it leads to a page that explains it.",
        json_schema_extra={"format": "uri-reference"},
        examples=["/problems/not-found"],
    )
    title: str = Field(description="The kind of problem in words.", examples=["Not found"])
    status: int = Field(description="The HTTP status of the reply.", ge=400, le=599, examples=[404])
    detail: str | None = Field(None, description="What happened this time.", examples=["There is no student 17."])
    instance: str | None = Field(None, description="The path that was asked for.", examples=["/api/v1/students/17"])
    request_id: str | None = Field(None, description="Names this request in the logs.")
    errors: list[FieldError] | None = Field(None, description="Each value that was not accepted.")
    traceback: list[str] | None = Field(None, description="Where it happened; only with `debug = true`.")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProblemType:
    """A kind of problem. Clients tell problems apart by `type`: a name that was given away never changes."""

    name: str
    status: int
    title: str
    meaning: str
    remedy: str

    @property
    def type(self) -> str:
        return f"{BASE}/{self.name}"

    def __call__(self, detail: str, *, errors: list[FieldError] | None = None) -> Problem:
        """A problem of this kind."""
        return Problem(type=self.type, title=self.title, status=self.status, detail=detail, errors=errors)


MALFORMED = ProblemType(
    name="malformed-request",
    status=400,
    title="Malformed request",
    meaning="The request cannot be read: its body is not JSON, or its target or headers make no sense.",
    remedy="Correct the request; `detail` says where reading it failed.",
)
UNAUTHENTICATED = ProblemType(
    name="unauthenticated",
    status=401,
    title="Unauthenticated",
    meaning="It is not known who sends the request: it has no credentials, or none that are good (any more).",
    remedy="Send `Authorization: Bearer …` with an API key or a token; `detail` says what was wrong with yours.",
)
FORBIDDEN = ProblemType(
    name="forbidden",
    status=403,
    title="Forbidden",
    meaning="The credentials are good, and do not allow this.",
    remedy="Get credentials with the scope that `detail` and the `WWW-Authenticate` header name.",
)
NOT_FOUND = ProblemType(
    name="not-found",
    status=404,
    title="Not found",
    meaning="There is nothing at this path, or the thing that it names does not exist.",
    remedy="Check the path and the id.",
)
METHOD_NOT_ALLOWED = ProblemType(
    name="method-not-allowed",
    status=405,
    title="Method not allowed",
    meaning="The path exists, but not for this method.",
    remedy="Use one of the methods in the `Allow` header.",
)
NOT_ACCEPTABLE = ProblemType(
    name="not-acceptable",
    status=406,
    title="Not acceptable",
    meaning="The `Accept` header leaves out `application/json`, which is all that this API answers with.",
    remedy="Send `Accept: application/json`, or none.",
)
SLOW_REQUEST = ProblemType(
    name="slow-request",
    status=408,
    title="Slow request",
    meaning="The headers or the body of the request did not arrive in time.",
    remedy="Send it again, faster.",
)
CONFLICT = ProblemType(
    name="conflict",
    status=409,
    title="Conflict",
    meaning="The request cannot be fulfilled as things are: what it would make exists already, or has changed.",
    remedy="Get what is there, and decide anew.",
)
IN_PROGRESS = ProblemType(
    name="in-progress",
    status=409,
    title="In progress",
    meaning="A request with the same `Idempotency-Key` is being handled just now.",
    remedy="Send it again after the seconds in the `Retry-After` header: then its answer is there.",
)
PRECONDITION_FAILED = ProblemType(
    name="precondition-failed",
    status=412,
    title="Precondition failed",
    meaning="It is not at the version that `If-Match` names: somebody has changed it meanwhile.",
    remedy="Get it anew, decide whether your change still makes sense, and send it with the new `ETag`.",
)
CONTENT_TOO_LARGE = ProblemType(
    name="content-too-large",
    status=413,
    title="Content too large",
    meaning="The body of the request is larger than this API takes (`api.max_content_length`).",
    remedy="Send less at a time.",
)
TARGET_TOO_LONG = ProblemType(
    name="target-too-long",
    status=414,
    title="Target too long",
    meaning="The path and the query of the request are longer than this API takes (`api.max_target_length`).",
    remedy="Ask for less at a time.",
)
UNSUPPORTED_MEDIA_TYPE = ProblemType(
    name="unsupported-media-type",
    status=415,
    title="Unsupported media type",
    meaning="The body of the request is not declared as JSON.",
    remedy="Send JSON with `Content-Type: application/json`.",
)
INVALID = ProblemType(
    name="invalid-request",
    status=422,
    title="Invalid request",
    meaning="The request can be read, but values in it are not acceptable.",
    remedy="Correct the values that `errors` names.",
)
KEY_REUSED = ProblemType(
    name="idempotency-key-reused",
    status=422,
    title="Idempotency key reused",
    meaning="The `Idempotency-Key` belongs to another request, with another path or another body.",
    remedy="Make up a new key for each request, and use it again only to send that very request again.",
)
TOO_MANY_REQUESTS = ProblemType(
    name="too-many-requests",
    status=429,
    title="Too many requests",
    meaning="The caller has asked for this more often than the API allows (`api.rate_limit`, or the route's own).",
    remedy="Wait for the seconds in the `Retry-After` header. `RateLimit-Remaining` says how many are left.",
)
HEADERS_TOO_LARGE = ProblemType(
    name="headers-too-large",
    status=431,
    title="Headers too large",
    meaning="The headers of the request are larger than this API takes (`api.max_headers_length`).",
    remedy="Send fewer headers, or shorter ones.",
)
INTERNAL = ProblemType(
    name="internal-error",
    status=500,
    title="Internal error",
    meaning="A bug of ours.",
    remedy="Report it with its `request_id`, by which the logs tell what happened.",
)
UPSTREAM_FAILED = ProblemType(
    name="upstream-failed",
    status=502,
    title="Upstream failed",
    meaning="Another service that the answer depends on could not be reached, or gave an answer that makes no sense.",
    remedy="Try again later.",
)
UNAVAILABLE = ProblemType(
    name="unavailable",
    status=503,
    title="Unavailable",
    meaning="The request cannot be served just now: the database is away or busy, or there are too many requests.",
    remedy="Try again after the seconds in the `Retry-After` header.",
)
TIMED_OUT = ProblemType(
    name="timed-out",
    status=503,
    title="Timed out",
    meaning="Serving the request took longer than this API allows (`api.request_timeout`), so it was given up.",
    remedy="Try again after the seconds in the `Retry-After` header, or ask for less.",
)
UPSTREAM_TIMED_OUT = ProblemType(
    name="upstream-timed-out",
    status=504,
    title="Upstream timed out",
    meaning="Another service that the answer depends on did not answer in time.",
    remedy="Try again later.",
)

PROBLEM_TYPES = (
    MALFORMED,
    UNAUTHENTICATED,
    FORBIDDEN,
    NOT_FOUND,
    METHOD_NOT_ALLOWED,
    NOT_ACCEPTABLE,
    SLOW_REQUEST,
    CONFLICT,
    IN_PROGRESS,
    PRECONDITION_FAILED,
    CONTENT_TOO_LARGE,
    TARGET_TOO_LONG,
    UNSUPPORTED_MEDIA_TYPE,
    INVALID,
    KEY_REUSED,
    TOO_MANY_REQUESTS,
    HEADERS_TOO_LARGE,
    INTERNAL,
    UPSTREAM_FAILED,
    UNAVAILABLE,
    TIMED_OUT,
    UPSTREAM_TIMED_OUT,
)
"""All that have a page."""


def untyped(status: int, detail: str | None) -> Problem:
    """A problem that says no more than its HTTP status (RFC 9457 §4.2.1)."""
    return Problem(type="about:blank", title=HTTPStatus(status).phrase, status=status, detail=detail)
