"""From an exception to the problem that the client is told of.

| raised | answered |
|---|---|
| `Unauthenticated`, `ScopesMissing` | 401, 403, with what is missing in `WWW-Authenticate` (RFC 6750) |
| `Refusal` | the problem that it has |
| a value that quart-schema did not accept | 422, with each value |
| Werkzeug's HTTP errors, `abort(409)` included | their own status |
| `TooBusy` | 503, to be tried again |
| `RequestTimedOut` | 503, to be tried again |
| `DependencyUnavailable`, and what PostgreSQL says may be tried again | 503, to be tried again |
| `UpstreamTimeout`, other `UpstreamError` | 504, 502 |
| anything else | 500, and its traceback in the logs: a bug |
"""

from __future__ import annotations

import traceback

import psycopg
import structlog
from pydantic import ValidationError
from pydantic_core import ErrorDetails
from quart_schema.validation import QuerystringValidationError, RequestSchemaValidationError
from werkzeug.datastructures import Headers
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from clients.errors import UpstreamError, UpstreamTimeout
from db.versions import Outdated
from roles.api.callers import ScopesMissing, Unauthenticated
from roles.api.replies import Refusal
from schema import problems
from schema.errors import DependencyUnavailable, text_of
from schema.problems import FieldError, Problem, ProblemType

RETRY_AFTER = 1
"""Seconds after which a client may try again what could not be served: a pool has often recovered by then."""

CHALLENGE = 'Bearer realm="rolecall"'
"""Of `WWW-Authenticate`."""

MAX_FIELD_ERRORS = 20
"""A body can have more mistakes than are worth an answer."""

_TRY_AGAIN = ("40001", "40P01", "55P03", "57014")
"""Serialization failure, deadlock, lock not available, statement timeout: PostgreSQL was too busy with others."""

_BY_STATUS = {
    kind.status: kind
    for kind in (
        problems.MALFORMED,
        problems.NOT_FOUND,
        problems.METHOD_NOT_ALLOWED,
        problems.NOT_ACCEPTABLE,
        problems.SLOW_REQUEST,
        problems.CONFLICT,
        problems.PRECONDITION_FAILED,
        problems.CONTENT_TOO_LARGE,
        problems.TARGET_TOO_LONG,
        problems.UNSUPPORTED_MEDIA_TYPE,
        problems.TOO_MANY_REQUESTS,
        problems.HEADERS_TOO_LARGE,
    )
}

log = structlog.get_logger(__name__)


class TooBusy(Exception):
    """As many requests are being handled, or as much of bodies is here, as may be at a time."""


class RequestTimedOut(Exception):
    """Serving a request took longer than `api.request_timeout`."""


_FAILURES: tuple[tuple[type[Exception], ProblemType, str], ...] = (
    (TooBusy, problems.UNAVAILABLE, "There are too many requests."),
    (RequestTimedOut, problems.TIMED_OUT, "Serving the request took too long."),
    (
        Outdated,
        problems.PRECONDITION_FAILED,
        "It was changed: it is at none of the versions that `If-Match` names.",
    ),
    (DependencyUnavailable, problems.UNAVAILABLE, "Something that this needs is away or busy."),
    (UpstreamTimeout, problems.UPSTREAM_TIMED_OUT, "Another service did not answer in time."),
    (UpstreamError, problems.UPSTREAM_FAILED, "Another service failed."),
)
"""The first that fits counts. What the error itself says is for the logs: it names hosts and addresses."""


def problem_for(error: BaseException, *, debug: bool) -> tuple[Problem, Headers]:
    """The problem, and headers that belong to it. Logs what is not the client's doing.

    Params:
        debug: whether the problem of a bug shows the traceback.
    """
    headers = Headers()
    match error:
        case Refusal():
            problem, headers = error.problem, error.headers
        case RequestSchemaValidationError():
            problem = _invalid(error)
        case Unauthenticated() | ScopesMissing():
            problem, headers["WWW-Authenticate"] = _refusal(error)
        case HTTPException(code=int(status)):
            problem, headers = _http(error, status)
        case _:
            problem = _failure(error) or _bug(error, debug=debug)
    if problem.status == problems.INTERNAL.status:
        log.error("request failed", exc_info=error)
    elif problem.status > problems.INTERNAL.status:
        log.warning("request not served", problem=problem.type, reason=text_of(error))
    if problem.status == problems.UNAVAILABLE.status:
        headers.setdefault("Retry-After", str(RETRY_AFTER))
    return problem, headers


def _failure(error: BaseException) -> Problem | None:
    if isinstance(error, BaseExceptionGroup):  # one of several tasks of a route may be the one that noticed
        return next(filter(None, map(_failure, error.exceptions)), None)
    if isinstance(error, psycopg.Error) and error.sqlstate in _TRY_AGAIN:
        return problems.UNAVAILABLE("The database took too long.")
    for failure, kind, detail in _FAILURES:
        if isinstance(error, failure):
            return kind(detail)
    return None


def _bug(error: BaseException, *, debug: bool) -> Problem:
    problem = problems.INTERNAL("Something went wrong on our side.")
    if debug:
        problem.detail = text_of(error, repr)
        problem.traceback = "".join(traceback.format_exception(error)).splitlines()
    return problem


def _refusal(error: Unauthenticated | ScopesMissing) -> tuple[Problem, str]:
    """With the challenge of RFC 6750 §3. A request without credentials is told of no error there."""
    log.info("caller refused", reason=str(error))
    if isinstance(error, ScopesMissing):
        scopes = " ".join(error.scopes)
        problem = problems.FORBIDDEN(f"This needs the scope {scopes}, which the credentials do not have.")
        return problem, f'{CHALLENGE}, error="insufficient_scope", scope="{scopes}"'
    if error.reason is None:
        return problems.UNAUTHENTICATED("This needs credentials: `Authorization: Bearer …`."), CHALLENGE
    return problems.UNAUTHENTICATED(error.reason), f'{CHALLENGE}, error="invalid_token"'


def _http(error: HTTPException, status: int) -> tuple[Problem, Headers]:
    own_words = error.description if error.description != type(error).description else None
    if kind := _BY_STATUS.get(status):
        problem = kind(own_words or kind.meaning)
    else:
        problem = problems.untyped(status, own_words)
    own = dict.fromkeys(pair for pair in error.get_headers() if pair[0] != "Content-Type")  # some say a thing twice
    headers = Headers(list(own))
    if isinstance(error, MethodNotAllowed) and error.valid_methods:
        headers["Allow"] = ", ".join(sorted(error.valid_methods))
    return problem, headers


def _invalid(error: RequestSchemaValidationError) -> Problem:
    cause = error.validation_error
    if not isinstance(cause, ValidationError):
        return problems.INVALID(str(cause))
    in_query = isinstance(error, QuerystringValidationError)
    found = cause.errors(include_context=False, include_input=False, include_url=False)
    shown = [_field_error(item, in_query=in_query) for item in found[:MAX_FIELD_ERRORS]]
    count = f"{len(found)} values are" if len(found) > 1 else "A value is"
    return problems.INVALID(f"{count} not acceptable.", errors=shown)


def _field_error(error: ErrorDetails, *, in_query: bool) -> FieldError:
    names = [str(part)[:100] for part in error["loc"]]
    if in_query:
        return FieldError(detail=error["msg"], code=error["type"], parameter=".".join(names) or None)
    pointer = "#" + "".join("/" + name.replace("~", "~0").replace("/", "~1") for name in names)
    return FieldError(detail=error["msg"], code=error["type"], pointer=pointer)
