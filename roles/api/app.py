"""The application: Quart with the parts put in that this API wants, and the routes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from inspect import CO_COROUTINE
from typing import TYPE_CHECKING, Any, cast

import quart
from quart import Quart, Response
from quart.sessions import NullSession, SessionInterface
from quart_cors import cors
from quart_schema import Info, QuartSchema, Server
from werkzeug.exceptions import NotFound
from werkzeug.routing import IntegerConverter, Map, MapAdapter, ValidationError

from roles.api import idempotency
from roles.api.access import Access, access_rules
from roles.api.connection import Connection
from roles.api.docs import add_docs, add_problem_pages
from roles.api.errors import problem_for
from roles.api.guard import admit, guard
from roles.api.limits import Limiter
from roles.api.openapi import OpenAPI
from roles.api.pages import EXTENSION, Cursors
from roles.api.replies import problem_reply
from roles.api.request import Request
from roles.api.routes import ROUTES
from roles.clock import Clock, SystemClock
from roles.web.gate import STATE_KEY
from schema.settings import Settings

if TYPE_CHECKING:
    from quart.wrappers import BaseRequestWebsocket

PREFIX = "/api/v1"

CORS_HEADERS = ("Authorization", "Content-Type", "Idempotency-Key", "If-Match", "If-None-Match", "X-Request-Id")
CORS_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
CORS_EXPOSED = (
    "ETag",
    "Idempotency-Replayed",
    "Link",
    "Location",
    "RateLimit-Limit",
    "RateLimit-Remaining",
    "RateLimit-Reset",
    "Retry-After",
    "X-Request-Id",
)
"""What pages of `api.cors_origins` may send, and may read of a reply."""
CORS_LIFETIME = timedelta(hours=1)
"""For which a browser remembers that it may."""

INFO = Info(
    title="Rolecall",
    version="1.0.0",
    description=(
        "The example API. Every error is a problem detail (RFC 9457); its `type` leads to a page that explains it. "
        "Every reply carries an `X-Request-Id`, the caller's own if it sent one."
    ),
)


class Id(IntegerConverter):
    """`<int:…>` in routes: what fits into PostgreSQL's integer; anything greater is no id of anything.

    `<int(max=…):…>` is for a bigint. Python refuses to read more than 4,300 digits, so those do not even match.
    """

    regex = "[0-9]{1,19}"

    def __init__(self, url_map: Map, *, max: int = 2**31 - 1, **options: Any) -> None:  # noqa: A002 - its name in routes
        super().__init__(url_map, max=max, **options)

    def to_python(self, value: str) -> Any:
        try:
            return super().to_python(value)
        except ValidationError:  # which Werkzeug takes for the wrong method, where there is a rule for another one
            raise NotFound from None


class NoSessions(SessionInterface):
    """There are no cookies here."""

    _session = NullSession()

    async def open_session(self, _app: Quart, _request: BaseRequestWebsocket) -> NullSession:
        return self._session


class Api(Quart):
    """Quart, for this API."""

    asgi_http_class = Connection
    request_class = Request
    session_interface: SessionInterface = NoSessions()  # type: ignore[assignment]  # Quart names its own

    def __init__(self, settings: Settings, clock: Clock) -> None:
        super().__init__("rolecall", static_folder=None, template_folder=None)
        self.settings = settings
        self.guard = guard(settings, clock)
        self._before: dict[str | None, tuple[list[Any], list[Any]]] = {}
        """By endpoint: what is called with the values of its URL, and what before it."""
        self.access: dict[str, Access] = {}
        """By endpoint."""
        self.request_timeout = settings.api.request_timeout.total_seconds()
        self.max_in_flight = settings.api.max_in_flight
        self.in_flight = 0
        """Requests that are being handled: their bodies are here, and their replies are not ready yet."""
        self.bodies_length = 0
        """Bytes that the bodies of all requests take, beyond a little of each."""
        self.share: Callable[[Response], Awaitable[Response]] | None = None
        """Adds to a reply which pages may read it (CORS), if there are any."""
        self.url_map.converters["int"] = Id
        self.url_map.merge_slashes = False  # `//` is a path that does not exist, not one to be redirected from
        self.register_error_handler(Exception, self.answer)

    def ensure_async(self, func: Any) -> Any:
        """See Quart's, which is asked four times a request, and looks closely each time."""
        code = getattr(func, "__code__", None)
        return func if code and code.co_flags & CO_COROUTINE else super().ensure_async(func)

    def create_url_adapter(self, request: BaseRequestWebsocket | None) -> MapAdapter | None:
        """See Quart's. There are no subdomains here to be looked for."""
        if request is None:
            return super().create_url_adapter(request)
        return self.url_map.bind(
            request.host.lower(),
            request.root_path,
            "",
            request.scheme,
            request.method,
            request.path,
            request.query_string.decode(),
        )

    async def preprocess_request(self, context: Any = None) -> Any:
        """See Quart's, which puts together anew for each request what is to be called. Here it is what was registered
        when the first request came to the route.
        """
        request: Request = context.request
        endpoint = request.endpoint
        if endpoint not in self._before:
            names = [None, *reversed(request.blueprints)]
            self._before[endpoint] = (
                [function for name in names for function in self.url_value_preprocessors[name]],
                [self.ensure_async(function) for name in names for function in self.before_request_funcs[name]],
            )
        preprocessors, functions = self._before[endpoint]
        for preprocess in preprocessors:
            preprocess(endpoint, request.view_args)
        for function in functions:
            result = await function()
            if result is not None:
                return result
        return None

    async def dispatch_request(self, context: Any = None) -> Any:
        """Lets nobody come to a route who may not; see Quart's."""
        request: Request = context.request
        rule = request.url_rule
        if rule is not None and not (request.method == "OPTIONS" and rule.provide_automatic_options):
            access = self.access[rule.endpoint]
            if access.scopes is not None:
                authorization = request.sent.get(b"authorization")
                request.caller = self.guard.recall(authorization) or await self.guard.identify(authorization)
                admit(request.caller, access)
            if rule.rule.startswith(PREFIX):
                request.ensure_json_is_acceptable()
            if request.method == "POST" and idempotency.FIELD in request.sent:
                return await idempotency.once(request, partial(super().dispatch_request, context))
        return await super().dispatch_request(context)

    async def answer(self, error: Exception) -> Response:
        """The problem that an exception of a route, or of Quart itself, is answered with."""
        request = quart.request
        problem, headers = problem_for(error, debug=self.settings.debug)
        return problem_reply(problem, request.path, request.scope["state"].get(STATE_KEY), headers)


def create_app(settings: Settings, clock: Clock | None = None) -> Api:
    """The application with all routes; with `debug` or `api.docs` also its documentation.

    Raises:
        ConfigurationError: a route does not say who may call it.
    """
    app = Api(settings, clock or SystemClock())
    QuartSchema(
        app,
        openapi_path=None,
        redoc_ui_path=None,
        scalar_ui_path=None,
        swagger_ui_path=None,
        info=INFO,
        servers=[Server(url="/")],  # where the document is, whatever the host is called
        conversion_preference="pydantic",
        openapi_provider_class=OpenAPI,
    )
    app.extensions[EXTENSION] = Cursors(settings)
    Limiter(app)
    if origins := settings.api.cors_origins:
        cors(
            app,
            allow_origin=origins,
            allow_headers=CORS_HEADERS,
            allow_methods=CORS_METHODS,
            expose_headers=CORS_EXPOSED,
            max_age=CORS_LIFETIME,
        )
        app.share = cast("Callable[[Response], Awaitable[Response]]", app.after_request_funcs[None][-1])
    app.make_response = _unless_made(app.make_response)  # type: ignore[method-assign]
    for blueprint in ROUTES:
        app.register_blueprint(blueprint, url_prefix=f"{PREFIX}{blueprint.url_prefix}")
    add_problem_pages(app)
    if settings.debug or settings.api.docs:
        add_docs(app)
    app.access = access_rules(app)
    return app


def _unless_made(convert: Any) -> Any:
    """quart-schema looks closely at all that a route returns; at a `Response` there is nothing for it to find."""

    async def make_response(result: object) -> object:
        return result if type(result) is Response else await convert(result)

    return make_response
