"""The HTTP client that all services are called with: one pool of connections, verified TLS, and hooks."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import structlog

USER_AGENT = "rolecall"

log = structlog.get_logger(__name__)


@asynccontextmanager
async def open_http_client(*, trust: ssl.SSLContext | None = None) -> AsyncIterator[httpx.AsyncClient]:
    """The client, until the block ends. It verifies certificates and does not follow redirects.

    Params:
        trust: whom to trust, if not the usual authorities: for a service with a private one.
    """
    async with httpx.AsyncClient(
        verify=True if trust is None else trust,
        headers={"User-Agent": USER_AGENT},
        event_hooks={"request": [add_request_id], "response": [log_answer]},
    ) as client:
        yield client


async def add_request_id(request: httpx.Request) -> None:
    """A hook: tells the service which request of ours its call belongs to, so that its logs and ours meet."""
    request_id = structlog.contextvars.get_contextvars().get("request_id")
    if request_id is not None:
        request.headers["X-Request-Id"] = request_id


async def log_answer(response: httpx.Response) -> None:
    """A hook: logs the answer of each attempt."""
    request = response.request
    log.debug("upstream answered", method=request.method, url=printable(request.url), status=response.status_code)


def printable(url: httpx.URL) -> str:
    """The URL for logs and errors: a user and a password in it are nobody's business."""
    return str(url.copy_with(userinfo=b"") if url.userinfo else url)
