"""`Idempotency-Key` on POST: sent again, a request is answered as it was the first time, and has no further effect.

The first request claims its key, handles, and writes its answer down in one transaction: what the route does with
`unit_of_work()` becomes a part of it (`db.joining`). So there is an answer if, and only if, there is an effect,
whatever breaks. An answer that was raised (a 422, a 500) had no effect and is not kept: the next request with the key
is handled. After draft-ietf-httpapi-idempotency-key-header; answers are kept for `api.idempotency_retention`.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from hashlib import sha256
from typing import Any, Final, cast

from quart import Response, current_app
from werkzeug.datastructures import Headers
from werkzeug.exceptions import BadRequest

from db import idempotency_keys
from db.joining import joining
from db.pool import transaction
from db.pooled_connection import PooledConnection
from roles.api.replies import Refusal
from roles.api.request import Request
from schema.problems import IN_PROGRESS, KEY_REUSED

HEADER: Final = "Idempotency-Key"
FIELD: Final = b"idempotency-key"
"""The same, as it comes."""
REPLAYED: Final = "Idempotency-Replayed"
"""Of an answer that was given before."""

RETRY_AFTER: Final = "1"
"""Seconds after which the answer to a request that is being handled may be there."""

KEY: Final = re.compile('"([ !#-~]{1,255})"|([!#-~]{1,255})')
"""The header: a text as it is, or in quotes and then with spaces. Either is the same key."""


async def once(request: Request, handle: Callable[[], Awaitable[Any]]) -> Response:
    """What `handle` answers to the first request with this key; to each further one, the same again.

    Raises:
        BadRequest: what the header says is no key.
        Refusal: the key belongs to another request (422), or to one that is being handled just now (409).
    """
    caller, key = request.caller.name, _key(request)
    digest = await _digest(request)
    first = False

    async def begin(conn: PooledConnection) -> None:
        nonlocal first
        first = await idempotency_keys.begin(conn, caller, key, digest=digest)

    async with transaction(begin) as work:
        if first:
            with joining(work):
                response = cast("Response", await current_app.make_response(await handle()))
            body = await response.get_data(as_text=False)
            await idempotency_keys.settle(
                work.connection, caller, key, status=response.status_code, headers=list(response.headers), body=body
            )
            return response
        answer = await idempotency_keys.get(work.connection, caller, key)
    if answer is None:
        raise Refusal(IN_PROGRESS(f"A request with this {HEADER} is being handled."), {"Retry-After": RETRY_AFTER})
    if answer.digest != digest:
        raise Refusal(KEY_REUSED(f"Another request was sent with this {HEADER}."))
    response = Response(answer.body, status=answer.status)
    response.headers = Headers([*answer.headers, (REPLAYED, "true")])
    return response


def _key(request: Request) -> str:
    values = request.headers.getlist(HEADER)
    found = KEY.fullmatch(values[0]) if len(values) == 1 else None
    if found is None:
        raise BadRequest(f"{HEADER} is not one text of 1 to 255 printable ASCII characters.")
    return found[1] or found[2]


async def _digest(request: Request) -> bytes:
    """Of all that makes the request what it is; what it is answered to is told from others by it."""
    parts = (request.method, request.full_path, request.mimetype)
    return sha256(b"\x00".join((*(part.encode(errors="replace") for part in parts), await request.body))).digest()
