"""A request decodes its headers late, and says the same of them as Quart's own would."""

from __future__ import annotations

from typing import Any

import pytest
import quart
from quart import Blueprint, request
from quart.routing import QuartRule
from werkzeug.datastructures import Headers

from roles.api.app import Api
from roles.api.request import NOT_DECODED, Request
from roles.clock import SystemClock
from schema.settings import Settings

Sent = list[tuple[bytes, bytes]]

ADDRESS = "192.0.2.7"


async def no_push(_path: str, _headers: Headers) -> None: ...


def request_of(kind: type[quart.Request], sent: Sent, headers: Headers) -> quart.Request:
    scope: Any = {"type": "http", "headers": sent, "server": ("192.0.2.1", 8000)}
    request = kind("GET", "http", "/", b"", headers, "", "1.1", scope, send_push_promise=no_push)
    request.remote_addr = ADDRESS
    return request


@pytest.mark.anyio
@pytest.mark.parametrize(
    "sent",
    [
        [],
        [(b"host", b"example.com")],
        [(b"host", b"example.com:80"), (b"content-length", b"12")],
        [(b"host", b"ex\xe4mple.com"), (b"x-name", b"J\xf6rg")],
        [(b"host", b"a b"), (b"content-length", b"-1")],
        [(b"host", b""), (b"content-length", b"x")],
        [(b"host", b"[2001:db8::1]:8000"), (b"transfer-encoding", b"chunked")],
        [(b"content-length", b"3"), (b"transfer-encoding", b"chunked"), (b"host", b"first"), (b"host", b"second")],
        [(b"accept", b"a"), (b"x-twice", b"1"), (b"accept", b"b"), (b"x-twice", b"2")],
    ],
)
async def test_what_was_sent_is_understood_as_quart_does(sent: Sent) -> None:
    eager = Headers(
        [("Remote-Addr", ADDRESS), *((name.decode("latin1"), value.decode("latin1")) for name, value in sent)]
    )
    theirs, ours = request_of(quart.Request, sent, eager), request_of(Request, sent, NOT_DECODED)
    assert ours.content_length == theirs.content_length
    assert ours.host == theirs.host
    assert list(ours.headers) == list(theirs.headers)
    assert ours.headers.getlist("X-Twice") == theirs.headers.getlist("X-Twice")
    assert ours.headers is ours.headers


@pytest.mark.anyio
async def test_headers_that_it_is_made_with_are_its_headers() -> None:
    headers = Headers([("X-Name", "Ada")])
    assert request_of(Request, [], headers).headers is headers


@pytest.mark.anyio
@pytest.mark.parametrize("endpoint", [None, "alone", "students.get", "outer.inner.get"])
async def test_it_knows_the_blueprints_that_it_is_in(endpoint: str | None) -> None:
    theirs, ours = request_of(quart.Request, [], Headers()), request_of(Request, [], Headers())
    if endpoint is not None:
        theirs.url_rule = ours.url_rule = QuartRule("/", endpoint=endpoint)
    assert ours.blueprints == theirs.blueprints


@pytest.mark.anyio
async def test_what_is_registered_to_be_called_before_a_request_is_called_in_order() -> None:
    app = Api(Settings(), SystemClock())
    called: list[object] = []
    outer, inner, other = (Blueprint(name, name, url_prefix=f"/{name}") for name in ("outer", "inner", "other"))
    for owner in (app, outer, inner, other):
        owner.url_value_preprocessor(
            lambda endpoint, values, name=owner.name: called.append((name, endpoint, values))
        )

        async def before(name: str = owner.name) -> str | None:
            called.append(name)
            return "enough" if request.args.get("enough") == name else None

        owner.before_request(before)

    @inner.get("/<int:number>")
    async def get(number: int) -> str:
        return str(number)

    outer.register_blueprint(inner)
    app.register_blueprint(outer)
    app.register_blueprint(other)
    values = ("outer.inner.get", {"number": 7})
    expected = [("rolecall", *values), ("outer", *values), ("inner", *values), "rolecall", "outer", "inner"]
    for query, result, calls in (("", None, expected), ("?enough=outer", "enough", expected[:-1])):
        async with app.test_request_context(f"/outer/inner/7{query}") as context:
            assert await app.preprocess_request(context) == result
        assert called == calls
        called.clear()
