"""`Request`: Quart's, with its caller, and with JSON that is parsed strictly."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, Final, cast

import quart
from pydantic_core import from_json
from werkzeug.datastructures import Headers
from werkzeug.exceptions import BadRequest, NotAcceptable, UnsupportedMediaType
from werkzeug.sansio.utils import get_content_length, get_host

from roles.api.callers import ANYBODY, Caller

if TYPE_CHECKING:
    from roles.api.limits import Limit

NOT_DECODED: Final = Headers()
"""What a request is made with whose headers are those of its scope."""

_TAKES_JSON = frozenset({b"*/*", b"application/json"})
"""What nearly all clients send as `Accept`."""


class Request(quart.Request):
    """A request whose body has been read before it is dispatched (see `roles.api.connection`)."""

    caller: Caller = ANYBODY
    """Who sent it. `caller()` says it in a route."""

    rate: tuple[Limit, float] | None = None
    """A limit that it was counted for, and when a next one would be in time for that (`roles.api.limits`)."""

    _headers: Headers = NOT_DECODED

    _routing_exception: Exception | None = None

    @property
    def headers(self) -> Headers:
        """Decoded when somebody asks for them; what every request is asked is asked of `sent`."""
        if self._headers is NOT_DECODED:
            address = [("Remote-Addr", self.remote_addr or "<local>")]
            sent = [(name.decode("latin1"), value.decode("latin1")) for name, value in self.scope["headers"]]
            self._headers = Headers([*address, *sent])
        return self._headers

    @headers.setter
    def headers(self, headers: Headers) -> None:
        self._headers = headers

    @cached_property
    def content_length(self) -> int | None:
        length = self._sent(b"content-length")
        return None if length is None else get_content_length(length, self._sent(b"transfer-encoding"))

    @cached_property
    def host(self) -> str:
        return get_host(self.scheme, self._sent(b"host"), self.server, self.trusted_hosts)

    @property
    def routing_exception(self) -> Exception | None:
        """Why no route was found, without the way there.

        That leads back to the request, and what leads to itself lives on until the garbage collector comes, and with
        it whatever holds the client's connection.
        """
        return self._routing_exception

    @routing_exception.setter
    def routing_exception(self, error: Exception | None) -> None:
        if error is not None:
            error.__traceback__ = error.__context__ = None
        self._routing_exception = error

    @cached_property
    def sent(self) -> Mapping[bytes, bytes]:
        """The headers as they came, names in lower case, the first of each name: one look into them costs nothing.

        Werkzeug's own headers compare each name with each, and raise an error inside for one that is not there.
        """
        return dict(reversed([*self.scope["headers"]]))

    def _sent(self, name: bytes) -> str | None:
        value = self.sent.get(name)
        return None if value is None else value.decode("latin1")

    @property
    def blueprints(self) -> list[str]:  # Quart works it out three times a request
        return [] if self.url_rule is None else _blueprints_of(self.url_rule.endpoint)

    def ensure_json_is_acceptable(self) -> None:
        """Sees to it that the client takes what all routes answer with.

        Raises:
            NotAcceptable: it does not.
        """
        accept = self.sent.get(b"accept")
        if accept and accept not in _TAKES_JSON and not self.accept_mimetypes["application/json"]:
            raise NotAcceptable

    async def get_json(self, force: bool = False, silent: bool = False, cache: bool = True) -> Any:  # noqa: ARG002, FBT001, FBT002 - Quart's signature
        """The body's JSON. pydantic's parser bounds nesting, which Python's answers with a RecursionError.

        Raises:
            UnsupportedMediaType: the body is not said to be JSON, or is compressed.
            BadRequest: it is not JSON; the description says where.
        """
        if not (force or self.is_json):
            raise UnsupportedMediaType(f"The body is {self.mimetype or 'of no declared type'}, not application/json.")
        if self.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise UnsupportedMediaType("The body is compressed, and this API takes it as it is.")
        try:
            return from_json(await self.body, allow_inf_nan=False)
        except ValueError as error:
            if silent:
                return None
            raise BadRequest(f"The body is not JSON: {error}.") from None


def caller() -> Caller:
    """Who sent the request that is being handled."""
    return cast("Request", quart.request).caller


@cache
def _blueprints_of(endpoint: str) -> list[str]:
    """The names of those that it is in, the innermost first."""
    names = []
    while endpoint := endpoint.rpartition(".")[0]:
        names.append(endpoint)
    return names
