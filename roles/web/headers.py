"""What every reply says beside what the application has to say, whoever answers."""

from __future__ import annotations

from schema.problems import MEDIA_TYPE, UNAVAILABLE, Problem

Headers = list[tuple[bytes, bytes]]

REQUEST_ID = b"x-request-id"

DEFENSIVE = (
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)
"""What every reply says, unless the application has its own (https://owasp.org/www-project-secure-headers)."""
UNKEPT, ASKED_AGAIN = (b"cache-control", b"no-store"), (b"cache-control", b"private, no-cache")
"""Nobody keeps a reply; one with an `ETag` is kept by its caller, who asks each time whether it still holds."""
STRICT_TRANSPORT = (b"strict-transport-security", b"max-age=31536000")
"""And over TLS: a browser is not to try it without for a year (RFC 6797)."""


def complete(headers: Headers, request_id: str, *, secure: bool) -> Headers:
    """The headers with ours, which are added to the list itself.

    Params:
        secure: whether the client speaks TLS.
    """
    named = {name for name, _ in headers}
    headers += [header for header in DEFENSIVE if header[0] not in named]
    if UNKEPT[0] not in named:
        headers.append(ASKED_AGAIN if b"etag" in named else UNKEPT)
    headers.append((REQUEST_ID, request_id.encode()))
    if secure:
        headers.append(STRICT_TRANSPORT)
    return headers


def problem_reply(problem: Problem, request_id: str) -> tuple[Headers, bytes]:
    """A problem that the application has no part in: its own headers, and the body."""
    body = problem.model_copy(update={"request_id": request_id}).model_dump_json(exclude_none=True).encode()
    headers = [(b"content-type", MEDIA_TYPE.encode()), (b"content-length", str(len(body)).encode())]
    if problem.status == UNAVAILABLE.status:
        headers.append((b"retry-after", b"1"))
    return headers, body
