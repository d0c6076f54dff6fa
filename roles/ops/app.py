"""The pages of the ops port, as a plain ASGI application: they must answer when nothing else does.

| path | answer |
|---|---|
| `/health/live` | 200: the loop turns. Depends on nothing, for restarting us would repair nothing else |
| `/health/ready` | 200 or 503 with each check and the reason of those that failed (`schema.status.Readiness`) |
| `/status` | 200 with all that there is to tell (`schema.status.Status`) |
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus

from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, Scope
from pydantic import BaseModel

from schema.problems import MEDIA_TYPE, Problem, untyped

Page = Callable[[], Awaitable[tuple[HTTPStatus, BaseModel]]]
"""What a path answers: a status and a body."""


class OpsApp:
    """Serves `pages` by path, to GET and HEAD."""

    def __init__(self, pages: Mapping[str, Page]) -> None:
        self._pages = pages

    async def __call__(self, scope: Scope, _receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """ASGI's entry point."""
        if scope["type"] != "http":
            return
        status, body = await self._answer(scope["method"], scope["path"])
        problem = isinstance(body, Problem)
        content = body.model_dump_json(exclude_none=problem).encode()
        headers = [
            (b"content-type", MEDIA_TYPE.encode() if problem else b"application/json"),
            (b"content-length", str(len(content)).encode()),
            (b"cache-control", b"no-store"),
            (b"allow", b"GET, HEAD"),
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        sent = b"" if scope["method"] == "HEAD" else content
        await send({"type": "http.response.body", "body": sent, "more_body": False})

    async def _answer(self, method: str, path: str) -> tuple[HTTPStatus, BaseModel]:
        if path not in self._pages:
            return HTTPStatus.NOT_FOUND, untyped(404, f"there is no {path}; there are {', '.join(self._pages)}")
        if method not in ("GET", "HEAD"):
            return HTTPStatus.METHOD_NOT_ALLOWED, untyped(405, f"{path} answers GET and HEAD, not {method}")
        return await self._pages[path]()
