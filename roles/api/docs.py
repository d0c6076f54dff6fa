"""Pages for people: the API's documentation (with `debug` or `api.docs`), and what each type of problem means.

The documentation is shown by Swagger UI, ReDoc or Scalar, whichever one likes, from files of our own, and the pages'
policy forbids the browser to ask any other host.
"""

from __future__ import annotations

import re
from html import escape
from pathlib import Path
from typing import Final

from pydantic_core import to_json
from quart import Quart, Response, abort, request, send_from_directory
from quart_schema import QuartSchema, hide

from roles.api.access import public
from schema.problems import BASE, PROBLEM_TYPES, ProblemType

STATIC: Final = Path(__file__).parent / "static"

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Of `Content-Security-Policy`."""


PAGES: Final = {"/docs": "swagger-ui", "/redoc": "redoc", "/scalar": "scalar"}
"""What shows the documentation, by path."""


def openapi_document(app: Quart) -> bytes:
    """The OpenAPI document of the routes that `app` has."""
    extension: QuartSchema = app.extensions["QUART_SCHEMA"]
    return to_json(extension.openapi_provider.schema(), indent=2)


def add_docs(app: Quart) -> None:
    """Adds `/openapi.json`, made once, and the pages that show it."""
    document = openapi_document(app)
    pages = {path: (STATIC / "docs" / f"{name}.html").read_bytes() for path, name in PAGES.items()}

    @app.get("/openapi.json")
    @hide
    @public
    async def openapi() -> Response:
        return Response(document, content_type="application/json")

    @app.get("/docs")
    @app.get("/redoc")
    @app.get("/scalar")
    @hide
    @public
    async def docs() -> Response:
        return _page(pages[request.path])

    @app.get("/docs/<any('docs', 'swagger-ui', 'redoc', 'scalar'):folder>/<name>")
    @hide
    @public
    async def docs_file(folder: str, name: str) -> Response:
        return await send_from_directory(STATIC / folder, name)


def add_problem_pages(app: Quart) -> None:
    """Adds the pages that the `type` of a problem leads to."""
    pages = {kind.name: _problem_page(kind) for kind in PROBLEM_TYPES}
    links = "".join(
        f'<li><a href="{kind.type}">{kind.status} {escape(kind.title)}</a></li>' for kind in PROBLEM_TYPES
    )
    index = _html("Problems", f"<h1>Problems</h1><ul>{links}</ul>")

    @app.get(BASE)
    @hide
    @public
    async def problem_index() -> Response:
        return _page(index)

    @app.get(f"{BASE}/<name>")
    @hide
    @public
    async def problem_page(name: str) -> Response:
        if name not in pages:
            abort(404)
        return _page(pages[name])


def _page(content: bytes) -> Response:
    return Response(content, headers={"Content-Security-Policy": POLICY}, content_type="text/html; charset=utf-8")


def _problem_page(kind: ProblemType) -> bytes:
    return _html(
        kind.title,
        f"<h1>{escape(kind.title)}</h1><p>Type <code>{kind.type}</code>, HTTP status {kind.status}.</p>"
        f"<h2>What it means</h2><p>{_prose(kind.meaning)}</p><h2>What to do</h2><p>{_prose(kind.remedy)}</p>"
        f'<p><a href="{BASE}">All problems</a></p>',
    )


def _prose(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def _html(title: str, body: str) -> bytes:
    style = "body{font:1rem/1.5 system-ui,sans-serif;max-width:40rem;margin:3rem auto;padding:0 1rem}"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<link rel="icon" href="data:,"><style>{style}</style></head><body>{body}</body></html>'
    ).encode()
