"""The pages of the ops port, as a plain ASGI application: they must answer when nothing else does.

| path | answer |
|---|---|
| `/health/live` | 200: the loop turns. Depends on nothing, for restarting us would repair nothing else |
| `/health/ready` | 200 or 503 with each check and the reason of those that failed (`schema.status.Readiness`) |
| `/status` | 200 with all that there is to tell (`schema.status.Status`) |

Health is for everybody. The rest needs `Authorization: Bearer <ops.token>`; without a token in the settings it is
open on loopback, and closed elsewhere.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from hmac import compare_digest
from http import HTTPStatus
from typing import Final

from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, HTTPScope, Scope
from pydantic import BaseModel

from schema.problems import MEDIA_TYPE, Problem, untyped

Page = Callable[[], Awaitable[tuple[HTTPStatus, BaseModel]]]
"""What a path answers: a status and a body."""

OPEN: Final = "/health/"
"""What is below this is for everybody: probes have no credentials."""


class OpsApp:
    """Serves `pages` by path, to GET and HEAD.

    Params:
        token: what whoever asks for more than health has to know.
        local: whether only this machine can ask. Then there need not be a token.
    """

    def __init__(self, pages: Mapping[str, Page], *, token: str, local: bool) -> None:
        self._pages = pages
        self._token = token
        self._open = local and not token

    async def __call__(self, scope: Scope, _receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """ASGI's entry point."""
        if scope["type"] != "http":
            return
        status, body = await self._answer(scope)
        problem = isinstance(body, Problem)
        content = body.model_dump_json(exclude_none=problem).encode()
        headers = [
            (b"content-type", MEDIA_TYPE.encode() if problem else b"application/json"),
            (b"content-length", str(len(content)).encode()),
            (b"cache-control", b"no-store"),
            (b"allow", b"GET, HEAD"),
            *([(b"www-authenticate", b'Bearer realm="rolecall ops"')] if status == HTTPStatus.UNAUTHORIZED else []),
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        sent = b"" if scope["method"] == "HEAD" else content
        await send({"type": "http.response.body", "body": sent, "more_body": False})

    async def _answer(self, scope: HTTPScope) -> tuple[HTTPStatus, BaseModel]:
        method, path = scope["method"], scope["path"]
        if path not in self._pages:
            return HTTPStatus.NOT_FOUND, untyped(404, f"there is no {path}; there are {', '.join(self._pages)}")
        if method not in ("GET", "HEAD"):
            return HTTPStatus.METHOD_NOT_ALLOWED, untyped(405, f"{path} answers GET and HEAD, not {method}")
        if not (path.startswith(OPEN) or self._open or self._knows_token(scope)):
            remedy = "send `Authorization: Bearer <ops.token>`"
            if not self._token:
                remedy = "set ops.token (APP_OPS__TOKEN), for ops.bind is not loopback"
            return HTTPStatus.UNAUTHORIZED, untyped(401, f"{path} is not for everybody: {remedy}")
        return await self._pages[path]()

    def _knows_token(self, scope: HTTPScope) -> bool:
        authorization = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        scheme, _, token = authorization.partition(b" ")
        return bool(self._token) and scheme.lower() == b"bearer" and compare_digest(token, self._token.encode())
